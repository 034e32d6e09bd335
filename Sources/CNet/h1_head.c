/* Heads and trailers of HTTP/1.1. */
#include "h1_head.h"

#include "fields.h"

enum { MAX_METHOD_BYTES = 32, MAX_NAMED_COUNT = 16 };

cn_status cn_h1_fail(cn_h1 *h1, uint32_t status, const char *problem)
{
    h1->problem = problem;
    h1->problem_status = status;
    return status == 431 ? CN_HEAD_TOO_LARGE : CN_PROTOCOL;
}

void cn_h1_begin_section(cn_h1 *h1, cn_h1_state state)
{
    h1->state = state;
    h1->scanned = h1->line_begin = 0;
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
    size_t named_count;
    line named[MAX_NAMED_COUNT]; /* by `connection`: fields that belong to it */
} framing;

static cn_status note_connection(cn_h1 *h1, framing *framing, line list)
{
    while (list.count > 0) {
        line element = take_element(&list);
        if (cn_equals_ignoring_case(element.data, element.count, "close"))
            framing->says_close = true;
        else if (cn_equals_ignoring_case(element.data, element.count, "keep-alive"))
            framing->says_keep_alive = true;
        else if (element.count > 0 && framing->named_count == MAX_NAMED_COUNT)
            return cn_h1_fail(h1, 400, "connection names too many fields");
        else if (element.count > 0)
            framing->named[framing->named_count++] = element;
    }
    return CN_OK;
}

static bool is_named(const framing *framing, const cn_head *head, const cn_field *field)
{
    for (size_t i = 0; i < framing->named_count; i++) {
        const line *named = &framing->named[i];
        if (cn_names_equal(cn_field_name(head, field), field->name_count, named->data,
                           named->count))
            return true;
    }
    return false;
}

/* Removes the fields that the sender meant for this connection alone (RFC 9110 section 7.6.1). */
static void drop_named_fields(cn_head *head, cn_field *fields, const framing *framing)
{
    size_t kept = 0;
    for (size_t i = 0; i < head->field_count; i++) {
        if (!is_named(framing, head, &fields[i]))
            fields[kept++] = fields[i];
    }
    head->field_count = kept;
}

