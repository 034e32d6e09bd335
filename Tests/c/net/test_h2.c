/* The HTTP/2 codec: a client and a server talk through memory, in pieces of any size. */
#include <string.h>

#include "check.h"
#include "h2.h"

typedef struct side {
    cn_h2 *h2;
    cn_h2_stream *stream;
    bool is_client;
    uint32_t status;
    char path[32];
    char fields[64];
    size_t body_count;
    uint8_t body_sum;
    bool ended;
    char trailer[32];
    int closed_count;
    cn_status closed;
    int heads;
} side;

static void copy(char *to, size_t room, const uint8_t *bytes, size_t count)
{
    CHECK(count < room);
    if (count > 0)
        memcpy(to, bytes, count);
    to[count] = 0;
}

static void on_head(void *user, cn_h2_stream *stream, const cn_head *head)
{
    side *side = user;
    side->stream = stream;
    side->heads++;
    stream->user = side;
    side->status = head->status;
    copy(side->path, sizeof side->path, head->target.data, head->target.count);
    size_t used = 0;
    for (size_t i = 0; i < head->field_count; i++) {
        const cn_field *field = &head->fields[i];
        used += (size_t)snprintf(side->fields + used, sizeof side->fields - used, "%.*s=%.*s ",
                                 (int)field->name_count, head->bytes + field->name_offset,
                                 (int)field->value_count, head->bytes + field->value_offset);
        CHECK(used < sizeof side->fields);
    }
}

static void on_body(void *user, cn_h2_stream *stream, const uint8_t *bytes, size_t count)
{
    (void)stream;
    side *side = user;
    side->body_count += count;
    for (size_t i = 0; i < count; i++)
        side->body_sum = (uint8_t)(side->body_sum * 31 + bytes[i]);
}

static void on_ended(void *user, cn_h2_stream *stream, const cn_head *trailers)
{
    (void)stream;
    side *side = user;
    side->ended = true;
    if (trailers != NULL)
        copy(side->trailer, sizeof side->trailer, trailers->bytes, trailers->bytes_count);
}

static void on_closed(void *user, cn_h2_stream *stream, cn_status status)
{
    (void)stream;
    side *side = user;
    side->stream = NULL;
    side->closed_count++;
    side->closed = status;
}

static void open_side(side *side, bool is_client)
{
    static const cn_h2_events events = {on_head, on_body, on_ended, on_closed};
    const cn_h2_config config = {
        .is_client = is_client,
        .max_head_bytes = 4096,
        .stream_window_bytes = 100000,
        .max_stream_count = 10,
    };
    *side = (struct side){.is_client = is_client};
    CHECK(cn_h2_create(&config, &events, side, &side->h2) == CN_OK);
}

/* Carries what one side has to say to the other. */
static size_t carry(side *from, side *to, size_t step)
{
    cn_bytes wire = {0};
    CHECK(cn_h2_send(from->h2, &wire, 1 << 16) == CN_OK);
    size_t count = cn_bytes_count(&wire);
    for (size_t at = 0; at < count; at += step) {
        size_t piece_count = count - at < step ? count - at : step;
        uint8_t *piece = malloc(piece_count);
        memcpy(piece, cn_bytes_front(&wire) + at, piece_count);
        CHECK(cn_h2_receive(to->h2, piece, piece_count) == CN_OK);
        free(piece);
    }
    cn_bytes_free(&wire);
    return count;
}

static void talk(side *client, side *server, size_t step)
{
    while (carry(client, server, step) + carry(server, client, step) > 0)
        ;
}

static const cn_head request = {
    .method = {(const uint8_t *)"POST", 4},
    .target = {(const uint8_t *)"/p", 2},
    .authority = {(const uint8_t *)"h", 1},
};
static const char trailer_bytes[] = "X-Sum9";
static const cn_field trailer_field = {0, 5, 5, 1};
static const cn_head trailers = {
    .bytes = (const uint8_t *)trailer_bytes,
    .fields = &trailer_field,
    .bytes_count = 6,
    .field_count = 1,
};

