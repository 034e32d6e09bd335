#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "CExtProcEnds.h"
#include "protobuf.h"

enum {
    READ_BYTES = 256 << 10,
    /* What one read of a client's body may bring Envoy. */
    CHUNK_BYTES = 64 << 10,
    DEADLINE_MS = 30000,
};

typedef struct driver {
    int fd;
    nghttp2_session *session;
    cxe_bytes out;
    /* What each stream sends: the request, after its answer the response, of which an event goes
     * out when the one before came back, and its end. */
    cxe_bytes request, response, event, end;
    size_t body_bytes, response_body_bytes, event_count;
    size_t left_to_start, left_to_end;
    const char *problem;
} driver;

typedef struct stream {
    driver *driver;
    int32_t id;
    cxe_span sending;
    bool is_deferred, was_routed, has_request, has_response;
    size_t body_bytes, response_body_bytes, events_left;
    cxe_bytes in;
} stream;

/* ---- what is sent */

static void put_message(cxe_bytes *bytes, uint32_t number, cxe_bytes *content)
{
    cxe_put_prefix(bytes, cxe_field_bytes(content->count));
    cxe_put(bytes, number, cxe_rest(content));
    cxe_free(content);
}

/* HttpHeaders{headers=1: HeaderMap{headers=1: HeaderValue{key=1, raw_value=3}}}. */
static void put_headers(cxe_bytes *bytes, uint32_t number, const char *const (*fields)[2],
                        size_t count)
{
    cxe_bytes map = {0}, headers = {0};
    for (size_t i = 0; i < count; i++) {
        cxe_bytes field = {0};
        cxe_put(&field, 1, cxe_text(fields[i][0]));
        cxe_put(&field, 3, cxe_text(fields[i][1]));
        cxe_put(&map, 1, cxe_rest(&field));
        cxe_free(&field);
    }
    cxe_put(&headers, 1, cxe_rest(&map));
    cxe_free(&map);
    put_message(bytes, number, &headers);
}

/* HttpBody{body=1, end_of_stream=2}; Envoy tells the end apart from the last bytes. */
static void put_body(cxe_bytes *bytes, uint32_t number, cxe_span body)
{
    for (size_t start = 0; start < body.count; start += CHUNK_BYTES) {
        size_t left = body.count - start;
        cxe_bytes chunk = {0};
        cxe_put(&chunk, 1,
                (cxe_span){body.data + start, left < CHUNK_BYTES ? left : CHUNK_BYTES});
        put_message(bytes, number, &chunk);
    }
}

static void put_end(cxe_bytes *bytes, uint32_t number)
{
    cxe_bytes end = {0};
    cxe_put_true(&end, 2);
    put_message(bytes, number, &end);
}

static void put_exchange(driver *driver, const cxe_exchange *exchange)
{
    char length[24];
    snprintf(length, sizeof length, "%zu", exchange->body_bytes);
    const char *const request[][2] = {
        {":authority", "127.0.0.1:10000"},
        {":path", exchange->path},
        {":method", "POST"},
        {":scheme", "http"},
        {"accept", "application/json"},
        {"accept-encoding", "gzip, deflate"},
        {"user-agent", "OpenAI/Python 3.54.0"},
        {"content-type", "application/json"},
        {"content-length", length},
        {"authorization", "Bearer none"},
        {"x-forwarded-proto", "http"},
        {"x-request-id", "0f0a4c5e-3c64-4b0f-9a30-4d0a9b2a6f11"},
    };
    const char *const response[][2] = {
        {":status", "200"},
        {"server", "uvicorn"},
        {"date", "Mon, 02 Nov 2026 12:00:00 GMT"},
        {"content-type", exchange->event_count == 0 ? "application/json" : "text/event-stream"},
    };
    static const char event[] =
        "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"llmd-sim\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" hello\"},"
        "\"finish_reason\":null}]}\n\n";
    static const char answer[] =
        "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":"
        "\"llmd-sim\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
        "\" hello world\"},\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":512,"
        "\"total_tokens\":514,\"completion_tokens\":2}}";
    put_headers(&driver->request, 2, request, sizeof request / sizeof *request);
    put_body(&driver->request, 4, (cxe_span){exchange->body, exchange->body_bytes});
    put_end(&driver->request, 4);
    put_headers(&driver->response, 3, response, sizeof response / sizeof *response);
    driver->body_bytes = exchange->body_bytes;
    driver->event_count = exchange->event_count;
    put_end(&driver->end, 5);
    if (exchange->event_count == 0) {
        put_body(&driver->response, 5, cxe_text(answer));
        put_end(&driver->response, 5);
        driver->response_body_bytes = sizeof answer - 1;
        return;
    }
    put_body(&driver->event, 5, cxe_text(event));
    cxe_append(&driver->response, driver->event.data, driver->event.count);
    driver->response_body_bytes = exchange->event_count * (sizeof event - 1);
}

