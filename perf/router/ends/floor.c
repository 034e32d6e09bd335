#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "CExtProcEnds.h"
#include "protobuf.h"

enum { READ_BYTES = 256 << 10, CHUNK_BYTES = 62000, ENDPOINT_COUNT = 4 };

typedef struct stream {
    int32_t id;
    cxe_bytes in, body, out;
    bool is_deferred, has_ended;
    struct stream *next;
} stream;

typedef struct connection {
    int fd;
    nghttp2_session *session;
    cxe_bytes out;
} connection;

static nghttp2_session_callbacks *callbacks;
static stream *spare_streams;
static unsigned pick_count;
/* What does not change from request to request, with its prefixes. */
static cxe_bytes request_answers[ENDPOINT_COUNT], response_answer;

/* ---- messages */

static cxe_bytes empty;

/* Puts what was written so far into a field, and that into a field, and so on. */
static void wrap(cxe_bytes *bytes, const uint32_t *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        cxe_bytes outer = empty;
        cxe_put(&outer, numbers[i], cxe_rest(bytes));
        cxe_free(bytes);
        *bytes = outer;
    }
}

/* HeaderValue{key=1, raw_value=3} as HeaderValueOption.header=1 in HeaderMutation.set_headers=1 in
 * CommonResponse.header_mutation=2. */
static cxe_bytes common_response(const char *name, const char *value)
{
    cxe_bytes bytes = empty;
    cxe_put(&bytes, 1, cxe_text(name));
    cxe_put(&bytes, 3, cxe_text(value));
    wrap(&bytes, (const uint32_t[]){1, 1, 2}, 3);
    return bytes;
}

/* {"envoy.lb": {name: value}} as ProcessingResponse.dynamic_metadata=8. */
static cxe_bytes metadata(const char *name, const char *value)
{
    cxe_bytes inner = empty, outer = empty;
    cxe_put(&inner, 3, cxe_text(value));
    wrap(&inner, (const uint32_t[]){2}, 1);
    cxe_put(&outer, 1, cxe_text(name));
    cxe_append(&outer, inner.data, inner.count);
    wrap(&outer, (const uint32_t[]){1, 5, 2}, 3);
    cxe_clear(&inner);
    cxe_put(&inner, 1, cxe_text("envoy.lb"));
    cxe_append(&inner, outer.data, outer.count);
    cxe_free(&outer);
    wrap(&inner, (const uint32_t[]){1, 8}, 2);
    return inner;
}

static void make_answers(void)
{
    static const char *const names[ENDPOINT_COUNT] = {"127.0.0.1:8001", "127.0.0.1:8002",
                                                      "127.0.0.1:8003", "127.0.0.1:8004"};
    static const char header[] = "x-gateway-destination-endpoint";
    for (size_t i = 0; i < ENDPOINT_COUNT; i++) {
        cxe_bytes answer = common_response(header, names[i]);
        cxe_put_true(&answer, 5); /* clear_route_cache */
        wrap(&answer, (const uint32_t[]){1, 1}, 2);
        cxe_bytes extra = metadata(header, names[i]);
        cxe_put_prefix(&request_answers[i], answer.count + extra.count);
        cxe_append(&request_answers[i], answer.data, answer.count);
        cxe_append(&request_answers[i], extra.data, extra.count);
        cxe_free(&answer);
        cxe_free(&extra);
    }
    cxe_bytes answer = common_response("x-went-into-resp-headers", "true");
    wrap(&answer, (const uint32_t[]){1, 2}, 2);
    cxe_put_prefix(&response_answer, answer.count);
    cxe_append(&response_answer, answer.data, answer.count);
    cxe_free(&answer);
}

/* BodyResponse.response=1: CommonResponse.body_mutation=3: BodyMutation.streamed_response=3:
 * StreamedBodyResponse{body=1, end_of_stream=2}. */