static void exchange(size_t step)
{
    side client, server;
    open_side(&client, true);
    open_side(&server, false);
    cn_h2_stream *stream;
    CHECK(cn_h2_request(client.h2, &request, "http", true, &client, &stream) == CN_OK);
    static uint8_t body[300000];
    uint8_t sum = 0;
    for (size_t i = 0; i < sizeof body; i++) {
        body[i] = (uint8_t)(i * 7);
        sum = (uint8_t)(sum * 31 + body[i]);
    }
    cn_h2_write(client.h2, stream, body, sizeof body);
    cn_h2_finish(client.h2, stream, NULL);
    talk(&client, &server, step);
    CHECK(strcmp(server.path, "/p") == 0 && server.ended);
    CHECK(server.body_count == sizeof body && server.body_sum == sum);
    const cn_head response = {.status = 200};
    CHECK(cn_h2_respond(server.h2, server.stream, &response, true, (cn_span){0}) == CN_OK);
    cn_h2_write(server.h2, server.stream, body, 10);
    cn_h2_finish(server.h2, server.stream, &trailers);
    talk(&client, &server, step);
    CHECK(client.status == 200 && client.ended && client.body_count == 10);
    CHECK(strcmp(client.trailer, "x-sum9") == 0);
    CHECK(client.closed_count == 1 && client.closed == CN_OK);
    CHECK(server.closed_count == 1 && server.closed == CN_OK);
    CHECK(cn_h2_stream_count(client.h2) == 0 && cn_h2_stream_count(server.h2) == 0);
    CHECK(cn_h2_capacity(client.h2) == 10);
    cn_h2_destroy(client.h2);
    cn_h2_destroy(server.h2);
}

/* A paused stream gets its window and not a byte more, until it is resumed. */
static void flow_control(void)
{
    side client, server;
    open_side(&client, true);
    open_side(&server, false);
    cn_h2_stream *stream;
    CHECK(cn_h2_request(client.h2, &request, "http", true, &client, &stream) == CN_OK);
    talk(&client, &server, 1 << 20);
    cn_h2_pause(server.stream);
    static uint8_t body[1 << 20];
    cn_h2_write(client.h2, stream, body, sizeof body);
    cn_h2_finish(client.h2, stream, NULL);
    talk(&client, &server, 1 << 20);
    CHECK(server.body_count == 100000 && !server.ended);
    cn_h2_resume(server.h2, server.stream);
    talk(&client, &server, 1 << 20);
    CHECK(server.body_count == sizeof body && server.ended);
    cn_h2_destroy(client.h2);
    cn_h2_destroy(server.h2);
}

static void resets_and_drain(void)
{
    side client, server;
    open_side(&client, true);
    open_side(&server, false);
    for (int i = 0; i < 3000; i++) {
        cn_h2_stream *stream;
        CHECK(cn_h2_request(client.h2, &request, "http", true, &client, &stream) == CN_OK);
        talk(&client, &server, 1 << 20);
        cn_h2_reset(client.h2, stream);
        talk(&client, &server, 1 << 20);
        CHECK(server.closed_count == i + 1 && server.closed == CN_RESET);
    }
    cn_h2_stream *stream;
    CHECK(cn_h2_request(client.h2, &request, "http", false, &client, &stream) == CN_OK);
    talk(&client, &server, 1 << 20);
    cn_h2_drain(server.h2);
    talk(&client, &server, 1 << 20);
    CHECK(cn_h2_capacity(client.h2) == 0);
    CHECK(!cn_h2_is_over(server.h2));
    const cn_head response = {.status = 204};
    CHECK(cn_h2_respond(server.h2, server.stream, &response, false, (cn_span){0}) == CN_OK);
    talk(&client, &server, 1 << 20);
    CHECK(client.closed == CN_OK && client.status == 204);
    CHECK(cn_h2_is_over(server.h2) && cn_h2_is_over(client.h2));
    cn_h2_destroy(client.h2);
    cn_h2_destroy(server.h2);
}

