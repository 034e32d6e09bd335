/* The HTTP/1.1 parser. */
#include "fields.h"
#include "h1.h"

/* Chunk extensions carry nothing that anybody uses. */
enum { MAX_EXTENSION_BYTES = 4096, MAX_METHOD_BYTES = 32, MAX_EMPTY_LINES = 2 };

static cn_status fail(cn_h1 *h1, uint32_t status, const char *problem)
{
    h1->problem = problem;
    h1->problem_status = status;
    return status == 431 ? CN_HEAD_TOO_LARGE : CN_PROTOCOL;
}

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

static void begin_section(cn_h1 *h1, cn_h1_state state)
{
    h1->state = state;
    h1->scanned = h1->line_begin = 0;
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
            return fail(h1, 400, "line without CR LF");
        bool is_empty = place - 1 == h1->line_begin;
        h1->scanned = h1->line_begin = place + 1;
        if (is_empty) {
            *end_p = place + 1;
            return CN_OK;
        }
    }
    return CN_OK;
}

/* One line, without its CR LF. */
typedef struct line {
    const uint8_t *data;
    size_t count;
} line;

static line take_line(const uint8_t **data, const uint8_t *end)
{
    const uint8_t *lf = memchr(*data, '\n', (size_t)(end - *data));
    line taken = {*data, (size_t)(lf - *data) - 1};
    *data = lf + 1;
    return taken;
}

/* Cuts the next element off a comma-separated list, without blanks round it. */
static line take_element(line *list)
{
    const uint8_t *comma = memchr(list->data, ',', list->count);
    line element = {list->data, comma == NULL ? list->count : (size_t)(comma - list->data)};
    size_t taken = element.count + (comma == NULL ? 0 : 1);
    list->data += taken;
    list->count -= taken;
    while (element.count > 0 && (*element.data == ' ' || *element.data == '\t')) {
        element.data++;
        element.count--;
    }
    while (element.count > 0 && (element.data[element.count - 1] == ' ' ||
                                 element.data[element.count - 1] == '\t'))
        element.count--;
    return element;
}

/* What the fields of a head say about its message. */
typedef struct framing {
    int64_t content_length; /* -1: none */
    bool has_transfer_encoding;
    bool is_chunked;
    bool has_host;
    bool says_close;
    bool says_keep_alive;
    bool names_fields; /* that belong to the connection, in `connection` */
    line connection;
} framing;

static void note_connection(framing *framing, line value)
{
    line list = value;
    while (list.count > 0) {
        line element = take_element(&list);
        if (cn_equals_ignoring_case(element.data, element.count, "close")) {
            framing->says_close = true;
        } else if (cn_equals_ignoring_case(element.data, element.count, "keep-alive")) {
            framing->says_keep_alive = true;
        } else if (element.count > 0) {
            framing->names_fields = true;
            framing->connection = value;
        }
    }
}

/* Removes the fields that the sender meant for this connection alone (RFC 9110 section 7.6.1). */
static void drop_named_fields(cn_head *head, cn_field *fields, line list)
{
    while (list.count > 0) {
        line element = take_element(&list);
        size_t kept = 0;
        for (size_t i = 0; i < head->field_count; i++) {
            const uint8_t *name = cn_field_name(head, &fields[i]);
            if (!cn_names_equal(name, fields[i].name_count, element.data, element.count))
                fields[kept++] = fields[i];
        }
        head->field_count = kept;
    }
}

/* Takes note of a field that is about framing. Sets *keep_p if it goes into the head. */
static cn_status note_field(cn_h1 *h1, framing *framing, cn_field_kind kind, line value,
                            bool *keep_p)
{
    *keep_p = false;
    switch (kind) {
    case CN_FIELD_CONTENT_LENGTH:
        if (framing->content_length >= 0)
            return fail(h1, 400, "more than one content-length");
        framing->content_length = cn_parse_length(value.data, value.count);
        if (framing->content_length < 0)
            return fail(h1, 400, "malformed content-length");
        *keep_p = true;
        return CN_OK;
    case CN_FIELD_TRANSFER_ENCODING:
        if (framing->has_transfer_encoding)
            return fail(h1, 400, "more than one transfer-encoding");
        framing->has_transfer_encoding = true;
        framing->is_chunked = cn_equals_ignoring_case(value.data, value.count, "chunked");
        return CN_OK;
    case CN_FIELD_HOST:
        if (h1->is_response) {
            *keep_p = true;
            return CN_OK;
        }
        if (framing->has_host)
            return fail(h1, 400, "more than one host");
        if (!cn_is_authority(value.data, value.count))
            return fail(h1, 400, "malformed host");
        framing->has_host = true;
        /* An absolute target has precedence. */
        if (h1->head.authority.data == NULL)
            h1->head.authority = (cn_span){value.data, value.count};
        return CN_OK;
    case CN_FIELD_CONNECTION:
        note_connection(framing, value);
        return CN_OK;
    case CN_FIELD_EXPECT:
        if (h1->is_response || h1->version == CN_HTTP_1_0)
            return CN_OK;
        if (!cn_equals_ignoring_case(value.data, value.count, "100-continue"))
            return fail(h1, 417, "unknown expectation");
        h1->expects_continue = true;
        return CN_OK;
    case CN_FIELD_HOP:
        return CN_OK;
    case CN_FIELD_TE:
    case CN_FIELD_OTHER:
        *keep_p = true;
        return CN_OK;
    }
    return CN_OK;
}

