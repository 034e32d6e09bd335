/*
 * A connection: a TCP socket on a loop, TLS if wanted, and one of the two codecs, or none, on top.
 *
 *   connection.c     the socket: reading, writing, deadlines, the end
 *   connection_h1.c  what bytes and exchanges mean on HTTP/1
 *   connection_h2.c  and on HTTP/2
 *   exchange.c       the functions of exchanges, and their deadlines
 *   listener.c       connections from clients
 *   client.c         connections to servers
 *
 * Events are delivered from the loop's callbacks alone. Functions that users call change state and
 * mark the connection; cn_connection_settle, at the end of the turn, does what follows from it.
 */
#ifndef CN_CONNECTION_H
#define CN_CONNECTION_H

#include "h1.h"
#include "h2.h"
#include "loop.h"
#include "tls.h"

#pragma GCC visibility push(hidden)

typedef struct cn_connection cn_connection;

struct cn_exchange {
    cn_connection *connection;
    void *user;
    cn_h2_stream *stream; /* NULL on HTTP/1 */
    cn_node blocked;      /* HTTP/2: in the connection's ring while `writable` is owed */
    cn_deadline deadline;
    uint64_t in_ns;      /* last progress of the incoming message */
    uint64_t out_ns;     /* last progress of the outgoing message */
    size_t seen_bytes;   /* of the outgoing queue, when the deadline was last looked at */
    int64_t out_left;    /* HTTP/1, known length: bytes still to come */
    cn_status end_status; /* decided on this side; CN_OK: not */
    bool is_detached;    /* no events */
    bool is_paused;
    bool is_blocked;     /* `writable` is owed */
    bool is_head_request;
    bool needs_continue; /* the client waits for a 100 */
    bool has_responded;  /* servers: the response was started; clients: it has arrived */
    bool in_ended;
    bool out_finished;
    bool out_chunked;
    bool out_bodiless;
    bool was_sent;
};

typedef enum cn_mode {
    CN_MODE_RESOLVING,
    CN_MODE_CONNECTING,
    CN_MODE_HANDSHAKE, /* TLS */
    CN_MODE_SNIFFING,  /* servers: which version? */
    CN_MODE_H1,
    CN_MODE_H2,
    CN_MODE_BYTES,     /* clients: no codec */
    CN_MODE_LINGERING, /* the last byte is written: what still comes is dropped */
} cn_mode;

/* What the connection's own deadline stands for. */
typedef enum cn_wait {
    CN_WAIT_NONE,
    CN_WAIT_CONNECT,
    CN_WAIT_HEAD,
    CN_WAIT_IDLE,
    CN_WAIT_LINGER,
} cn_wait;

struct cn_connection {
    cn_resource resource; /* first */
    cn_deferred deferred;
    cn_node siblings; /* servers: in the listener's ring */
    cn_loop *loop;
    cn_listener *listener; /* servers */
    cn_client *client;     /* clients */
    const cn_connection_config *config;
    const cn_exchange_events *events;
    uv_tcp_t tcp;
    uv_write_t write;
    uv_shutdown_t shutdown;
    cn_mode mode;
    cn_wait wait;
    cn_deadline deadline;
    bool is_open; /* tcp is initialised */
    bool is_closing;
    bool is_reading;
    bool input_ended;
    bool is_writing;       /* `flight` belongs to libuv */
    bool is_out_broken;    /* clients: writing failed, reading may still bring a response */
    bool closes_when_flushed;
    bool lingers;          /* at the end, for a client that still sends */
    bool is_draining;
    bool is_ready;         /* clients: reported as connected */
    bool frees_stream;     /* HTTP/2: a stream ended since the last settle */
    int32_t awaited_head;  /* HTTP/2 servers: the stream that CN_WAIT_HEAD is about */
    char peer[INET6_ADDRSTRLEN + 8]; /* host:port, or [host]:port; empty: not asked yet */
    uint32_t spoiled_count; /* HTTP/2 servers: requests that did not get their answer */
    uint64_t spoiled_ns;    /* and when the count was last lowered */
    bool resets;           /* the end must not look like the end of a body */
    size_t open_count;     /* what must be closed before the memory goes */
    cn_status failure;     /* decided in a call, acted on by settle */
    const char *failure_detail;
    cn_bytes out;    /* waiting to be encrypted or written */
    cn_bytes cipher; /* TLS: waiting to be written */
    cn_bytes flight;
    cn_bytes stash;  /* received, not looked at yet: pipelined requests, a partial preface */
    cn_tls *tls;
    cn_h1 h1;
    cn_exchange *current; /* HTTP/1 and bytes */
    uint64_t discarded_bytes; /* HTTP/1: of a request that has its answer; lingering: of anything */
    bool is_discarding;
    cn_h2 *h2;
    cn_node blocked; /* HTTP/2: ring of exchanges */
};