static void early_answer_stops_the_upload(void)
{
    side client, server;
    open_side(&client, true);
    open_side(&server, false);
    cn_h2_stream *stream;
    CHECK(cn_h2_request(client.h2, &request, "http", true, &client, &stream) == CN_OK);
    talk(&client, &server, 1 << 20);
    const cn_head response = {.status = 413};
    CHECK(cn_h2_respond(server.h2, server.stream, &response, true, (cn_span){0}) == CN_OK);
    cn_h2_finish(server.h2, server.stream, NULL);
    talk(&client, &server, 1 << 20);
    CHECK(client.status == 413 && client.closed_count == 1 && client.closed == CN_OK);
    CHECK(server.closed_count == 1 && server.closed == CN_OK);
    cn_h2_destroy(client.h2);
    cn_h2_destroy(server.h2);
}

static void destroyed_with_streams_open(void)
{
    side client, server;
    open_side(&client, true);
    open_side(&server, false);
    cn_h2_stream *stream;
    CHECK(cn_h2_request(client.h2, &request, "http", true, &client, &stream) == CN_OK);
    cn_h2_write(client.h2, stream, (const uint8_t *)"abc", 3);
    talk(&client, &server, 7);
    cn_h2_write(client.h2, stream, (const uint8_t *)"abc", 3);
    cn_h2_drop(client.h2, stream, CN_RESET);
    CHECK(client.closed == CN_RESET);
    cn_h2_destroy(client.h2);
    cn_h2_destroy(server.h2);
}

/* ---- clients that break rules, by hand-made frames */

enum { HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, CONTINUATION = 9 };
enum { END_STREAM = 1, END_HEADERS = 4 };
enum { PROTOCOL_ERROR = 1 };

static void add_frame(cn_bytes *wire, uint8_t type, uint8_t flags, uint8_t stream,
                      const char *payload, size_t count)
{
    const uint8_t head[] = {(uint8_t)(count >> 16), (uint8_t)(count >> 8), (uint8_t)count, type,
                            flags, 0, 0, 0, stream};
    cn_bytes_append(wire, head, sizeof head);
    cn_bytes_append(wire, payload, count);
}

/* The error that the last frame of a type carries in its last four bytes; -1 without one. */
static int64_t error_of(const cn_bytes *wire, uint8_t type)
{
    const uint8_t *at = cn_bytes_front(wire), *end = at + cn_bytes_count(wire);
    int64_t error = -1;
    while (end - at >= 9) {
        const uint8_t *next = at + 9 + (at[0] << 16 | at[1] << 8 | at[2]);
        if (at[3] == type)
            error = next[-1];
        at = next;
    }
    return error;
}