static void put_chunk(cxe_bytes *bytes, uint32_t side, cxe_span body, bool is_last)
{
    size_t streamed = (body.count > 0 ? cxe_field_bytes(body.count) : 0) + (is_last ? 2 : 0);
    size_t mutation = cxe_field_bytes(streamed), common = cxe_field_bytes(mutation);
    size_t response = cxe_field_bytes(common);
    cxe_put_prefix(bytes, cxe_field_bytes(response));
    cxe_put_head(bytes, side, response);
    cxe_put_head(bytes, 1, common);
    cxe_put_head(bytes, 3, mutation);
    cxe_put_head(bytes, 3, streamed);
    if (body.count > 0)
        cxe_put(bytes, 1, body);
    if (is_last)
        cxe_put_true(bytes, 2);
}

static void answer_request(stream *stream)
{
    const cxe_bytes *answer = &request_answers[pick_count++ % ENDPOINT_COUNT];
    cxe_append(&stream->out, answer->data, answer->count);
    for (size_t start = 0; start < stream->body.count; start += CHUNK_BYTES) {
        size_t left = stream->body.count - start;
        size_t count = left < CHUNK_BYTES ? left : CHUNK_BYTES;
        put_chunk(&stream->out, 3, (cxe_span){stream->body.data + start, count}, count == left);
    }
}

/* A ProcessingRequest. */
static void handle(stream *stream, cxe_span message)
{
    cxe_field event;
    if (!cxe_take_field(&message, &event))
        return;
    if (event.number == 3)
        cxe_append(&stream->out, response_answer.data, response_answer.count);
    if (event.number != 4 && event.number != 5)
        return;
    cxe_span body = {0};
    bool is_last = false;
    cxe_field field;
    while (cxe_take_field(&event.content, &field)) {
        if (field.number == 1)
            body = field.content;
        else if (field.number == 2)
            is_last = field.varint != 0;
    }
    if (event.number == 5) {
        put_chunk(&stream->out, 4, body, is_last);
        return;
    }
    cxe_append(&stream->body, body.data, body.count);
    if (is_last)
        answer_request(stream);
}

/* ---- HTTP/2 */

#define FIELD(name, value) \
    {(uint8_t *)(name), (uint8_t *)(value), sizeof(name) - 1, sizeof(value) - 1, \
     NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE}

static ssize_t read_out(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t limit,
                        uint32_t *flags, nghttp2_data_source *source, void *user)
{
    (void)user;
    stream *stream = source->ptr;
    cxe_span rest = cxe_rest(&stream->out);
    if (rest.count == 0 && !stream->has_ended) {
        stream->is_deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    size_t count = rest.count < limit ? rest.count : limit;
    if (count > 0)
        memcpy(bytes, rest.data, count);
    stream->out.taken += count;
    if (count < rest.count)
        return (ssize_t)count;
    cxe_clear(&stream->out);
    if (stream->has_ended) {
        const nghttp2_nv trailer = FIELD("grpc-status", "0");
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        nghttp2_submit_trailer(session, id, &trailer, 1);
    }
    return (ssize_t)count;
}

static void resume(nghttp2_session *session, stream *stream)
{
    if (!stream->is_deferred)
        return;
    stream->is_deferred = false;
    nghttp2_session_resume_data(session, stream->id);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    (void)user;
    stream *stream = spare_streams;
    if (stream == NULL)
        stream = calloc(1, sizeof *stream);
    else
        spare_streams = stream->next;
    if (stream == NULL)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    stream->id = frame->hd.stream_id;
    stream->is_deferred = stream->has_ended = false;
    cxe_clear(&stream->in);
    cxe_clear(&stream->body);
    cxe_clear(&stream->out);
    return nghttp2_session_set_stream_user_data(session, stream->id, stream);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                   size_t count, void *user)
{
    (void)flags, (void)user;
    stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream == NULL)
        return 0;
    cxe_append(&stream->in, bytes, count);
    cxe_span message;
    while (cxe_take_message(&stream->in, &message))
        handle(stream, message);
    if (cxe_rest(&stream->in).count == 0)
        cxe_clear(&stream->in);
    if (stream->out.count > 0)
        resume(session, stream);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    (void)user;
    stream *stream = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (stream == NULL)
        return 0;
    if (frame->hd.type == NGHTTP2_HEADERS) {
        const nghttp2_nv head[] = {FIELD(":status", "200"),
                                   FIELD("content-type", "application/grpc")};
        const nghttp2_data_provider body = {.source.ptr = stream, .read_callback = read_out};
        nghttp2_submit_response(session, stream->id, head, 2, &body);
    }
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
        (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA)) {
        stream->has_ended = true;
        resume(session, stream);
    }
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *user)
{
    (void)code, (void)user;
    stream *stream = nghttp2_session_get_stream_user_data(session, id);
    if (stream != NULL) {
        stream->next = spare_streams;
        spare_streams = stream;
    }
    return 0;
}

