/* HTTP/2: sessions, and what arrives. */
#include "h2.h"

#include <stdlib.h>

#include "fields.h"
#include "h2_session.h"

enum { MIN_CONNECTION_WINDOW = 1 << 20 };

/* ---- streams */

cn_h2_stream *cn_h2_add_stream(cn_h2 *h2, int32_t id)
{
    cn_h2_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL)
        return NULL;
    stream->id = id;
    stream->next = &h2->streams;
    stream->previous = h2->streams.previous;
    stream->previous->next = stream;
    h2->streams.previous = stream;
    h2->stream_count++;
    return stream;
}

void cn_h2_remove_stream(cn_h2 *h2, cn_h2_stream *stream)
{
    stream->next->previous = stream->previous;
    stream->previous->next = stream->next;
    h2->stream_count--;
    cn_bytes_free(&stream->pending);
    cn_bytes_free(&stream->trailers);
    free(stream->trailer_fields);
    free(stream);
}

static cn_h2_stream *find_stream(cn_h2 *h2, int32_t id)
{
    return nghttp2_session_get_stream_user_data(h2->session, id);
}

/* ---- incoming heads */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    cn_h2 *h2 = user;
    h2->open_head = frame->hd.stream_id;
    h2->head_bytes.begin = h2->head_bytes.end = 0;
    h2->cookie.begin = h2->cookie.end = 0;
    h2->field_count = 0;
    h2->method = h2->path = h2->authority = (cn_field){0};
    h2->status = 0;
    h2->expects_continue = h2->head_too_large = false;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    cn_h2_stream *stream = cn_h2_add_stream(h2, frame->hd.stream_id);
    if (stream == NULL)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, stream);
    return 0;
}

static cn_field keep(cn_h2 *h2, const uint8_t *name, size_t name_count, const uint8_t *value,
                     size_t value_count)
{
    size_t offset = cn_bytes_count(&h2->head_bytes);
    cn_bytes_append(&h2->head_bytes, name, name_count);
    cn_bytes_append(&h2->head_bytes, value, value_count);
    return (cn_field){
        .name_offset = (uint32_t)offset,
        .name_count = (uint32_t)name_count,
        .value_offset = (uint32_t)(offset + name_count),
        .value_count = (uint32_t)value_count,
    };
}

/* Cookies come in pieces, and are one field anywhere else (RFC 9113 section 8.2.3). */
static void keep_cookie(cn_h2 *h2, const uint8_t *value, size_t count)
{
    if (cn_bytes_count(&h2->cookie) == 0)
        h2->cookie_index = h2->field_count++;
    else
        cn_bytes_append(&h2->cookie, "; ", 2);
    cn_bytes_append(&h2->cookie, value, count);
}

static void end_cookie(cn_h2 *h2)
{
    if (cn_bytes_count(&h2->cookie) > 0)
        h2->fields[h2->cookie_index] = keep(h2, (const uint8_t *)"cookie", 6,
                                            cn_bytes_front(&h2->cookie),
                                            cn_bytes_count(&h2->cookie));
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_count, const uint8_t *value, size_t value_count, uint8_t flags,
                     void *user)
{
    (void)session;
    (void)frame;
    (void)flags;
    cn_h2 *h2 = user;
    size_t held = cn_bytes_count(&h2->head_bytes) + cn_bytes_count(&h2->cookie);
    if (held + name_count + value_count > h2->config.max_head_bytes ||
        h2->field_count == CN_H2_MAX_FIELD_COUNT) {
        h2->head_too_large = true;
        return 0;
    }
    cn_field_kind kind = cn_field_kind_of(name, name_count);
    if (kind == CN_FIELD_EXPECT) {
        h2->expects_continue = cn_equals_ignoring_case(value, value_count, "100-continue");
        return 0;
    }
    if (kind == CN_FIELD_HOST && !h2->config.is_client) {
        if (h2->authority.name_count == 0)
            h2->authority = keep(h2, name, name_count, value, value_count);
        return 0;
    }
    if (cn_equals_ignoring_case(name, name_count, "cookie") && value_count > 0) {
        keep_cookie(h2, value, value_count);
        return 0;
    }
    if (name_count == 0 || name[0] != ':') {
        h2->fields[h2->field_count++] = keep(h2, name, name_count, value, value_count);
        return 0;
    }
    if (cn_equals_ignoring_case(name, name_count, ":method"))
        h2->method = keep(h2, name, name_count, value, value_count);
    else if (cn_equals_ignoring_case(name, name_count, ":path"))
        h2->path = keep(h2, name, name_count, value, value_count);
    else if (cn_equals_ignoring_case(name, name_count, ":authority"))
        h2->authority = keep(h2, name, name_count, value, value_count);
    else if (cn_equals_ignoring_case(name, name_count, ":status"))
        h2->status = (uint32_t)cn_parse_length(value, value_count);
    return 0;
}

