/* The HTTP/1.1 serialiser. */
#include <stdio.h>

#include "fields.h"
#include "h1.h"

const char *cn_h1_reason(uint32_t status)
{
    switch (status) {
    case 100: return "Continue";
    case 102: return "Processing";
    case 103: return "Early Hints";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 411: return "Length Required";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
    }
}

/* A value cannot end its line, whoever made it. */
static void copy_value(uint8_t *to, const uint8_t *value, size_t count)
{
    memcpy(to, value, count);
    if (cn_is_field_value(value, count))
        return;
    for (size_t i = 0; i < count; i++) {
        if (!cn_is_field_value(&to[i], 1))
            to[i] = ' ';
    }
}

static void append_field(cn_bytes *out, const uint8_t *name, size_t name_count,
                         const uint8_t *value, size_t value_count)
{
    uint8_t *room = cn_bytes_reserve(out, name_count + value_count + 4);
    if (room == NULL)
        return;
    memcpy(room, name, name_count);
    room += name_count;
    *room++ = ':';
    *room++ = ' ';
    if (value_count > 0)
        copy_value(room, value, value_count);
    room += value_count;
    *room++ = '\r';
    *room++ = '\n';
    out->end += name_count + value_count + 4;
}

static void append_fields(cn_bytes *out, const cn_head *head, bool keep_length)
{
    for (size_t i = 0; i < head->field_count; i++) {
        const cn_field *field = &head->fields[i];
        const uint8_t *name = cn_field_name(head, field);
        if (!cn_is_token(name, field->name_count))
            continue;
        cn_field_kind kind = cn_field_kind_of(name, field->name_count);
        bool is_length = kind == CN_FIELD_CONTENT_LENGTH && keep_length;
        /* Two would be ambiguous. */
        keep_length = keep_length && !is_length;
        if (kind == CN_FIELD_OTHER || is_length)
            append_field(out, name, field->name_count, cn_field_value(head, field),
                         field->value_count);
    }
}

static void append_framing(cn_bytes *out, int64_t content_length)
{
    if (content_length == CN_H1_CHUNKED) {
        cn_bytes_append_text(out, "transfer-encoding: chunked\r\n");
    } else if (content_length >= 0) {
        char text[48];
        int count = snprintf(text, sizeof text, "content-length: %lld\r\n",
                             (long long)content_length);
        cn_bytes_append(out, text, (size_t)count);
    }
}

/* Start lines have no place for blanks. */
static void append_word(cn_bytes *out, cn_span word)
{
    uint8_t *room = cn_bytes_reserve(out, word.count);
    if (room == NULL)
        return;
    for (size_t i = 0; i < word.count; i++)
        room[i] = word.data[i] <= ' ' || word.data[i] == 0x7F ? '_' : word.data[i];
    out->end += word.count;
}

void cn_h1_write_request(cn_bytes *out, const cn_head *head, int64_t content_length)
{
    append_word(out, head->method);
    cn_bytes_append(out, " ", 1);
    append_word(out, head->target);
    cn_bytes_append_text(out, " HTTP/1.1\r\nhost: ");
    append_word(out, head->authority);
    cn_bytes_append(out, "\r\n", 2);
    append_fields(out, head, content_length == CN_H1_KEEP_LENGTH);
    append_framing(out, content_length);
    cn_bytes_append(out, "\r\n", 2);
}

void cn_h1_write_response(cn_bytes *out, const cn_head *head, int64_t content_length,
                          bool keep_alive, cn_version version, cn_span date)
{
    char line[64];
    int count = snprintf(line, sizeof line, "HTTP/1.1 %u %s\r\n", head->status,
                         cn_h1_reason(head->status));
    cn_bytes_append(out, line, (size_t)count);
    append_fields(out, head, content_length == CN_H1_KEEP_LENGTH);
    append_framing(out, content_length);
    if (date.count > 0 && !cn_head_names(head, "date"))
        append_field(out, (const uint8_t *)"date", 4, date.data, date.count);
    if (!keep_alive)
        cn_bytes_append_text(out, "connection: close\r\n");
    else if (version == CN_HTTP_1_0)
        cn_bytes_append_text(out, "connection: keep-alive\r\n");
    cn_bytes_append(out, "\r\n", 2);
}

size_t cn_h1_size_line(char *line, size_t count)
{
    static const char digits[] = "0123456789abcdef";
    size_t used = 0;
    for (int shift = 60; shift >= 0; shift -= 4) {
        size_t digit = count >> shift & 15;
        if (digit != 0 || used > 0 || shift == 0)
            line[used++] = digits[digit];
    }
    line[used++] = '\r';
    line[used++] = '\n';
    return used;
}

void cn_h1_write_last_chunk(cn_bytes *out, const cn_head *trailers)
{
    cn_bytes_append(out, "0\r\n", 3);
    if (trailers != NULL)
        append_fields(out, trailers, false);
    cn_bytes_append(out, "\r\n", 2);
}