/* ---- sockets */

static void watch(int poller, int change, connection *connection, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    epoll_ctl(poller, change, connection->fd, &event);
}

static bool flush(int poller, connection *connection)
{
    cxe_bytes *out = &connection->out;
    bool was_blocked = out->count > 0;
    const uint8_t *bytes;
    ssize_t count;
    while (cxe_rest(out).count < READ_BYTES &&
           (count = nghttp2_session_mem_send(connection->session, &bytes)) > 0)
        cxe_append(out, bytes, (size_t)count);
    cxe_span rest = cxe_rest(out);
    while (rest.count > 0) {
        count = write(connection->fd, rest.data, rest.count);
        if (count < 0 && errno != EAGAIN)
            return false;
        if (count < 0)
            break;
        out->taken += (size_t)count;
        rest = cxe_rest(out);
    }
    if (rest.count == 0)
        cxe_clear(out);
    bool is_blocked = rest.count > 0 || nghttp2_session_want_write(connection->session);
    if (is_blocked != was_blocked)
        watch(poller, EPOLL_CTL_MOD, connection, EPOLLIN | (is_blocked ? EPOLLOUT : 0));
    return true;
}

static void accept_connection(int poller, int listener)
{
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    connection *connection = calloc(1, sizeof *connection);
    if (fd < 0 || connection == NULL)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    connection->fd = fd;
    nghttp2_session_server_new(&connection->session, callbacks, connection);
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 10000},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20},
    };
    nghttp2_submit_settings(connection->session, 0, settings, 2);
    nghttp2_session_set_local_window_size(connection->session, 0, 0, 16 << 20);
    watch(poller, EPOLL_CTL_ADD, connection, EPOLLIN);
    flush(poller, connection);
}

static void end_connection(connection *connection)
{
    close(connection->fd);
    nghttp2_session_del(connection->session);
    cxe_free(&connection->out);
    free(connection);
}

static bool serve_connection(int poller, connection *connection, uint32_t events)
{
    static uint8_t bytes[READ_BYTES];
    if ((events & ~(uint32_t)EPOLLOUT) != 0) {
        ssize_t count = read(connection->fd, bytes, sizeof bytes);
        if (count == 0 || (count < 0 && errno != EAGAIN))
            return false;
        if (count > 0 && nghttp2_session_mem_recv(connection->session, bytes, (size_t)count) < 0)
            return false;
    }
    return flush(poller, connection);
}

int cxe_listen(uint16_t *port_p)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_bytes = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(fd, 64) != 0 || getsockname(fd, (struct sockaddr *)&address, &address_bytes) != 0) {
        close(fd);
        return -1;
    }
    *port_p = ntohs(address.sin_port);
    return fd;
}

void cxe_serve(int listener)
{
    make_answers();
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[64];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < count; i++) {
            connection *connection = events[i].data.ptr;
            if (connection == NULL)
                accept_connection(poller, listener);
            else if (!serve_connection(poller, connection, events[i].events))
                end_connection(connection);
        }
    }
}
