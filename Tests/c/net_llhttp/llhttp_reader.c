/* The reading of llhttp. */
#include "compare.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Its other parts: llhttp_parser.c. */
#include <api.c>
#include <http.c>

enum { MAX_FIELD_COUNT = 4096 };

typedef struct span {
    const char *data; /* into the input, which llhttp gets as a whole */
    size_t count;
} span;

typedef struct field {
    span name;
    span value;
} field;

typedef struct peer {
    llhttp_t parser; /* first */
    reading *reading;
    bool is_head;
    bool has_head; /* of a message that is not over */
    bool is_interim;
    bool keeps; /* the connection outlives the message */
    span target;
    span method;
    field fields[MAX_FIELD_COUNT];
    size_t field_count;
} peer;

static bool is(span span, const char *text)
{
    return span.count == strlen(text) && strncasecmp(span.data, text, span.count) == 0;
}

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

static span trimmed(span span)
{
    while (span.count > 0 && is_blank(span.data[span.count - 1]))
        span.count--;
    while (span.count > 0 && is_blank(span.data[0])) {
        span.data++;
        span.count--;
    }
    return span;
}

static void extend(span *span, const char *data, size_t count)
{
    if (span->data == NULL)
        span->data = data;
    span->count = (size_t)(data + count - span->data);
}

/* Whether a `connection` field lists it. */
static bool is_listed(const peer *peer, span wanted)
{
    for (size_t i = 0; i < peer->field_count; i++) {
        if (!is(peer->fields[i].name, "connection"))
            continue;
        span list = peer->fields[i].value;
        while (list.count > 0) {
            const char *comma = memchr(list.data, ',', list.count);
            size_t count = comma == NULL ? list.count : (size_t)(comma - list.data);
            span element = trimmed((span){list.data, count});
            if (element.count == wanted.count &&
                strncasecmp(element.data, wanted.data, wanted.count) == 0)
                return true;
            count += comma == NULL ? 0 : 1;
            list = (span){list.data + count, list.count - count};
        }
    }
    return false;
}

/* Whether the connection outlives the message. llhttp misses a word that a tab follows, and on
 * HTTP/1.0 it lets keep-alive win over close; by RFC 9112 section 9.3 close wins. */
static bool keeps_connection(const peer *peer)
{
    static const span close = {"close", 5}, keep_alive = {"keep-alive", 10};
    return (llhttp_should_keep_alive(&peer->parser) || is_listed(peer, keep_alive)) &&
           !is_listed(peer, close) && !llhttp_message_needs_eof(&peer->parser);
}

/* CNet leaves out what belongs to the connection. */
static bool is_shown(const peer *peer, span name)
{
    static const char *const hidden[] = {"connection", "transfer-encoding", "keep-alive",
                                         "proxy-connection", "upgrade", "expect"};
    for (size_t i = 0; i < sizeof hidden / sizeof hidden[0]; i++) {
        if (is(name, hidden[i]))
            return false;
    }
    if (is(name, "host") && peer->parser.type == HTTP_REQUEST)
        return false;
    return is(name, "close") || !is_listed(peer, name);
}

static void note_fields(peer *peer, bool of_head)
{
    for (size_t i = 0; i < peer->field_count; i++) {
        const field *field = &peer->fields[i];
        if (of_head && !is_shown(peer, field->name))
            continue;
        note_name(peer->reading, field->name.data, field->name.count);
        span value = trimmed(field->value);
        note_bytes(peer->reading, "=", value.data, value.count);
    }
    peer->field_count = 0;
    peer->fields[0] = (field){0};
}

/* An absolute target as CNet shows it: its authority instead of `host`, and the path. */
static void note_target(peer *peer)
{
    span target = peer->target, authority = {"", 0};
    for (size_t i = peer->field_count; i > 0; i--) {
        if (is(peer->fields[i - 1].name, "host"))
            authority = trimmed(peer->fields[i - 1].value);
    }
    size_t scheme = 0;
    if (target.count > 7 && strncasecmp(target.data, "http://", 7) == 0)
        scheme = 7;
    if (target.count > 8 && strncasecmp(target.data, "https://", 8) == 0)
        scheme = 8;
    if (scheme > 0) {
        const char *begin = target.data + scheme, *end = target.data + target.count;
        const char *slash = memchr(begin, '/', (size_t)(end - begin));
        authority = (span){begin, (size_t)((slash == NULL ? end : slash) - begin)};
        target = slash == NULL ? (span){"/", 1} : (span){slash, (size_t)(end - slash)};
    }
    note_bytes(peer->reading, " ", target.data, target.count);
    note_bytes(peer->reading, " host=", authority.data, authority.count);
}

static int on_method(llhttp_t *parser, const char *data, size_t count)
{
    extend(&((peer *)parser)->method, data, count);
    return 0;
}