static cn_status parse_field(cn_h1 *h1, line text, line *name, line *value)
{
    if (text.data[0] == ' ' || text.data[0] == '\t')
        return fail(h1, 400, "folded header line");
    const uint8_t *colon = memchr(text.data, ':', text.count);
    if (colon == NULL)
        return fail(h1, 400, "header line without a colon");
    *name = (line){text.data, (size_t)(colon - text.data)};
    if (!cn_is_token(name->data, name->count))
        return fail(h1, 400, "malformed header name");
    const uint8_t *first = colon + 1, *last = text.data + text.count;
    while (first < last && (*first == ' ' || *first == '\t'))
        first++;
    while (last > first && (last[-1] == ' ' || last[-1] == '\t'))
        last--;
    *value = (line){first, (size_t)(last - first)};
    if (!cn_is_field_value(value->data, value->count))
        return fail(h1, 400, "control byte in a header value");
    return CN_OK;
}

/* The fields of a section. `framing` is NULL for trailers, which may not speak of framing. */
static cn_status parse_fields(cn_h1 *h1, const uint8_t *data, const uint8_t *end, cn_field *fields,
                              size_t capacity, framing *framing)
{
    cn_head *head = &h1->head;
    head->bytes = data;
    head->bytes_count = (size_t)(end - data);
    head->fields = fields;
    head->field_count = 0;
    const uint8_t *begin = data;
    for (;;) {
        line text = take_line(&data, end), name, value;
        if (text.count == 0)
            return CN_OK;
        cn_status status = parse_field(h1, text, &name, &value);
        if (status != CN_OK)
            return status;
        cn_field_kind kind = cn_field_kind_of(name.data, name.count);
        bool keep = true;
        if (framing != NULL)
            status = note_field(h1, framing, kind, value, &keep);
        else if (kind != CN_FIELD_OTHER)
            status = fail(h1, 400, "trailer about framing");
        if (status != CN_OK)
            return status;
        if (!keep)
            continue;
        if (head->field_count == capacity)
            return fail(h1, 431, "too many header fields");
        fields[head->field_count++] = (cn_field){
            .name_offset = (uint32_t)(name.data - begin),
            .name_count = (uint32_t)name.count,
            .value_offset = (uint32_t)(value.data - begin),
            .value_count = (uint32_t)value.count,
        };
    }
}

/* ---- start lines */

static cn_status parse_version(cn_h1 *h1, const uint8_t *data, size_t count)
{
    if (count != 8 || memcmp(data, "HTTP/", 5) != 0 || data[6] != '.' || data[5] < '0' ||
        data[5] > '9' || data[7] < '0' || data[7] > '9')
        return fail(h1, 400, "malformed HTTP version");
    if (data[5] != '1')
        return fail(h1, 505, "HTTP version not supported");
    h1->version = data[7] == '0' ? CN_HTTP_1_0 : CN_HTTP_1_1;
    return CN_OK;
}

/* Absolute form becomes origin form and an authority (RFC 9112 section 3.2.2). */
static cn_status parse_target(cn_h1 *h1, cn_span target)
{
    for (size_t i = 0; i < target.count; i++) {
        if (target.data[i] <= 0x20 || target.data[i] >= 0x7F)
            return fail(h1, 400, "malformed request target");
    }
    cn_head *head = &h1->head;
    if (target.count > 0 && target.data[0] == '/') {
        head->target = target;
        return CN_OK;
    }
    if (cn_equals_ignoring_case(head->method.data, head->method.count, "options") &&
        target.count == 1 && target.data[0] == '*') {
        head->target = target;
        return CN_OK;
    }
    size_t scheme = 0;
    if (target.count > 7 && cn_equals_ignoring_case(target.data, 7, "http://"))
        scheme = 7;
    else if (target.count > 8 && cn_equals_ignoring_case(target.data, 8, "https://"))
        scheme = 8;
    if (scheme == 0)
        return fail(h1, 400, "malformed request target");
    const uint8_t *authority = target.data + scheme;
    size_t rest = target.count - scheme;
    const uint8_t *slash = memchr(authority, '/', rest);
    size_t authority_count = slash == NULL ? rest : (size_t)(slash - authority);
    if (authority_count == 0 || !cn_is_authority(authority, authority_count))
        return fail(h1, 400, "malformed request target");
    head->authority = (cn_span){authority, authority_count};
    head->target = slash == NULL ? (cn_span){(const uint8_t *)"/", 1}
                                 : (cn_span){slash, rest - authority_count};
    return CN_OK;
}

