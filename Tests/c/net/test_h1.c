/* The HTTP/1.1 codec: whatever the pieces that input comes in, the events are the same. */
#include <string.h>

#include "check.h"
#include "h1.h"

/* What a stream of messages parses to, as text: "GET /a host=h x=1 [body] end(t=2) ". */
typedef struct trace {
    char text[4096];
    size_t used;
} trace;

static void note(trace *trace, const char *bytes, size_t count)
{
    CHECK(trace->used + count < sizeof trace->text);
    if (count > 0)
        memcpy(trace->text + trace->used, bytes, count);
    trace->used += count;
    trace->text[trace->used] = 0;
}

static void note_text(trace *trace, const char *text)
{
    note(trace, text, strlen(text));
}

static void note_span(trace *trace, cn_span span)
{
    note(trace, (const char *)span.data, span.count);
}

static void note_fields(trace *trace, const cn_head *head)
{
    for (size_t i = 0; i < head->field_count; i++) {
        const cn_field *field = &head->fields[i];
        note_text(trace, " ");
        note(trace, (const char *)head->bytes + field->name_offset, field->name_count);
        note_text(trace, "=");
        note(trace, (const char *)head->bytes + field->value_offset, field->value_count);
    }
}

static void note_head(trace *trace, const cn_h1 *h1)
{
    const cn_head *head = &h1->head;
    if (h1->is_response) {
        char status[8];
        snprintf(status, sizeof status, "%u", head->status);
        note_text(trace, status);
    } else {
        note_span(trace, head->method);
        note_text(trace, " ");
        note_span(trace, head->target);
        note_text(trace, " host=");
        note_span(trace, head->authority);
    }
    note_fields(trace, head);
    note_text(trace, h1->keep_alive ? " keep [" : " close [");
}

static cn_status run(bool is_response, bool without_body, const char *input, size_t count,
                     size_t step, bool ends, trace *trace)
{
    static cn_field fields[256];
    cn_h1 h1;
    cn_h1_init(&h1, is_response, 1000);
    h1.without_body = without_body;
    cn_status status = CN_OK;
    for (size_t at = 0; at < count && status == CN_OK; at += step) {
        /* A copy of the right size: reading past it is seen by the sanitizer. */
        size_t piece_count = count - at < step ? count - at : step;
        uint8_t *piece = malloc(piece_count);
        memcpy(piece, input + at, piece_count);
        const uint8_t *bytes = piece;
        size_t left = piece_count;
        cn_h1_event event = CN_H1_HEAD;
        while (event != CN_H1_NEED_MORE || left > 0) {
            status = cn_h1_next(&h1, &bytes, &left, fields, 256, &event);
            if (status != CN_OK)
                break;
            if (event == CN_H1_HEAD)
                note_head(trace, &h1);
            if (event == CN_H1_BODY)
                note_span(trace, h1.body);
            if (event == CN_H1_END) {
                note_text(trace, "]");
                note_fields(trace, &h1.head);
                note_text(trace, "\n");
                cn_h1_next_message(&h1);
                h1.without_body = without_body;
            }
        }
        free(piece);
    }
    if (status == CN_OK && ends) {
        status = cn_h1_end_of_input(&h1);
        if (status == CN_OK && h1.state == CN_H1_AT_END)
            note_text(trace, "]\n");
    }
    cn_h1_free(&h1);
    return status;
}

static void expect(bool is_response, bool without_body, const char *input, const char *expected,
                   cn_status expected_status)
{
    for (size_t step = 1; step <= strlen(input); step++) {
        trace trace = {0};
        cn_status status = run(is_response, without_body, input, strlen(input), step, true, &trace);
        if (status != expected_status || strcmp(trace.text, expected) != 0) {
            fprintf(stderr, "step %zu\n%s\n-> %d\n%s\ninstead of %d\n%s\n", step, input, status,
                    trace.text, expected_status, expected);
            exit(1);
        }
    }
}

static void requests(void)
{
    expect(false, false, "GET /a?b HTTP/1.1\r\nHost: h:1\r\nX:  y z \r\n\r\n",
           "GET /a?b host=h:1 X=y z keep []\n", CN_OK);
    expect(false, false, "\r\nGET / HTTP/1.1\r\nhost:h\r\nconnection: Keep-Alive, close\r\n\r\n",
           "GET / host=h close []\n", CN_OK);
    expect(false, false,
           "GET / HTTP/1.1\r\nHost: h\r\nX-Mine: 1\r\nY: 2\r\nConnection: x-mINE ,close\r\n\r\n",
           "GET / host=h Y=2 close []\n", CN_OK);
    expect(false, false,
           "GET / HTTP/1.1\r\nHost: h\r\nConnection: a\r\nA: 1\r\nB: 2\r\nConnection: ,b\r\n\r\n",
           "GET / host=h keep []\n", CN_OK);
    expect(false, false,
           "GET / HTTP/1.1\r\nHost: h\r\nConnection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q\r\n\r\n", "",
           CN_PROTOCOL);
    expect(false, false, "GET / HTTP/1.0\r\n\r\n", "GET / host= close []\n", CN_OK);
    expect(false, false, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
           "GET / host= keep []\n", CN_OK);
    expect(false, false, "GET http://x:2/p HTTP/1.1\r\nHost: y\r\n\r\n",
           "GET /p host=x:2 keep []\n", CN_OK);
    expect(false, false, "OPTIONS * HTTP/1.1\r\nHost: y\r\n\r\n", "OPTIONS * host=y keep []\n",
           CN_OK);
    expect(false, false,
           "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: "
           "h\r\n\r\n",
           "POST / host=h Content-Length=3 keep [abc]\nGET /2 host=h keep []\n", CN_OK);
    expect(false, false,
           "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n"
           "3\r\nabc\r\n00A;ext=\"v\"\r\n0123456789\r\n0\r\nT: 1\r\nU: 2\r\n\r\n",
           "POST / host=h keep [abc0123456789] T=1 U=2\n", CN_OK);
    expect(false, false, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab",
           "POST / host=h Content-Length=3 keep [ab", CN_CLOSED);
    expect(false, false, "GET / HTT", "", CN_CLOSED);
    expect(false, false, "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", "", CN_PROTOCOL);
    expect(false, false, "GET / HTTP/1.1\r\nHost: h\nX: a\r\n\r\n", "", CN_PROTOCOL);
}