static ssize_t read_out(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t limit,
                        uint32_t *flags, nghttp2_data_source *source, void *user)
{
    (void)session, (void)id, (void)user;
    stream *stream = source->ptr;
    if (stream->sending.count == 0 && stream->has_response) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        return 0;
    }
    if (stream->sending.count == 0) {
        stream->is_deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    size_t count = stream->sending.count < limit ? stream->sending.count : limit;
    memcpy(bytes, stream->sending.data, count);
    stream->sending.data += count;
    stream->sending.count -= count;
    return (ssize_t)count;
}

#define FIELD(name, value) \
    {(uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, sizeof(value) - 1, \
     NGHTTP2_NV_FLAG_NONE}

static void start_stream(driver *driver)
{
    const nghttp2_nv head[] = {
        FIELD(":method", "POST"),
        FIELD(":scheme", "http"),
        FIELD(":authority", "127.0.0.1"),
        FIELD(":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"),
        FIELD("te", "trailers"),
        FIELD("content-type", "application/grpc"),
    };
    stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL)
        abort();
    stream->driver = driver;
    stream->sending = cxe_rest(&driver->request);
    const nghttp2_data_provider body = {.source.ptr = stream, .read_callback = read_out};
    stream->id = nghttp2_submit_request(driver->session, NULL, head, sizeof head / sizeof *head,
                                        &body, stream);
    driver->left_to_start--;
}

/* ---- what comes back */

/* The part of a body in a BodyResponse: response=1, body_mutation=3, streamed_response=3. */
static bool take_chunk(cxe_span response, size_t *body_bytes)
{
    cxe_span streamed = cxe_find(cxe_find(cxe_find(response, 1), 3), 3);
    bool is_last = false;
    cxe_field field;
    while (cxe_take_field(&streamed, &field)) {
        if (field.number == 1)
            *body_bytes += field.content.count;
        else if (field.number == 2)
            is_last = field.varint != 0;
    }
    return is_last;
}

static const char *handle(stream *stream, cxe_span message)
{
    static const char destination[] = "x-gateway-destination-endpoint";
    driver *driver = stream->driver;
    cxe_span whole = message;
    cxe_field event;
    if (!cxe_take_field(&message, &event))
        return "an empty message came back";
    switch (event.number) {
    case 1:
        stream->was_routed =
            memmem(whole.data, whole.count, destination, sizeof destination - 1) != NULL;
        break;
    case 2:
        break;
    case 3:
        if (!take_chunk(event.content, &stream->body_bytes))
            break;
        if (!stream->was_routed)
            return "no endpoint was named";
        if (stream->body_bytes != driver->body_bytes)
            return "the request's body did not come back whole";
        stream->has_request = true;
        stream->sending = cxe_rest(&driver->response);
        stream->events_left = driver->event_count;
        break;
    case 4:
        if (!take_chunk(event.content, &stream->response_body_bytes)) {
            if (stream->events_left > 0) {
                stream->events_left--;
                stream->sending =
                    cxe_rest(stream->events_left > 0 ? &driver->event : &driver->end);
            }
            break;
        }
        if (stream->response_body_bytes != driver->response_body_bytes)
            return "the response's body did not come back whole";
        stream->has_response = stream->has_request;
        break;
    default:
        return "the request was refused";
    }
    if (stream->is_deferred && (stream->sending.count > 0 || stream->has_response)) {
        stream->is_deferred = false;
        nghttp2_session_resume_data(driver->session, stream->id);
    }
    return NULL;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                   size_t count, void *user)
{
    (void)flags;
    driver *driver = user;
    stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream == NULL)
        return 0;
    cxe_append(&stream->in, bytes, count);
    cxe_span message;
    while (driver->problem == NULL && cxe_take_message(&stream->in, &message))
        driver->problem = handle(stream, message);
    if (cxe_rest(&stream->in).count == 0)
        cxe_clear(&stream->in);
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    driver *driver = user;
    stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (driver->problem == NULL && (code != 0 || !stream->has_response))
        driver->problem = "a stream ended early";
    cxe_free(&stream->in);
    free(stream);
    driver->left_to_end--;
    if (driver->left_to_start > 0)
        start_stream(driver);
    return 0;
}

