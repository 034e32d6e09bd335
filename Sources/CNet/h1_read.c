/* The HTTP/1.1 parser: sections and bodies. */
#include "fields.h"
#include "h1_head.h"

/* Chunk extensions carry nothing that anybody uses. */
enum { MAX_EXTENSION_BYTES = 4096, MAX_EMPTY_LINES = 2 };

void cn_h1_init(cn_h1 *h1, bool is_response, uint32_t max_head_bytes)
{
    *h1 = (cn_h1){
        .is_response = is_response,
        .max_head_bytes = max_head_bytes,
        .keep_alive = true,
    };
}

void cn_h1_free(cn_h1 *h1)
{
    cn_bytes_free(&h1->held);
}

void cn_h1_next_message(cn_h1 *h1)
{
    cn_bytes_free(&h1->held);
    cn_h1_init(h1, h1->is_response, h1->max_head_bytes);
}

bool cn_h1_is_inside(const cn_h1 *h1)
{
    return h1->state != CN_H1_OVER && (h1->state != CN_H1_IN_HEAD || h1->scanned > 0);
}

/* ---- sections: the lines of a head or of trailers */

/* Looks for the empty line that ends a section. *end_p: the bytes up to and with it, or 0. */
static cn_status find_end(cn_h1 *h1, const uint8_t *data, size_t count, size_t *end_p)
{
    *end_p = 0;
    while (h1->scanned < count) {
        const uint8_t *lf = memchr(data + h1->scanned, '\n', count - h1->scanned);
        if (lf == NULL) {
            h1->scanned = count;
            return CN_OK;
        }
        size_t place = (size_t)(lf - data);
        if (place == h1->line_begin || data[place - 1] != '\r')
            return cn_h1_fail(h1, 400, "line without CR LF");
        bool is_empty = place - 1 == h1->line_begin;
        h1->scanned = h1->line_begin = place + 1;
        if (is_empty) {
            *end_p = place + 1;
            return CN_OK;
        }
    }
    return CN_OK;
}

/* Finds a whole section, in the input or in what is held; *data_p is NULL until it is there. */
static cn_status take_section(cn_h1 *h1, const uint8_t **bytes, size_t *count,
                              const uint8_t **data_p, size_t *count_p)
{
    *data_p = NULL;
    size_t held = cn_bytes_count(&h1->held), end;
    /* One byte more than may be, so that what is too large shows, whatever the pieces. */
    size_t taken = (size_t)h1->max_head_bytes + 1 - held;
    if (taken > *count)
        taken = *count;
    const uint8_t *data = *bytes;
    if (held > 0) {
        cn_bytes_append(&h1->held, *bytes, taken);
        if (h1->held.failed)
            return CN_NO_MEMORY;
        data = cn_bytes_front(&h1->held);
    }
    cn_status status = find_end(h1, data, held + taken, &end);
    if (status != CN_OK)
        return status;
    if ((end > 0 ? end : held + taken) > h1->max_head_bytes)
        return cn_h1_fail(h1, 431, "header section too large");
    if (end > 0) {
        *data_p = data;
        *count_p = end;
        taken = end - held;
    } else if (held == 0) {
        cn_bytes_append(&h1->held, *bytes, taken);
    }
    *bytes += taken;
    *count -= taken;
    return h1->held.failed ? CN_NO_MEMORY : CN_OK;
}

static cn_status next_head(cn_h1 *h1, const uint8_t **bytes, size_t *count, cn_field *fields,
                           size_t capacity, cn_h1_event *event_p)
{
    *event_p = CN_H1_NEED_MORE;
    while (*count > 0) {
        /* What cannot begin a request, such as a TLS handshake, need not wait for a line's end. */
        if (!h1->is_response && h1->scanned == 0 && **bytes != '\r' && **bytes != '\n' &&
            !cn_is_token(*bytes, 1))
            return cn_h1_fail(h1, 400, "not a request line");
        const uint8_t *data;
        size_t data_count;
        cn_status status = take_section(h1, bytes, count, &data, &data_count);
        if (status != CN_OK || data == NULL)
            return status;
        if (data_count > 2) {
            status = cn_h1_parse_head(h1, data, data + data_count, fields, capacity);
            if (status == CN_OK)
                *event_p = CN_H1_HEAD;
            return status;
        }
        /* Empty lines before a request are passed over (RFC 9112 section 2.2). */
        if (h1->is_response || h1->empty_lines == MAX_EMPTY_LINES)
            return cn_h1_fail(h1, 400, "empty lines instead of a head");
        h1->empty_lines++;
        cn_bytes_free(&h1->held);
        cn_h1_begin_section(h1, CN_H1_IN_HEAD);
    }
    return CN_OK;
}

static cn_status next_trailers(cn_h1 *h1, const uint8_t **bytes, size_t *count, cn_field *fields,
                               size_t capacity, cn_h1_event *event_p)
{
    *event_p = CN_H1_NEED_MORE;
    if (*count == 0)
        return CN_OK;
    const uint8_t *data;
    size_t data_count;
    cn_status status = take_section(h1, bytes, count, &data, &data_count);
    if (status != CN_OK || data == NULL)
        return status;
    status = cn_h1_parse_trailers(h1, data, data + data_count, fields, capacity);
    if (status != CN_OK)
        return status;
    h1->state = CN_H1_OVER;
    *event_p = CN_H1_END;
    return CN_OK;
}