static cn_span span_of(const cn_h2 *h2, const cn_field *field)
{
    if (field->name_count == 0)
        return (cn_span){0};
    return (cn_span){cn_bytes_front(&h2->head_bytes) + field->value_offset, field->value_count};
}

static cn_head head_of(const cn_h2 *h2)
{
    return (cn_head){
        .method = span_of(h2, &h2->method),
        .target = span_of(h2, &h2->path),
        .authority = span_of(h2, &h2->authority),
        .status = h2->status,
        .version = CN_HTTP_2,
        .bytes = cn_bytes_front(&h2->head_bytes),
        .bytes_count = cn_bytes_count(&h2->head_bytes),
        .fields = h2->fields,
        .field_count = h2->field_count,
    };
}

static void end_incoming(cn_h2 *h2, cn_h2_stream *stream, const cn_head *trailers)
{
    stream->in_ended = true;
    if (stream->user != NULL)
        h2->events.ended(h2->user, stream, trailers);
    if (h2->config.is_client && !stream->out_sent)
        cn_h2_reset(h2, stream);
}

static void receive_request(cn_h2 *h2, cn_h2_stream *stream)
{
    stream->has_head = true;
    stream->expects_continue = h2->expects_continue;
    cn_head head = head_of(h2);
    if (h2->head_too_large)
        h2->events.head(h2->user, stream, NULL);
    else if (cn_is_target(head.target) && cn_is_origin_form(head.method, head.target) &&
             cn_is_authority(head.authority.data, head.authority.count))
        h2->events.head(h2->user, stream, &head);
    else
        /* CONNECT, or what HTTP/1 could not carry on. */
        nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, stream->id,
                                  NGHTTP2_PROTOCOL_ERROR);
}

static void receive_headers(cn_h2 *h2, cn_h2_stream *stream, const nghttp2_frame *frame)
{
    bool ends = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    end_cookie(h2);
    cn_head head = head_of(h2);
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        receive_request(h2, stream);
    } else if (h2->head_too_large) {
        cn_h2_reset(h2, stream);
        return;
    } else if (h2->config.is_client && !stream->has_head) {
        if (h2->status < 200)
            return;
        stream->has_head = true;
        if (stream->user != NULL)
            h2->events.head(h2->user, stream, &head);
    } else if (ends) {
        end_incoming(h2, stream, &head);
        return;
    }
    if (ends)
        end_incoming(h2, stream, NULL);
}

/* ---- callbacks of nghttp2 */