/* ---- connection.c */

cn_status cn_connection_init(cn_connection *connection, cn_loop *loop,
                             const cn_connection_config *config, const cn_exchange_events *events);
/* Servers after accept, clients after connect: TLS or not. */
void cn_connection_begin(cn_connection *connection);
/* Reads or does not, as the connection's state wants it. */
void cn_connection_update_reading(cn_connection *connection);
/* Queues bytes, or writes them at once if they are many. */
void cn_connection_send(cn_connection *connection, const cn_span *spans, size_t span_count);
/* Writes what is queued, as far as the socket takes it. */
void cn_connection_flush(cn_connection *connection);
/* Bytes that the socket has not taken. */
size_t cn_connection_backlog(const cn_connection *connection);
/* Settles at the end of the turn. */
void cn_connection_touch(cn_connection *connection);
/* Ends at the end of the turn. The first reason counts. */
void cn_connection_fail(cn_connection *connection, cn_status status, const char *detail);
/* Ends now, with its exchanges. Not inside of a call. */
void cn_connection_close(cn_connection *connection, cn_status status, const char *detail);
/* Ends once everything queued is written. */
void cn_connection_close_when_flushed(cn_connection *connection, bool lingers);
void cn_connection_wait(cn_connection *connection, cn_wait wait, uint32_t timeout_ms);

/* ---- connection_h1.c */

void cn_connection_h1_receive(cn_connection *connection, const uint8_t *bytes, size_t count);
void cn_connection_h1_end_of_input(cn_connection *connection);
void cn_connection_h1_settle(cn_connection *connection);
/* Servers: answers in place of a handler, then closes. `reason` is for the exchange. */
void cn_connection_h1_refuse(cn_connection *connection, uint32_t http_status, cn_status reason,
                             const char *problem);
void cn_connection_h1_start(cn_exchange *exchange, const cn_head *head, int64_t body_bytes);
void cn_connection_h1_respond(cn_exchange *exchange, const cn_head *head);
void cn_connection_h1_inform(cn_exchange *exchange, uint32_t status);
void cn_connection_h1_write(cn_exchange *exchange, const uint8_t *bytes, size_t count);
void cn_connection_h1_finish(cn_exchange *exchange, const cn_head *trailers);

/* ---- connection_h2.c */

cn_status cn_connection_h2_start(cn_connection *connection);
void cn_connection_h2_receive(cn_connection *connection, const uint8_t *bytes, size_t count);
void cn_connection_h2_settle(cn_connection *connection);

/* ---- exchange.c */

/* NULL without memory. */
cn_exchange *cn_exchange_new(cn_connection *connection);
/* Reports `closed` and frees. */
void cn_exchange_close(cn_exchange *exchange, cn_status status, const char *detail);
/* Servers: shows a request to the handler, or answers 404. */
void cn_exchange_dispatch(cn_exchange *exchange, const cn_head *head);
/* Servers: answers in place of a handler. */
void cn_exchange_refuse(cn_exchange *exchange, uint32_t status, const char *problem);
/* Looks again at which deadline is next. */
void cn_exchange_arm(cn_exchange *exchange);
/* Reports `writable` if it is owed and the queue is short. */
void cn_exchange_report_writable(cn_exchange *exchange);
/* The body of an answer that no handler gave, in the form of OpenAI's API. */
enum { CN_ERROR_BODY_BYTES = 256 };
size_t cn_error_body(char *text, uint32_t status, const char *problem);

/* ---- listener.c and client.c */

void *cn_listener_request(cn_listener *listener, cn_exchange *exchange, const cn_head *head);
const cn_listener_config *cn_listener_get_config(const cn_listener *listener);
void cn_listener_forget(cn_listener *listener, cn_connection *connection);
uint32_t cn_client_response_timeout(const cn_client *client);
uint32_t cn_client_keep_alive(const cn_client *client);
cn_codec cn_client_codec(const cn_client *client);
const char *cn_client_server_name(const cn_client *client);
/* The codec is chosen. */
void cn_client_ready(cn_client *client);
/* Reports `available` if an exchange may start. */
void cn_client_report_available(cn_client *client);
/* Reports `closed`. */
void cn_client_closed(cn_client *client, cn_status status, const char *detail);
void cn_client_free(cn_client *client);

#pragma GCC visibility pop

#endif
