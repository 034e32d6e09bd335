/* HTTP/2: heads and bodies on their way out. */
#include <stdlib.h>

#include "fields.h"
#include "h2_session.h"

enum {
    FRAME_HEAD_BYTES = 9,
    /* With pseudo-header fields and the date. */
    MAX_LIST_COUNT = CN_H2_MAX_FIELD_COUNT + 4,
};

/* ---- outgoing bodies */

static void trim(const uint8_t **value, size_t *count)
{
    while (*count > 0 && (**value == ' ' || **value == '\t')) {
        (*value)++;
        (*count)--;
    }
    while (*count > 0 && ((*value)[*count - 1] == ' ' || (*value)[*count - 1] == '\t'))
        (*count)--;
}

/* Fields for nghttp2, which copies them and makes names lower case. `clean` takes the values that
 * had to be changed; it must outlive the submission. */
static size_t add_fields(nghttp2_nv *list, size_t used, const cn_head *head, cn_bytes *clean)
{
    for (size_t i = 0; i < head->field_count; i++) {
        const cn_field *field = &head->fields[i];
        const uint8_t *name = cn_field_name(head, field);
        cn_field_kind kind = cn_field_kind_of(name, field->name_count);
        const uint8_t *value = cn_field_value(head, field);
        size_t count = field->value_count;
        trim(&value, &count);
        bool is_trailers = kind == CN_FIELD_TE && cn_equals_ignoring_case(value, count, "trailers");
        if (!cn_is_token(name, field->name_count) ||
            (kind != CN_FIELD_OTHER && kind != CN_FIELD_CONTENT_LENGTH && !is_trailers))
            continue;
        if (!cn_is_field_value(value, count)) {
            /* Reserved for the whole head at first use: earlier values must not move. */
            if (clean->data == NULL)
                cn_bytes_reserve(clean, head->bytes_count);
            uint8_t *copy = cn_bytes_reserve(clean, count);
            if (copy == NULL)
                continue;
            for (size_t j = 0; j < count; j++)
                copy[j] = cn_is_field_value(&value[j], 1) ? value[j] : ' ';
            clean->end += count;
            value = copy;
            trim(&value, &count);
        }
        list[used++] = (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value,
                                    field->name_count, count, NGHTTP2_NV_FLAG_NONE};
    }
    return used;
}

static nghttp2_nv make_field(const char *name, const uint8_t *value, size_t count)
{
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
                        count, NGHTTP2_NV_FLAG_NONE};
}

static int submit_trailers(cn_h2 *h2, cn_h2_stream *stream)
{
    nghttp2_nv list[MAX_LIST_COUNT];
    cn_head head = {
        .bytes = cn_bytes_front(&stream->trailers),
        .bytes_count = cn_bytes_count(&stream->trailers),
        .fields = stream->trailer_fields,
        .field_count = stream->trailer_count,
    };
    cn_bytes clean = {0};
    size_t count = add_fields(list, 0, &head, &clean);
    int code = nghttp2_submit_trailer(h2->session, stream->id, list, count);
    cn_bytes_free(&clean);
    return code;
}

static ssize_t read_pending(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t room,
                            uint32_t *flags, nghttp2_data_source *source, void *user)
{
    (void)session;
    (void)id;
    (void)buffer;
    cn_h2 *h2 = user;
    cn_h2_stream *stream = source->ptr;
    size_t count = cn_bytes_count(&stream->pending);
    if (count == 0 && !stream->out_finished) {
        stream->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (count > room)
        return (ssize_t)room;
    if (stream->out_finished) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (stream->has_trailers && submit_trailers(h2, stream) == 0)
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    }
    return (ssize_t)count;
}

int cn_h2_send_pending(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *frame_head,
                       size_t count, nghttp2_data_source *source, void *user)
{
    (void)session;
    (void)frame;
    cn_h2 *h2 = user;
    cn_h2_stream *stream = source->ptr;
    cn_bytes_append(h2->out, frame_head, FRAME_HEAD_BYTES);
    cn_bytes_append(h2->out, cn_bytes_front(&stream->pending), count);
    cn_bytes_consume(&stream->pending, count);
    if (cn_bytes_count(&stream->pending) == 0)
        cn_bytes_free(&stream->pending);
    return 0;
}

static void wake(cn_h2 *h2, cn_h2_stream *stream)
{
    if (!stream->deferred)
        return;
    stream->deferred = false;
    nghttp2_session_resume_data(h2->session, stream->id);
}

void cn_h2_write(cn_h2 *h2, cn_h2_stream *stream, const uint8_t *bytes, size_t count)
{
    cn_bytes_append(&stream->pending, bytes, count);
    if (stream->pending.failed)
        cn_h2_reset(h2, stream);
    wake(h2, stream);
}