/* What a fresh server makes of frames that come at once. Its answer is appended to `answer`. */
static cn_status give(side *server, const cn_bytes *frames, cn_bytes *answer)
{
    cn_bytes wire = {0};
    open_side(server, false);
    cn_bytes_append_text(&wire, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    add_frame(&wire, SETTINGS, 0, 0, NULL, 0);
    cn_bytes_append(&wire, cn_bytes_front(frames), cn_bytes_count(frames));
    cn_status status = cn_h2_receive(server->h2, cn_bytes_front(&wire), cn_bytes_count(&wire));
    cn_status sent = cn_h2_send(server->h2, answer, 1 << 20);
    cn_bytes_free(&wire);
    return status == CN_OK ? sent : status;
}

/* GET / of http and authority a, in HPACK, and what follows. */
#define GET "\x82\x84\x86\x41\x01" "a"

static void malformed_requests_are_reset(void)
{
    static const struct {
        const char *fields;
        size_t count;
        bool is_good;
    } cases[] = {
        {GET, sizeof GET - 1, true},
        {GET "\x00\x01x\x01y", sizeof GET - 1 + 5, true},
        {GET "\x00\x01x\x01\n", sizeof GET - 1 + 5, false},            /* LF in a value */
        {GET "\x00\x01X\x01y", sizeof GET - 1 + 5, false},             /* upper case */
        {GET "\x00\x02x \x01y", sizeof GET - 1 + 6, false},            /* blank in a name */
        {GET "\x00\x02te\x01y", sizeof GET - 1 + 6, false},            /* te but trailers */
        {GET "\x00\x0a" "connection\x01y", sizeof GET - 1 + 14, false}, /* of HTTP/1 */
        {"\x82\x44\x04" "/a b\x86", 8, false},                         /* blank in the path */
        {"\x82\x44\x03" "/\xc3\xa4\x86", 7, false},                    /* not ASCII */
        {"\x82\x44\x01*\x86", 5, false},                              /* asterisk of GET */
        {"\x82\x44\x01x\x46\x03" "foo", 9, false},                    /* no slash */
        {"\x82\x84\x86\x41\x03" "a@b", 8, false},                     /* user information */
        {"\x42\x07" "CONNECT\x41\x01" "a", 12, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        side server;
        cn_bytes frames = {0}, answer = {0};
        add_frame(&frames, HEADERS, END_HEADERS | END_STREAM, 1, cases[i].fields, cases[i].count);
        CHECK(give(&server, &frames, &answer) == CN_OK);
        CHECK(server.heads == (cases[i].is_good ? 1 : 0));
        CHECK(error_of(&answer, RST_STREAM) == (cases[i].is_good ? -1 : PROTOCOL_ERROR));
        CHECK(error_of(&answer, GOAWAY) == -1 && cn_h2_open_head(server.h2) == 0);
        cn_h2_destroy(server.h2);
        cn_bytes_free(&frames);
        cn_bytes_free(&answer);
    }
}

static void floods_are_refused(void)
{
    static const uint8_t types[] = {SETTINGS, PING};
    for (size_t i = 0; i < 2; i++) {
        side server;
        cn_bytes frames = {0}, answer = {0};
        for (int j = 0; j < 2000; j++)
            add_frame(&frames, types[i], 0, 0, "12345678", types[i] == PING ? 8 : 0);
        CHECK(give(&server, &frames, &answer) == CN_PROTOCOL);
        cn_h2_destroy(server.h2);
        cn_bytes_free(&frames);
        cn_bytes_free(&answer);
    }
    /* A head without end: as long as it is taken, no more of it is kept than may be. */
    side server;
    cn_bytes frames = {0}, answer = {0};
    static char fields[16000];
    for (size_t i = 0; i < sizeof fields; i += 5)
        memcpy(fields + i, "\x00\x01x\x01y", 5);
    add_frame(&frames, HEADERS, END_STREAM, 1, GET, sizeof GET - 1);
    for (int i = 0; i < 100; i++)
        add_frame(&frames, CONTINUATION, 0, 1, fields, sizeof fields);
    CHECK(give(&server, &frames, &answer) == CN_PROTOCOL);
    CHECK(server.heads == 0);
    cn_h2_destroy(server.h2);
    cn_bytes_free(&frames);
    cn_bytes_free(&answer);
}

static void cookies_become_one(void)
{
    static const char fields[] = GET "\x60\x03" "a=b\x00\x01x\x01y\x60\x03" "c=d";
    side server;
    cn_bytes frames = {0}, answer = {0};
    add_frame(&frames, HEADERS, END_HEADERS | END_STREAM, 1, fields, sizeof fields - 1);
    CHECK(give(&server, &frames, &answer) == CN_OK);
    CHECK(strcmp(server.fields, "cookie=a=b; c=d x=y ") == 0);
    cn_h2_destroy(server.h2);
    cn_bytes_free(&frames);
    cn_bytes_free(&answer);
}

int main(void)
{
    exchange(1);
    exchange(13);
    exchange(1 << 20);
    flow_control();
    resets_and_drain();
    early_answer_stops_the_upload();
    destroyed_with_streams_open();
    malformed_requests_are_reset();
    floods_are_refused();
    cookies_become_one();
    return 0;
}
