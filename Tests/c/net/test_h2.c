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
        .reset_burst = 1000000,
        .reset_rate = 1000000,
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
    CHECK(cn_h2_respond(server.h2, server.stream, &response, true) == CN_OK);
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
    CHECK(cn_h2_respond(server.h2, server.stream, &response, false) == CN_OK);
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
    CHECK(cn_h2_respond(server.h2, server.stream, &response, true) == CN_OK);
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

int main(void)
{
    exchange(1);
    exchange(13);
    exchange(1 << 20);
    flow_control();
    resets_and_drain();
    early_answer_stops_the_upload();
    destroyed_with_streams_open();
    return 0;
}