static bool copy_trailers(cn_h2_stream *stream, const cn_head *trailers)
{
    if (trailers->field_count > CN_H2_MAX_FIELD_COUNT)
        return false;
    cn_bytes_append(&stream->trailers, trailers->bytes, trailers->bytes_count);
    stream->trailer_fields = malloc(trailers->field_count * sizeof *trailers->fields);
    if (stream->trailers.failed || stream->trailer_fields == NULL)
        return false;
    memcpy(stream->trailer_fields, trailers->fields,
           trailers->field_count * sizeof *trailers->fields);
    stream->trailer_count = trailers->field_count;
    return true;
}

void cn_h2_finish(cn_h2 *h2, cn_h2_stream *stream, const cn_head *trailers)
{
    stream->out_finished = true;
    if (trailers != NULL && trailers->field_count > 0)
        stream->has_trailers = copy_trailers(stream, trailers);
    wake(h2, stream);
}

void cn_h2_reset(cn_h2 *h2, cn_h2_stream *stream)
{
    nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_CANCEL);
}

void cn_h2_drop(cn_h2 *h2, cn_h2_stream *stream, cn_status status)
{
    nghttp2_session_set_stream_user_data(h2->session, stream->id, NULL);
    if (stream->user != NULL)
        h2->events.closed(h2->user, stream, status);
    cn_h2_remove_stream(h2, stream);
}

void cn_h2_pause(cn_h2_stream *stream)
{
    stream->paused = true;
}

void cn_h2_resume(cn_h2 *h2, cn_h2_stream *stream)
{
    stream->paused = false;
    if (stream->unconsumed_bytes > 0)
        nghttp2_session_consume_stream(h2->session, stream->id, stream->unconsumed_bytes);
    stream->unconsumed_bytes = 0;
}

/* ---- outgoing heads */

static nghttp2_data_provider body_of(cn_h2_stream *stream)
{
    return (nghttp2_data_provider){.source.ptr = stream, .read_callback = read_pending};
}

cn_status cn_h2_request(cn_h2 *h2, const cn_head *head, const char *scheme, bool has_body,
                        void *stream_user, cn_h2_stream **stream_p)
{
    if (head->field_count > CN_H2_MAX_FIELD_COUNT)
        return CN_HEAD_TOO_LARGE;
    cn_h2_stream *stream = cn_h2_add_stream(h2, 0);
    if (stream == NULL)
        return CN_NO_MEMORY;
    nghttp2_nv list[MAX_LIST_COUNT];
    list[0] = make_field(":method", head->method.data, head->method.count);
    list[1] = make_field(":scheme", (const uint8_t *)scheme, strlen(scheme));
    list[2] = make_field(":path", head->target.data, head->target.count);
    list[3] = make_field(":authority", head->authority.data, head->authority.count);
    cn_bytes clean = {0};
    size_t count = add_fields(list, 4, head, &clean);
    nghttp2_data_provider body = body_of(stream);
    int32_t id = nghttp2_submit_request(h2->session, NULL, list, count, has_body ? &body : NULL,
                                        stream);
    cn_bytes_free(&clean);
    if (id < 0) {
        cn_h2_remove_stream(h2, stream);
        return id == NGHTTP2_ERR_NOMEM ? CN_NO_MEMORY : CN_REFUSED;
    }
    stream->id = id;
    stream->user = stream_user;
    stream->out_finished = !has_body;
    *stream_p = stream;
    return CN_OK;
}

cn_status cn_h2_respond(cn_h2 *h2, cn_h2_stream *stream, const cn_head *head, bool has_body,
                        cn_span date)
{
    if (head->field_count > CN_H2_MAX_FIELD_COUNT)
        return CN_HEAD_TOO_LARGE;
    char status[4] = {
        (char)('0' + head->status / 100 % 10),
        (char)('0' + head->status / 10 % 10),
        (char)('0' + head->status % 10),
    };
    nghttp2_nv list[MAX_LIST_COUNT];
    list[0] = make_field(":status", (const uint8_t *)status, 3);
    cn_bytes clean = {0};
    size_t count = add_fields(list, 1, head, &clean);
    if (date.count > 0 && !cn_head_names(head, "date"))
        list[count++] = make_field("date", date.data, date.count);
    int code;
    if (head->status < 200) {
        code = nghttp2_submit_headers(h2->session, NGHTTP2_FLAG_NONE, stream->id, NULL, list,
                                      count, NULL);
    } else {
        nghttp2_data_provider body = body_of(stream);
        stream->has_responded = true;
        stream->out_finished = !has_body;
        code = nghttp2_submit_response(h2->session, stream->id, list, count,
                                       has_body ? &body : NULL);
    }
    cn_bytes_free(&clean);
    return code == 0 ? CN_OK : CN_PROTOCOL;
}