/* ---- the connection */

static int connect_to(uint16_t port)
{
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons(port),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0 ||
        fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static nghttp2_session *new_session(driver *driver)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_session *session;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_client_new(&session, callbacks, driver);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20}};
    nghttp2_submit_settings(session, 0, settings, 1);
    nghttp2_session_set_local_window_size(session, 0, 0, 16 << 20);
    return session;
}

static bool flush(driver *driver)
{
    const uint8_t *bytes;
    ssize_t count;
    while (cxe_rest(&driver->out).count < READ_BYTES &&
           (count = nghttp2_session_mem_send(driver->session, &bytes)) > 0)
        cxe_append(&driver->out, bytes, (size_t)count);
    cxe_span rest = cxe_rest(&driver->out);
    while (rest.count > 0) {
        count = write(driver->fd, rest.data, rest.count);
        if (count < 0)
            return errno == EAGAIN;
        driver->out.taken += (size_t)count;
        rest = cxe_rest(&driver->out);
    }
    cxe_clear(&driver->out);
    return true;
}

static bool receive(driver *driver)
{
    static uint8_t bytes[READ_BYTES];
    ssize_t count = read(driver->fd, bytes, sizeof bytes);
    if (count < 0)
        return errno == EAGAIN;
    return count > 0 && nghttp2_session_mem_recv(driver->session, bytes, (size_t)count) == count;
}

static void run(driver *driver)
{
    while (driver->problem == NULL && driver->left_to_end > 0) {
        if (!flush(driver)) {
            driver->problem = "writing failed";
            return;
        }
        bool is_blocked = cxe_rest(&driver->out).count > 0 ||
                          nghttp2_session_want_write(driver->session) != 0;
        struct pollfd poller = {.fd = driver->fd,
                                .events = (short)(POLLIN | (is_blocked ? POLLOUT : 0))};
        if (poll(&poller, 1, DEADLINE_MS) <= 0)
            driver->problem = "nothing came back in time";
        else if ((poller.revents & ~POLLOUT) != 0 && !receive(driver))
            driver->problem = "the connection broke";
    }
}

const char *cxe_drive(uint16_t port, const cxe_exchange *exchange, size_t request_count,
                      size_t concurrent_count)
{
    driver driver = {.left_to_start = request_count, .left_to_end = request_count};
    driver.fd = connect_to(port);
    if (driver.fd < 0)
        return "no connection";
    driver.session = new_session(&driver);
    put_exchange(&driver, exchange);
    for (size_t i = 0; i < concurrent_count && driver.left_to_start > 0; i++)
        start_stream(&driver);
    run(&driver);
    close(driver.fd);
    nghttp2_session_del(driver.session);
    cxe_free(&driver.out);
    cxe_free(&driver.request);
    cxe_free(&driver.response);
    cxe_free(&driver.event);
    cxe_free(&driver.end);
    return driver.problem;
}