static cn_status parse_request_line(cn_h1 *h1, line text)
{
    const uint8_t *end = text.data + text.count;
    const uint8_t *space = memchr(text.data, ' ', text.count);
    if (space == NULL)
        return fail(h1, 400, "malformed request line");
    cn_span method = {text.data, (size_t)(space - text.data)};
    if (!cn_is_token(method.data, method.count) || method.count > MAX_METHOD_BYTES)
        return fail(h1, 400, "malformed method");
    const uint8_t *target = space + 1;
    space = memchr(target, ' ', (size_t)(end - target));
    if (space == NULL)
        return fail(h1, 400, "malformed request line");
    cn_status status = parse_version(h1, space + 1, (size_t)(end - space - 1));
    if (status != CN_OK)
        return status;
    h1->head.method = method;
    if (method.count == 7 && memcmp(method.data, "CONNECT", 7) == 0)
        return fail(h1, 501, "CONNECT is not supported");
    return parse_target(h1, (cn_span){target, (size_t)(space - target)});
}

static cn_status parse_status_line(cn_h1 *h1, line text)
{
    if (text.count < 12 || text.data[8] != ' ' || (text.count > 12 && text.data[12] != ' '))
        return fail(h1, 502, "malformed status line");
    cn_status status = parse_version(h1, text.data, 8);
    if (status != CN_OK)
        return status;
    int64_t code = cn_parse_length(text.data + 9, 3);
    if (code < 100 || code > 599 || !cn_is_field_value(text.data + 12, text.count - 12))
        return fail(h1, 502, "malformed status line");
    h1->head.status = (uint32_t)code;
    return CN_OK;
}

/* ---- heads */

/* Decides how the body ends (RFC 9112 section 6.3). */
static cn_status frame_body(cn_h1 *h1, const framing *framing)
{
    if (framing->has_transfer_encoding) {
        if (framing->content_length >= 0)
            return fail(h1, 400, "content-length beside transfer-encoding");
        if (h1->version == CN_HTTP_1_0)
            return fail(h1, 400, "transfer-encoding in HTTP/1.0");
        if (!framing->is_chunked)
            return fail(h1, 501, "transfer-encoding other than chunked");
    }
    h1->content_length = framing->content_length;
    uint32_t status = h1->head.status;
    bool is_bodiless = h1->is_response &&
                       (h1->without_body || status < 200 || status == 204 || status == 304);
    if (is_bodiless) {
        h1->state = CN_H1_AT_END;
    } else if (framing->is_chunked) {
        h1->state = CN_H1_IN_SIZE;
    } else if (framing->content_length > 0) {
        h1->state = CN_H1_IN_BODY;
        h1->remaining = (uint64_t)framing->content_length;
    } else if (h1->is_response && framing->content_length < 0) {
        h1->state = CN_H1_IN_REST;
        h1->keep_alive = false;
    } else {
        h1->state = CN_H1_AT_END;
    }
    return CN_OK;
}

static cn_status parse_head(cn_h1 *h1, const uint8_t *data, const uint8_t *end, cn_field *fields,
                            size_t capacity)
{
    h1->head = (cn_head){0};
    h1->expects_continue = false;
    line first = take_line(&data, end);
    cn_status status = h1->is_response ? parse_status_line(h1, first)
                                       : parse_request_line(h1, first);
    if (status != CN_OK)
        return status;
    h1->head.version = h1->version;
    framing framing = {.content_length = -1};
    status = parse_fields(h1, data, end, fields, capacity, &framing);
    if (status != CN_OK)
        return status;
    if (!h1->is_response && h1->version == CN_HTTP_1_1 && !framing.has_host)
        return fail(h1, 400, "no host");
    h1->keep_alive = !framing.says_close &&
                     (h1->version == CN_HTTP_1_1 || framing.says_keep_alive);
    if (framing.names_fields)
        drop_named_fields(&h1->head, fields, framing.connection);
    status = frame_body(h1, &framing);
    if (status != CN_OK)
        return status;
    /* An interim response is followed by another head. */
    if (h1->is_response && h1->head.status < 200) {
        if (h1->head.status == 101)
            return fail(h1, 502, "unexpected switch of protocols");
        begin_section(h1, CN_H1_IN_HEAD);
    }
    return CN_OK;
}