/* Takes note of a field that is about framing. Sets *keep_p if it goes into the head. */
static cn_status note_field(cn_h1 *h1, framing *framing, cn_field_kind kind, line value,
                            bool *keep_p)
{
    *keep_p = false;
    switch (kind) {
    case CN_FIELD_CONTENT_LENGTH:
        if (framing->content_length >= 0)
            return cn_h1_fail(h1, 400, "more than one content-length");
        framing->content_length = cn_parse_length(value.data, value.count);
        if (framing->content_length < 0)
            return cn_h1_fail(h1, 400, "malformed content-length");
        *keep_p = true;
        return CN_OK;
    case CN_FIELD_TRANSFER_ENCODING:
        if (framing->has_transfer_encoding)
            return cn_h1_fail(h1, 400, "more than one transfer-encoding");
        framing->has_transfer_encoding = true;
        framing->is_chunked = cn_equals_ignoring_case(value.data, value.count, "chunked");
        return CN_OK;
    case CN_FIELD_HOST:
        if (h1->is_response) {
            *keep_p = true;
            return CN_OK;
        }
        if (framing->has_host)
            return cn_h1_fail(h1, 400, "more than one host");
        if (!cn_is_authority(value.data, value.count))
            return cn_h1_fail(h1, 400, "malformed host");
        framing->has_host = true;
        /* An absolute target has precedence. */
        if (h1->head.authority.data == NULL)
            h1->head.authority = (cn_span){value.data, value.count};
        return CN_OK;
    case CN_FIELD_CONNECTION:
        return note_connection(h1, framing, value);
    case CN_FIELD_EXPECT:
        if (h1->is_response || h1->version == CN_HTTP_1_0)
            return CN_OK;
        if (!cn_equals_ignoring_case(value.data, value.count, "100-continue"))
            return cn_h1_fail(h1, 417, "unknown expectation");
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
        return cn_h1_fail(h1, 400, "folded header line");
    const uint8_t *colon = memchr(text.data, ':', text.count);
    if (colon == NULL)
        return cn_h1_fail(h1, 400, "header line without a colon");
    *name = (line){text.data, (size_t)(colon - text.data)};
    if (!cn_is_token(name->data, name->count))
        return cn_h1_fail(h1, 400, "malformed header name");
    const uint8_t *first = colon + 1, *last = text.data + text.count;
    while (first < last && (*first == ' ' || *first == '\t'))
        first++;
    while (last > first && (last[-1] == ' ' || last[-1] == '\t'))
        last--;
    *value = (line){first, (size_t)(last - first)};
    if (!cn_is_field_value(value->data, value->count))
        return cn_h1_fail(h1, 400, "control byte in a header value");
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
            status = cn_h1_fail(h1, 400, "trailer about framing");
        if (status != CN_OK)
            return status;
        if (!keep)
            continue;
        if (head->field_count == capacity)
            return cn_h1_fail(h1, 431, "too many header fields");
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
        return cn_h1_fail(h1, 400, "malformed HTTP version");
    if (data[5] != '1')
        return cn_h1_fail(h1, 505, "HTTP version not supported");
    h1->version = data[7] == '0' ? CN_HTTP_1_0 : CN_HTTP_1_1;
    return CN_OK;
}

/* Absolute form becomes origin form and an authority (RFC 9112 section 3.2.2). */
static cn_status parse_target(cn_h1 *h1, cn_span target)
{
    cn_head *head = &h1->head;
    if (!cn_is_target(target))
        return cn_h1_fail(h1, 400, "malformed request target");
    if (cn_is_origin_form(head->method, target)) {
        head->target = target;
        return CN_OK;
    }
    size_t scheme = 0;
    if (target.count > 7 && cn_equals_ignoring_case(target.data, 7, "http://"))
        scheme = 7;
    else if (target.count > 8 && cn_equals_ignoring_case(target.data, 8, "https://"))
        scheme = 8;
    if (scheme == 0)
        return cn_h1_fail(h1, 400, "malformed request target");
    const uint8_t *authority = target.data + scheme;
    size_t rest = target.count - scheme;
    const uint8_t *slash = memchr(authority, '/', rest);
    size_t authority_count = slash == NULL ? rest : (size_t)(slash - authority);
    if (authority_count == 0 || !cn_is_authority(authority, authority_count))
        return cn_h1_fail(h1, 400, "malformed request target");
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
        return cn_h1_fail(h1, 400, "malformed request line");
    cn_span method = {text.data, (size_t)(space - text.data)};
    if (!cn_is_token(method.data, method.count) || method.count > MAX_METHOD_BYTES)
        return cn_h1_fail(h1, 400, "malformed method");
    const uint8_t *target = space + 1;
    space = memchr(target, ' ', (size_t)(end - target));
    if (space == NULL)
        return cn_h1_fail(h1, 400, "malformed request line");
    cn_status status = parse_version(h1, space + 1, (size_t)(end - space - 1));
    if (status != CN_OK)
        return status;
    h1->head.method = method;
    if (method.count == 7 && memcmp(method.data, "CONNECT", 7) == 0)
        return cn_h1_fail(h1, 501, "CONNECT is not supported");
    return parse_target(h1, (cn_span){target, (size_t)(space - target)});
}

static cn_status parse_status_line(cn_h1 *h1, line text)
{
    if (text.count < 12 || text.data[8] != ' ' || (text.count > 12 && text.data[12] != ' '))
        return cn_h1_fail(h1, 502, "malformed status line");
    cn_status status = parse_version(h1, text.data, 8);
    if (status != CN_OK)
        return status;
    int64_t code = cn_parse_length(text.data + 9, 3);
    if (code < 100 || code > 599 || !cn_is_field_value(text.data + 12, text.count - 12))
        return cn_h1_fail(h1, 502, "malformed status line");
    h1->head.status = (uint32_t)code;
    return CN_OK;
}

/* ---- heads */

/* Decides how the body ends (RFC 9112 section 6.3). */
static cn_status frame_body(cn_h1 *h1, const framing *framing)
{
    if (framing->has_transfer_encoding) {
        if (framing->content_length >= 0)
            return cn_h1_fail(h1, 400, "content-length beside transfer-encoding");
        if (h1->version == CN_HTTP_1_0)
            return cn_h1_fail(h1, 400, "transfer-encoding in HTTP/1.0");
        if (!framing->is_chunked)
            return cn_h1_fail(h1, 501, "transfer-encoding other than chunked");
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

cn_status cn_h1_parse_head(cn_h1 *h1, const uint8_t *data, const uint8_t *end, cn_field *fields,
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
        return cn_h1_fail(h1, 400, "no host");
    h1->keep_alive = !framing.says_close &&
                     (h1->version == CN_HTTP_1_1 || framing.says_keep_alive);
    if (framing.named_count > 0)
        drop_named_fields(&h1->head, fields, &framing);
    status = frame_body(h1, &framing);
    if (status != CN_OK)
        return status;
    /* An interim response is followed by another head. */
    if (h1->is_response && h1->head.status < 200) {
        if (h1->head.status == 101)
            return cn_h1_fail(h1, 502, "unexpected switch of protocols");
        cn_h1_begin_section(h1, CN_H1_IN_HEAD);
    }
    return CN_OK;
}

cn_status cn_h1_parse_trailers(cn_h1 *h1, const uint8_t *data, const uint8_t *end,
                               cn_field *fields, size_t capacity)
{
    return parse_fields(h1, data, end, fields, capacity, NULL);
}