static int on_url(llhttp_t *parser, const char *data, size_t count)
{
    extend(&((peer *)parser)->target, data, count);
    return 0;
}

static field *open_field(peer *peer)
{
    if (peer->field_count == MAX_FIELD_COUNT)
        abort();
    return &peer->fields[peer->field_count];
}

static int on_name(llhttp_t *parser, const char *data, size_t count)
{
    extend(&open_field((peer *)parser)->name, data, count);
    return 0;
}

static int on_value(llhttp_t *parser, const char *data, size_t count)
{
    extend(&open_field((peer *)parser)->value, data, count);
    return 0;
}

static int on_value_complete(llhttp_t *parser)
{
    peer *peer = (struct peer *)parser;
    peer->field_count++;
    if (peer->field_count < MAX_FIELD_COUNT)
        peer->fields[peer->field_count] = (field){0};
    return 0;
}

static int on_headers_complete(llhttp_t *parser)
{
    peer *peer = (struct peer *)parser;
    reading *reading = peer->reading;
    bool is_request = parser->type == HTTP_REQUEST;
    peer->is_interim = !is_request && parser->status_code < 200;
    /* What llhttp leaves to its caller (RFC 9112 section 6.3, rule 1). */
    bool is_bodiless = !is_request && (peer->is_head || peer->is_interim ||
                                       parser->status_code == 204 || parser->status_code == 304);
    /* CNet speaks no other protocol on the connection: an offer of one is passed over. */
    if (parser->method != HTTP_CONNECT && parser->status_code != 101)
        parser->upgrade = 0;
    if (is_bodiless)
        parser->flags |= F_SKIPBODY;
    peer->has_head = true;
    peer->keeps = keeps_connection(peer);
    if (is_request) {
        note_bytes(reading, "", peer->method.data, peer->method.count);
        note_target(peer);
    } else {
        note_number(reading, "", parser->status_code);
    }
    note(reading, parser->http_minor == 0 ? " 1.0" : " 1.1");
    note(reading, peer->keeps ? " keep" : " close");
    note_fields(peer, true);
    note(reading, "\n");
    return is_bodiless ? 1 : 0;
}

static int on_body(llhttp_t *parser, const char *data, size_t count)
{
    count_body(((peer *)parser)->reading, data, count);
    return 0;
}

static int on_message_complete(llhttp_t *parser)
{
    (void)parser;
    return HPE_PAUSED;
}

static int on_message_begin(llhttp_t *parser)
{
    peer *peer = (struct peer *)parser;
    peer->method = peer->target = (span){0};
    return 0;
}

static void note_end(peer *peer, size_t end)
{
    peer->has_head = false;
    if (peer->is_interim)
        return;
    note_body(peer->reading, end);
    note_fields(peer, false);
    note(peer->reading, "\n");
}

/* Why it failed; one reason for whatever is wrong behind the semicolon of a chunk's size line. */
static const char *reason(const peer *peer, const char *begin)
{
    const char *end = llhttp_get_error_pos(&peer->parser), *line = end;
    while (line > begin && line[-1] != '\n')
        line--;
    bool is_size_line = peer->has_head && (peer->parser.flags & F_TRAILING) == 0;
    if (is_size_line && memchr(line, ';', (size_t)(end - line)) != NULL)
        return "malformed chunk extension";
    return llhttp_get_error_reason(&peer->parser);
}

void read_with_llhttp(bool is_response, bool is_head, const uint8_t *input, size_t count,
                      reading *reading)
{
    static const llhttp_settings_t settings = {
        .on_message_begin = on_message_begin,
        .on_method = on_method,
        .on_url = on_url,
        .on_header_field = on_name,
        .on_header_value = on_value,
        .on_header_value_complete = on_value_complete,
        .on_headers_complete = on_headers_complete,
        .on_body = on_body,
        .on_message_complete = on_message_complete,
    };
    static peer peer;
    peer = (struct peer){.reading = reading, .is_head = is_head, .keeps = true};
    llhttp_init(&peer.parser, is_response ? HTTP_RESPONSE : HTTP_REQUEST, &settings);
    const char *begin = (const char *)input, *at = begin, *end = begin + count;
    llhttp_errno_t error = HPE_PAUSED;
    while (error == HPE_PAUSED && (peer.keeps || peer.is_interim)) {
        error = llhttp_execute(&peer.parser, at, (size_t)(end - at));
        if (error == HPE_PAUSED) {
            at = llhttp_get_error_pos(&peer.parser);
            note_end(&peer, (size_t)(at - begin));
            llhttp_resume(&peer.parser);
        }
    }
    if (error == HPE_OK && peer.has_head) {
        if (llhttp_finish(&peer.parser) == HPE_PAUSED)
            note_end(&peer, count);
        else
            reading->is_cut = true;
    } else if (error != HPE_OK && error != HPE_PAUSED) {
        reading->problem = reason(&peer, begin);
    }
}