static void responses(void)
{
    expect(true, false, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
           "200 Content-Length=2 keep [hi]\n", CN_OK);
    expect(true, false, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204\r\n\r\n",
           "100 keep [204 keep []\n", CN_OK);
    expect(true, false, "HTTP/1.1 200 OK\r\n\r\nto the end", "200 close [to the end]\n", CN_OK);
    expect(true, true, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n",
           "200 Content-Length=20 keep []\n", CN_OK);
    expect(true, false, "HTTP/1.1 304 Not Modified\r\nContent-Length: 20\r\n\r\n",
           "304 Content-Length=20 keep []\n", CN_OK);
    expect(true, false, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
           "200 keep [x", CN_CLOSED);
    expect(true, false, "HTTP/1.1 2x0 OK\r\n\r\n", "", CN_PROTOCOL);
}

static void limits(void)
{
    /* A head of exactly the limit passes; one byte more does not. */
    for (int excess = 0; excess < 2; excess++) {
        char input[1100];
        int begin = snprintf(input, sizeof input, "GET / HTTP/1.1\r\nHost: h\r\nX: ");
        memset(input + begin, 'x', sizeof input - (size_t)begin);
        memcpy(input + 996 + excess, "\r\n\r\n", 4);
        for (size_t step = 1; step < 1002; step += 50) {
            trace trace = {0};
            cn_status status = run(false, false, input, 1000 + (size_t)excess, step, true, &trace);
            CHECK(status == (excess == 0 ? CN_OK : CN_HEAD_TOO_LARGE));
        }
    }
    /* Too large comes before what is wrong behind the limit. */
    char input[1100];
    memset(input, 'x', sizeof input);
    memcpy(input, "GET / HTTP/1.1\r\nX: ", 19);
    input[1050] = '\n';
    for (size_t step = 1; step <= sizeof input; step += 157) {
        trace trace = {0};
        CHECK(run(false, false, input, sizeof input, step, true, &trace) == CN_HEAD_TOO_LARGE);
    }
    /* A head of 256 fields passes; one field more does not. */
    static const char head[] = "GET / HTTP/1.1\r\nHost:h\r\n";
    for (int excess = 0; excess < 2; excess++) {
        static char input[4096];
        size_t used = (size_t)snprintf(input, sizeof input, "%s", head);
        for (int i = 0; i < 256 + excess; i++)
            used += (size_t)snprintf(input + used, sizeof input - used, "a:\r\n");
        used += (size_t)snprintf(input + used, sizeof input - used, "\r\n");
        cn_field fields[256];
        cn_h1 h1;
        cn_h1_init(&h1, false, 8192);
        const uint8_t *bytes = (const uint8_t *)input;
        cn_h1_event event;
        CHECK(cn_h1_next(&h1, &bytes, &used, fields, 256, &event) ==
              (excess == 0 ? CN_OK : CN_HEAD_TOO_LARGE));
        cn_h1_free(&h1);
    }
}

static void writers(void)
{
    static const char bytes[] = "X-Aone\r\ntwoConnectioncloseContent-Length99bad nameb";
    static const cn_field fields[] = {
        {0, 3, 3, 8}, {11, 10, 21, 5}, {26, 14, 40, 2}, {42, 8, 50, 1}};
    const cn_head head = {
        .method = {(const uint8_t *)"PUT", 3},
        .target = {(const uint8_t *)"/a b", 4},
        .authority = {(const uint8_t *)"h:1", 3},
        .status = 201,
        .bytes = (const uint8_t *)bytes,
        .fields = fields,
        .bytes_count = sizeof bytes - 1,
        .field_count = 4,
    };
    const cn_span date = {(const uint8_t *)"now", 3};
    cn_bytes out = {0};
    cn_h1_write_request(&out, &head, 7);
    cn_bytes_append(&out, "|", 1);
    cn_h1_write_response(&out, &head, CN_H1_KEEP_LENGTH, false, CN_HTTP_1_1, date);
    cn_bytes_append(&out, "|", 1);
    cn_h1_write_last_chunk(&out, NULL);
    cn_bytes_append(&out, "", 1);
    CHECK(strcmp((const char *)cn_bytes_front(&out),
                 "PUT /a_b HTTP/1.1\r\nhost: h:1\r\nX-A: one  two\r\ncontent-length: 7\r\n\r\n|"
                 "HTTP/1.1 201 Created\r\nX-A: one  two\r\nContent-Length: 99\r\n"
                 "date: now\r\nconnection: close\r\n\r\n|0\r\n\r\n") == 0);
    cn_bytes_free(&out);
    char line[CN_H1_SIZE_LINE];
    CHECK(cn_h1_size_line(line, 0x1f0) == 5 && memcmp(line, "1f0\r\n", 5) == 0);
    CHECK(cn_h1_size_line(line, SIZE_MAX) == CN_H1_SIZE_LINE);
}

int main(void)
{
    requests();
    responses();
    limits();
    writers();
    return 0;
}