/* ---- bodies */

/* Reads a chunk's size line, byte by byte: it is short. */
static cn_status read_size(cn_h1 *h1, const uint8_t **bytes, size_t *count)
{
    while (*count > 0) {
        uint8_t byte = **bytes;
        (*bytes)++;
        (*count)--;
        if (h1->saw_cr) {
            if (byte != '\n')
                return cn_h1_fail(h1, 400, "malformed chunk size");
            h1->saw_cr = h1->in_extension = h1->has_digits = false;
            if (h1->remaining == 0)
                cn_h1_begin_section(h1, CN_H1_IN_TRAILERS);
            else
                h1->state = CN_H1_IN_CHUNK;
            return CN_OK;
        }
        if (byte == '\r' && h1->has_digits) {
            h1->saw_cr = true;
        } else if (h1->in_extension) {
            if (!cn_is_field_value(&byte, 1) || ++h1->extension_bytes > MAX_EXTENSION_BYTES)
                return cn_h1_fail(h1, 400, "malformed chunk extension");
        } else if (byte == ';' && h1->has_digits) {
            h1->in_extension = true;
        } else {
            uint64_t digit;
            if (byte >= '0' && byte <= '9')
                digit = byte - '0';
            else if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f')
                digit = (uint64_t)(byte | 0x20) - 'a' + 10;
            else
                return cn_h1_fail(h1, 400, "malformed chunk size");
            if (h1->remaining >> 58 != 0)
                return cn_h1_fail(h1, 400, "chunk size overflows");
            h1->remaining = h1->remaining << 4 | digit;
            h1->has_digits = true;
        }
    }
    return CN_OK;
}

static cn_status read_chunk_end(cn_h1 *h1, const uint8_t **bytes, size_t *count)
{
    while (*count > 0) {
        uint8_t byte = **bytes;
        (*bytes)++;
        (*count)--;
        if (byte != (h1->saw_cr ? '\n' : '\r'))
            return cn_h1_fail(h1, 400, "chunk longer than its size");
        if (h1->saw_cr) {
            h1->saw_cr = false;
            h1->state = CN_H1_IN_SIZE;
            return CN_OK;
        }
        h1->saw_cr = true;
    }
    return CN_OK;
}

static void take_body(cn_h1 *h1, const uint8_t **bytes, size_t *count, cn_h1_state next)
{
    size_t taken = *count < h1->remaining ? *count : (size_t)h1->remaining;
    h1->body = (cn_span){*bytes, taken};
    *bytes += taken;
    *count -= taken;
    h1->remaining -= taken;
    if (h1->remaining == 0)
        h1->state = next;
}

cn_status cn_h1_next(cn_h1 *h1, const uint8_t **bytes, size_t *count, cn_field *fields,
                     size_t field_capacity, cn_h1_event *event_p)
{
    /* What the last event carried is not needed any more. */
    bool is_in_section = h1->state == CN_H1_IN_HEAD || h1->state == CN_H1_IN_TRAILERS;
    if (!is_in_section || h1->scanned == 0)
        cn_bytes_free(&h1->held);
    cn_status status = CN_OK;
    while (status == CN_OK) {
        switch (h1->state) {
        case CN_H1_IN_HEAD:
            return next_head(h1, bytes, count, fields, field_capacity, event_p);
        case CN_H1_IN_TRAILERS:
            return next_trailers(h1, bytes, count, fields, field_capacity, event_p);
        case CN_H1_AT_END:
            h1->state = CN_H1_OVER;
            h1->head.field_count = 0;
            *event_p = CN_H1_END;
            return CN_OK;
        case CN_H1_OVER:
            *event_p = CN_H1_NEED_MORE;
            return CN_OK;
        default:
            break;
        }
        if (*count == 0) {
            *event_p = CN_H1_NEED_MORE;
            return CN_OK;
        }
        switch (h1->state) {
        case CN_H1_IN_SIZE:
            status = read_size(h1, bytes, count);
            break;
        case CN_H1_IN_CHUNK_END:
            status = read_chunk_end(h1, bytes, count);
            break;
        default:
            if (h1->state == CN_H1_IN_REST)
                h1->remaining = UINT64_MAX;
            take_body(h1, bytes, count,
                      h1->state == CN_H1_IN_CHUNK ? CN_H1_IN_CHUNK_END : CN_H1_AT_END);
            *event_p = CN_H1_BODY;
            return CN_OK;
        }
    }
    return status;
}

cn_status cn_h1_end_of_input(cn_h1 *h1)
{
    if (h1->state == CN_H1_IN_REST) {
        h1->state = CN_H1_AT_END;
        return CN_OK;
    }
    return cn_h1_is_inside(h1) ? CN_CLOSED : CN_OK;
}
