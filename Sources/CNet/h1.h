/*
 * HTTP/1.1 (RFC 9112) without sockets: bytes in, events out; heads and framing into bytes.
 *
 * Strict where leniency lets two parsers disagree: bare LF or CR, obs-fold, blanks before a colon,
 * repeated or malformed content-length, content-length beside transfer-encoding, any coding but
 * chunked, control bytes, and chunk sizes that overflow are refused.
 */
#ifndef CN_H1_H
#define CN_H1_H

#include "bytes.h"
#include "cnet.h"

#pragma GCC visibility push(hidden)

typedef enum cn_h1_event {
    CN_H1_NEED_MORE, /* all input is consumed, or the message is over */
    CN_H1_HEAD,
    CN_H1_BODY,
    CN_H1_END,
} cn_h1_event;

typedef enum cn_h1_state {
    CN_H1_IN_HEAD,
    CN_H1_IN_BODY,       /* of `remaining` bytes */
    CN_H1_IN_SIZE,       /* a chunk's size line */
    CN_H1_IN_CHUNK,      /* `remaining` bytes of a chunk */
    CN_H1_IN_CHUNK_END,  /* the CRLF after a chunk */
    CN_H1_IN_TRAILERS,
    CN_H1_IN_REST,       /* a body that the end of the connection ends */
    CN_H1_AT_END,        /* only the END event is left */
    CN_H1_OVER,          /* until cn_h1_next_message */
} cn_h1_state;

/* One direction of a connection. */
typedef struct cn_h1 {
    bool is_response;
    bool without_body;    /* responses: the request was HEAD */
    bool keep_alive;      /* the connection outlives this message */
    bool expects_continue;
    bool has_digits;      /* of a chunk's size */
    bool in_extension;    /* of a chunk's size line */
    bool saw_cr;
    uint8_t empty_lines;  /* before the head */
    cn_h1_state state;
    cn_version version;
    uint32_t max_head_bytes;
    uint32_t extension_bytes; /* of all chunks of the message */
    uint64_t remaining;
    int64_t content_length; /* -1: none */
    cn_bytes held;          /* a section of which the end has not come */
    size_t scanned;         /* of the section: looked at */
    size_t line_begin;      /* of the section: where the current line starts */
    const char *problem;    /* after a failure: what was wrong; static */
    uint32_t problem_status; /* and the status code to answer with */
    /* What the last event carries. */
    cn_head head;  /* HEAD; END: the trailers, if field_count > 0 */
    cn_span body;  /* BODY: inside the input */
} cn_h1;

void cn_h1_init(cn_h1 *h1, bool is_response, uint32_t max_head_bytes);
void cn_h1_free(cn_h1 *h1);
/* After END: takes the next message. */
void cn_h1_next_message(cn_h1 *h1);
/* Consumes input and reports one event. `fields` is room for `field_capacity` fields; what an event
 * carries is valid until the next call. Fails with CN_PROTOCOL or CN_HEAD_TOO_LARGE. */
cn_status cn_h1_next(cn_h1 *h1, const uint8_t **bytes, size_t *count, cn_field *fields,
                     size_t field_capacity, cn_h1_event *event_p);
/* The input ended. CN_OK if that ends the message (the END event is then due) or falls between
 * messages, CN_CLOSED if it cuts one off. */
cn_status cn_h1_end_of_input(cn_h1 *h1);
/* Whether a message has begun and is not over. */
bool cn_h1_is_inside(const cn_h1 *h1);

/* Writers. Fields of the connection, and content-length unless `content_length` is
 * CN_H1_KEEP_LENGTH, are left out and written as the other arguments say. */
enum { CN_H1_KEEP_LENGTH = -1, CN_H1_NO_BODY = -2, CN_H1_CHUNKED = -3 };

void cn_h1_write_request(cn_bytes *out, const cn_head *head, int64_t content_length);
/* `date` is written unless it is empty or the head has one. */
void cn_h1_write_response(cn_bytes *out, const cn_head *head, int64_t content_length,
                          bool keep_alive, cn_version version, cn_span date);
/* The line before a chunk; CRLF follows the chunk. At most CN_H1_SIZE_LINE bytes. */
enum { CN_H1_SIZE_LINE = 18 };
size_t cn_h1_size_line(char *line, size_t count);
/* The end of a chunked body; trailers may be NULL. */
void cn_h1_write_last_chunk(cn_bytes *out, const cn_head *trailers);
/* "Not Found" and so on; never NULL. */
const char *cn_h1_reason(uint32_t status);

#pragma GCC visibility pop

#endif
