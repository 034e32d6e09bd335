/*
 * HTTP/2 (RFC 9113) without sockets, over nghttp2: bytes in, events and bytes out.
 *
 * Events come from cn_h2_receive and cn_h2_send alone. Window updates are sent for what was
 * delivered while a stream is not paused; the connection's window never waits for one stream.
 */
#ifndef CN_H2_H
#define CN_H2_H

#include "bytes.h"
#include "cnet.h"

#pragma GCC visibility push(hidden)

typedef struct cn_h2 cn_h2;

typedef struct cn_h2_stream {
    int32_t id;
    bool has_head; /* the incoming head is complete */
    bool in_ended; /* the incoming message is complete */
    bool expects_continue;
    bool paused;
    bool has_responded;    /* servers */
    bool out_finished;     /* nothing follows what is pending */
    bool out_sent;         /* the outgoing message is handed over, to its end */
    bool deferred;         /* nghttp2 waits for data */
    size_t unconsumed_bytes; /* delivered while paused */
    cn_bytes pending;      /* body not yet framed */
    bool has_trailers;
    cn_bytes trailers;     /* names and values, copied */
    cn_field *trailer_fields;
    size_t trailer_count;
    void *user; /* NULL until set */
    struct cn_h2_stream *next, *previous;
} cn_h2_stream;

typedef struct cn_h2_events {
    /* Servers: a request, or NULL if its head is too large. Clients: the response of a stream. */
    void (*head)(void *user, cn_h2_stream *stream, const cn_head *head);
    void (*body)(void *user, cn_h2_stream *stream, const uint8_t *bytes, size_t count);
    void (*ended)(void *user, cn_h2_stream *stream, const cn_head *trailers);
    /* Last; the stream is gone when it returns. CN_OK: both messages went to their ends. */
    void (*closed)(void *user, cn_h2_stream *stream, cn_status status);
} cn_h2_events;

typedef struct cn_h2_config {
    bool is_client;
    uint32_t max_head_bytes;
    uint32_t stream_window_bytes;
    uint32_t max_stream_count;
} cn_h2_config;

cn_status cn_h2_create(const cn_h2_config *config, const cn_h2_events *events, void *user,
                       cn_h2 **h2_p);
/* Without events. */
void cn_h2_destroy(cn_h2 *h2);
/* CN_PROTOCOL: the connection is over once what cn_h2_send still yields is sent. */
cn_status cn_h2_receive(cn_h2 *h2, const uint8_t *bytes, size_t count);
/* Appends frames to `out` until nothing is due or `out` holds `limit_bytes`. */
cn_status cn_h2_send(cn_h2 *h2, cn_bytes *out, size_t limit_bytes);
/* Neither side has anything left to say. */
bool cn_h2_is_over(const cn_h2 *h2);
/* Text for a failure of receive or send; static. */
const char *cn_h2_problem(const cn_h2 *h2);

/* The peer's SETTINGS arrived: it speaks HTTP/2, and its limits are known. */
bool cn_h2_has_settings(const cn_h2 *h2);
size_t cn_h2_stream_count(const cn_h2 *h2);
cn_h2_stream *cn_h2_first_stream(const cn_h2 *h2);
/* The stream of which a head is begun and not complete; 0: none. Nothing else may come before its
 * end, on any stream. */
int32_t cn_h2_open_head(const cn_h2 *h2);
/* Clients: how many more requests may start; 0 after GOAWAY. */
size_t cn_h2_capacity(const cn_h2 *h2);
/* Clients. With `has_body`, writes and a finish follow. */
cn_status cn_h2_request(cn_h2 *h2, const cn_head *head, const char *scheme, bool has_body,
                        void *stream_user, cn_h2_stream **stream_p);
/* Servers. An interim response leaves the stream waiting for another. `date` is sent unless it is
 * empty or the head has one. */
cn_status cn_h2_respond(cn_h2 *h2, cn_h2_stream *stream, const cn_head *head, bool has_body,
                        cn_span date);
void cn_h2_write(cn_h2 *h2, cn_h2_stream *stream, const uint8_t *bytes, size_t count);
/* trailers may be NULL. */
void cn_h2_finish(cn_h2 *h2, cn_h2_stream *stream, const cn_head *trailers);
void cn_h2_reset(cn_h2 *h2, cn_h2_stream *stream);
/* Reports `closed` and forgets the stream: the connection is gone. */
void cn_h2_drop(cn_h2 *h2, cn_h2_stream *stream, cn_status status);
void cn_h2_pause(cn_h2_stream *stream);
void cn_h2_resume(cn_h2 *h2, cn_h2_stream *stream);
/* Servers: GOAWAY that lets streams on their way in, then, after a round trip, the last one. */
void cn_h2_drain(cn_h2 *h2);
/* GOAWAY now: nothing more is received. `is_abuse`: the peer is told to calm down. */
void cn_h2_end(cn_h2 *h2, bool is_abuse);

#pragma GCC visibility pop

#endif