/* Finds a whole section, in the input or in what is held; *data_p is NULL until it is there. */
static cn_status take_section(cn_h1 *h1, const uint8_t **bytes, size_t *count,
                              const uint8_t **data_p, size_t *count_p)
{
    *data_p = NULL;
    size_t held = cn_bytes_count(&h1->held), end;
    if (held == 0) {
        cn_status status = find_end(h1, *bytes, *count, &end);
        if (status != CN_OK)
            return status;
        if (end > 0 ? end <= h1->max_head_bytes : *count <= h1->max_head_bytes) {
            if (end > 0) {
                *data_p = *bytes;
                *count_p = end;
            } else {
                cn_bytes_append(&h1->held, *bytes, *count);
                end = *count;
            }
            *bytes += end;
            *count -= end;
            return h1->held.failed ? CN_NO_MEMORY : CN_OK;
        }
        return fail(h1, 431, "header section too large");
    }
    size_t taken = h1->max_head_bytes + 1 - held;
    if (taken > *count)
        taken = *count;
    cn_bytes_append(&h1->held, *bytes, taken);
    if (h1->held.failed)
        return CN_NO_MEMORY;
    cn_status status = find_end(h1, cn_bytes_front(&h1->held), held + taken, &end);
    if (status != CN_OK)
        return status;
    if ((end > 0 ? end : held + taken) > h1->max_head_bytes)
        return fail(h1, 431, "header section too large");
    if (end > 0) {
        taken = end - held;
        *data_p = cn_bytes_front(&h1->held);
        *count_p = end;
    }
    *bytes += taken;
    *count -= taken;
    return CN_OK;
}

static cn_status next_head(cn_h1 *h1, const uint8_t **bytes, size_t *count, cn_field *fields,
                           size_t capacity, cn_h1_event *event_p)
{
    *event_p = CN_H1_NEED_MORE;
    while (*count > 0) {
        /* What cannot begin a request, such as a TLS handshake, need not wait for a line's end. */
        if (!h1->is_response && h1->scanned == 0 && **bytes != '\r' && **bytes != '\n' &&
            !cn_is_token(*bytes, 1))
            return fail(h1, 400, "not a request line");
        const uint8_t *data;
        size_t data_count;
        cn_status status = take_section(h1, bytes, count, &data, &data_count);
        if (status != CN_OK || data == NULL)
            return status;
        if (data_count > 2) {
            status = parse_head(h1, data, data + data_count, fields, capacity);
            if (status == CN_OK)
                *event_p = CN_H1_HEAD;
            return status;
        }
        /* Empty lines before a request are passed over (RFC 9112 section 2.2). */
        if (h1->is_response || h1->empty_lines == MAX_EMPTY_LINES)
            return fail(h1, 400, "empty lines instead of a head");
        h1->empty_lines++;
        cn_bytes_free(&h1->held);
        begin_section(h1, CN_H1_IN_HEAD);
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
    status = parse_fields(h1, data, data + data_count, fields, capacity, NULL);
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
                return fail(h1, 400, "malformed chunk size");
            h1->saw_cr = h1->in_extension = h1->has_digits = false;
            if (h1->remaining == 0)
                begin_section(h1, CN_H1_IN_TRAILERS);
            else
                h1->state = CN_H1_IN_CHUNK;
            return CN_OK;
        }
        if (byte == '\r' && h1->has_digits) {
            h1->saw_cr = true;
        } else if (h1->in_extension) {
            if (!cn_is_field_value(&byte, 1) || ++h1->extension_bytes > MAX_EXTENSION_BYTES)
                return fail(h1, 400, "malformed chunk extension");
        } else if (byte == ';' && h1->has_digits) {
            h1->in_extension = true;
        } else {
            uint64_t digit;
            if (byte >= '0' && byte <= '9')
                digit = byte - '0';
            else if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f')
                digit = (uint64_t)(byte | 0x20) - 'a' + 10;
            else
                return fail(h1, 400, "malformed chunk size");
            if (h1->remaining >> 58 != 0)
                return fail(h1, 400, "chunk size overflows");
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
            return fail(h1, 400, "chunk longer than its size");
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
