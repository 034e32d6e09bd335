/* The HTTP/2 codec under any input, on either side. */
#include <string.h>

#include "h2.h"

static cn_h2 *h2;

static void on_head(void *user, cn_h2_stream *stream, const cn_head *head)
{
    stream->user = user;
    uint8_t sum = 0;
    for (size_t i = 0; head != NULL && i < head->bytes_count; i++)
        sum ^= head->bytes[i];
    const cn_head response = {.status = 200u + (sum & 1) * 4};
    cn_h2_respond(h2, stream, &response, true, (cn_span){0});
    if ((sum & 2) != 0)
        cn_h2_pause(stream);
}

static void on_body(void *user, cn_h2_stream *stream, const uint8_t *bytes, size_t count)
{
    (void)user;
    if (!stream->out_finished)
        cn_h2_write(h2, stream, bytes, count);
    if (count > 0 && bytes[0] == 'r')
        cn_h2_reset(h2, stream);
}

static void on_ended(void *user, cn_h2_stream *stream, const cn_head *trailers)
{
    (void)user;
    cn_h2_resume(h2, stream);
    if (!stream->out_finished)
        cn_h2_finish(h2, stream, trailers);
}

static void on_closed(void *user, cn_h2_stream *stream, cn_status status)
{
    (void)user;
    (void)stream;
    (void)status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count)
{
    if (count < 1)
        return 0;
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    static const cn_h2_events events = {on_head, on_body, on_ended, on_closed};
    bool is_client = (data[0] & 1) != 0;
    const cn_h2_config config = {
        .is_client = is_client,
        .max_head_bytes = 1000,
        .stream_window_bytes = 65535,
        .max_stream_count = 10,
    };
    int user;
    cn_bytes out = {0};
    if (cn_h2_create(&config, &events, &user, &h2) != CN_OK)
        return 0;
    if (is_client) {
        const cn_head head = {
            .method = {(const uint8_t *)"POST", 4},
            .target = {(const uint8_t *)"/", 1},
            .authority = {(const uint8_t *)"a", 1},
        };
        cn_h2_stream *stream;
        for (int i = 0; i < 2; i++)
            cn_h2_request(h2, &head, "http", true, &user, &stream);
        cn_h2_receive(h2, (const uint8_t *)preface + 24, 9);
    } else {
        cn_h2_receive(h2, (const uint8_t *)preface, sizeof preface - 1);
    }
    size_t step = (data[0] >> 1) + 1;
    for (size_t at = 1; at < count; at += step) {
        size_t piece = count - at < step ? count - at : step;
        if (cn_h2_receive(h2, data + at, piece) != CN_OK ||
            cn_h2_send(h2, &out, 1 << 16) != CN_OK)
            break;
        cn_bytes_consume(&out, cn_bytes_count(&out));
    }
    cn_h2_destroy(h2);
    cn_bytes_free(&out);
    return 0;
}