static int on_frame_received(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    cn_h2 *h2 = user;
    cn_h2_stream *stream;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        stream = find_stream(h2, frame->hd.stream_id);
        h2->open_head = 0;
        if (stream != NULL)
            receive_headers(h2, stream, frame);
        break;
    case NGHTTP2_DATA:
        stream = find_stream(h2, frame->hd.stream_id);
        if (stream != NULL && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
            end_incoming(h2, stream, NULL);
        break;
    case NGHTTP2_SETTINGS:
        h2->has_settings = true;
        break;
    case NGHTTP2_GOAWAY:
        h2->has_goaway = true;
        break;
    case NGHTTP2_PING:
        /* The client has seen the first GOAWAY: nothing else is on its way. */
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0 && h2->is_draining)
            nghttp2_submit_goaway(session, NGHTTP2_FLAG_NONE,
                                  nghttp2_session_get_last_proc_stream_id(session),
                                  NGHTTP2_NO_ERROR, NULL, 0);
        break;
    default:
        break;
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                   size_t count, void *user)
{
    (void)flags;
    cn_h2 *h2 = user;
    cn_h2_stream *stream = find_stream(h2, id);
    if (stream != NULL && stream->user != NULL)
        h2->events.body(h2->user, stream, bytes, count);
    if (stream != NULL && stream->paused) {
        stream->unconsumed_bytes += count;
        nghttp2_session_consume_connection(session, count);
    } else {
        nghttp2_session_consume(session, id, count);
    }
    return 0;
}

static cn_status status_of_close(const cn_h2 *h2, const cn_h2_stream *stream, uint32_t error)
{
    /* A server may stop an upload that it has answered, and a client may stop listening once it
     * has the answer. */
    if (h2->config.is_client ? stream->in_ended : stream->out_sent)
        return CN_OK;
    switch (error) {
    case NGHTTP2_NO_ERROR:
        return CN_CLOSED;
    case NGHTTP2_REFUSED_STREAM:
        return CN_REFUSED;
    case NGHTTP2_PROTOCOL_ERROR:
    case NGHTTP2_FLOW_CONTROL_ERROR:
    case NGHTTP2_STREAM_CLOSED:
    case NGHTTP2_FRAME_SIZE_ERROR:
        return CN_PROTOCOL;
    default:
        return CN_RESET;
    }
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error, void *user)
{
    (void)session;
    cn_h2 *h2 = user;
    cn_h2_stream *stream = find_stream(h2, id);
    /* A malformed head has no other end. */
    if (h2->open_head == id)
        h2->open_head = 0;
    if (stream == NULL)
        return 0;
    if (stream->user != NULL)
        h2->events.closed(h2->user, stream, status_of_close(h2, stream, error));
    cn_h2_remove_stream(h2, stream);
    return 0;
}

/* A server that has answered wants no more of the request. */
static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user)
{
    cn_h2 *h2 = user;
    if ((frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) ||
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
        return 0;
    cn_h2_stream *stream = find_stream(h2, frame->hd.stream_id);
    if (stream == NULL)
        return 0;
    stream->out_sent = true;
    if (!h2->config.is_client && !stream->in_ended)
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_NO_ERROR);
    return 0;
}

/* ---- sessions */

static void set_callbacks(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_received);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, cn_h2_send_pending);
}

static int create_session(cn_h2 *h2)
{
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    int code = nghttp2_session_callbacks_new(&callbacks);
    if (code == 0)
        code = nghttp2_option_new(&option);
    if (code == 0) {
        set_callbacks(callbacks);
        nghttp2_option_set_no_auto_window_update(option, 1);
        if (h2->config.is_client) {
            code = nghttp2_session_client_new2(&h2->session, callbacks, h2, option);
        } else {
            /* Whoever knows what a request costs counts those given up. */
            nghttp2_option_set_stream_reset_rate_limit(option, UINT64_MAX, UINT64_MAX);
            code = nghttp2_session_server_new2(&h2->session, callbacks, h2, option);
        }
    }
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return code;
}

static int submit_settings(cn_h2 *h2)
{
    uint32_t window = h2->config.stream_window_bytes;
    nghttp2_settings_entry server[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, h2->config.max_head_bytes},
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, h2->config.max_stream_count},
    };
    nghttp2_settings_entry client[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, h2->config.max_head_bytes},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
    };
    int code = nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE,
                                       h2->config.is_client ? client : server, 3);
    if (code != 0)
        return code;
    uint32_t total = window > MIN_CONNECTION_WINDOW / 4 ? window * 4 : MIN_CONNECTION_WINDOW;
    if (total > INT32_MAX || window > INT32_MAX / 4)
        total = INT32_MAX;
    return nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0,
                                                 (int32_t)total);
}

cn_status cn_h2_create(const cn_h2_config *config, const cn_h2_events *events, void *user,
                       cn_h2 **h2_p)
{
    cn_h2 *h2 = calloc(1, sizeof *h2);
    if (h2 == NULL)
        return CN_NO_MEMORY;
    h2->config = *config;
    h2->events = *events;
    h2->user = user;
    h2->streams.next = h2->streams.previous = &h2->streams;
    if (create_session(h2) != 0 || submit_settings(h2) != 0) {
        cn_h2_destroy(h2);
        return CN_NO_MEMORY;
    }
    *h2_p = h2;
    return CN_OK;
}

void cn_h2_destroy(cn_h2 *h2)
{
    if (h2 == NULL)
        return;
    nghttp2_session_del(h2->session);
    while (h2->streams.next != &h2->streams)
        cn_h2_remove_stream(h2, h2->streams.next);
    cn_bytes_free(&h2->head_bytes);
    cn_bytes_free(&h2->cookie);
    free(h2);
}

cn_status cn_h2_receive(cn_h2 *h2, const uint8_t *bytes, size_t count)
{
    ssize_t taken = nghttp2_session_mem_recv(h2->session, bytes, count);
    if (taken >= 0)
        return CN_OK;
    h2->problem = nghttp2_strerror((int)taken);
    return taken == NGHTTP2_ERR_NOMEM ? CN_NO_MEMORY : CN_PROTOCOL;
}

cn_status cn_h2_send(cn_h2 *h2, cn_bytes *out, size_t limit_bytes)
{
    h2->out = out;
    while (cn_bytes_count(out) < limit_bytes) {
        const uint8_t *bytes;
        ssize_t count = nghttp2_session_mem_send(h2->session, &bytes);
        if (count < 0) {
            h2->problem = nghttp2_strerror((int)count);
            return count == NGHTTP2_ERR_NOMEM ? CN_NO_MEMORY : CN_PROTOCOL;
        }
        if (count == 0)
            break;
        cn_bytes_append(out, bytes, (size_t)count);
    }
    return out->failed ? CN_NO_MEMORY : CN_OK;
}

bool cn_h2_is_over(const cn_h2 *h2)
{
    return nghttp2_session_want_read(h2->session) == 0 &&
           nghttp2_session_want_write(h2->session) == 0;
}

const char *cn_h2_problem(const cn_h2 *h2)
{
    return h2->problem;
}

bool cn_h2_has_settings(const cn_h2 *h2)
{
    return h2->has_settings;
}

size_t cn_h2_stream_count(const cn_h2 *h2)
{
    return h2->stream_count;
}

cn_h2_stream *cn_h2_first_stream(const cn_h2 *h2)
{
    return h2->streams.next == &h2->streams ? NULL : h2->streams.next;
}

int32_t cn_h2_open_head(const cn_h2 *h2)
{
    return h2->open_head;
}

size_t cn_h2_capacity(const cn_h2 *h2)
{
    if (h2->has_goaway || nghttp2_session_check_request_allowed(h2->session) == 0)
        return 0;
    size_t allowed = nghttp2_session_get_remote_settings(
        h2->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    return allowed > h2->stream_count ? allowed - h2->stream_count : 0;
}

void cn_h2_drain(cn_h2 *h2)
{
    if (h2->is_draining)
        return;
    h2->is_draining = true;
    nghttp2_submit_shutdown_notice(h2->session);
    nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, NULL);
}

void cn_h2_end(cn_h2 *h2, bool is_abuse)
{
    nghttp2_session_terminate_session(h2->session,
                                      is_abuse ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_NO_ERROR);
}
