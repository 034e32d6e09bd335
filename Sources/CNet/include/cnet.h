/*
 * CNet: event loops, processes, TLS, HTTP/1.1 and HTTP/2.
 *
 *   1  Status          cn_status, cn_status_message
 *   2  Heads           cn_span, cn_field, cn_head
 *   3  Loop            cn_loop_*
 *   4  Timers          cn_timer_*
 *   5  Watchers        cn_poll_*, cn_signals_*
 *   6  Processes       cn_process_*
 *   7  TLS contexts    cn_tls_context_*
 *   8  Exchanges       cn_exchange_*
 *   9  Server          cn_listener_*
 *  10  Client          cn_client_*
 *
 * Threads: everything belongs to one loop and is called on that loop's thread, except where a
 * function says "any thread". Callbacks run on the loop's thread and may call any function.
 * No callback is ever made from inside a call: calls change state, and the loop reports later.
 * Handles are created and destroyed by the functions of their name; destroy takes NULL.
 * Outputs come last, end in _p, and are written only on success.
 */
#ifndef CNET_H
#define CNET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- 1. Status ------------------------------------------------------------------------------ */

/* The numbers never change. */
#define CN_STATUS_MAP(X)                                                                           \
    X(OK, 0, "ok")                                                                                 \
    X(NO_MEMORY, -1, "out of memory")                                                              \
    X(INVALID_ARGUMENT, -2, "invalid argument")                                                    \
    X(SYSTEM, -3, "system call failed")                                                            \
    X(ADDRESS_IN_USE, -4, "address already in use")                                                \
    X(ADDRESS_NOT_AVAILABLE, -5, "address not available on this machine")                          \
    X(ACCESS_DENIED, -6, "permission denied")                                                      \
    X(NOT_FOUND, -7, "not found")                                                                  \
    X(RESOLVE_FAILED, -8, "host name does not resolve")                                            \
    X(CONNECT_REFUSED, -9, "connection refused")                                                   \
    X(CONNECT_FAILED, -10, "host or network unreachable")                                          \
    X(CONNECT_TIMEOUT, -11, "timed out connecting")                                                \
    X(HEAD_TIMEOUT, -12, "timed out waiting for a request head")                                   \
    X(RESPONSE_TIMEOUT, -13, "timed out waiting for a response head")                              \
    X(IDLE_TIMEOUT, -14, "timed out without progress")                                             \
    X(CLOSED, -15, "closed by the peer")                                                           \
    X(RESET, -16, "reset by the peer")                                                             \
    X(REFUSED, -17, "refused by the peer before processing")                                       \
    X(TLS, -18, "TLS failed")                                                                      \
    X(PROTOCOL, -19, "protocol violation")                                                         \
    X(HEAD_TOO_LARGE, -20, "header section too large")                                             \
    X(CANCELLED, -21, "cancelled")                                                                 \
    X(TOO_MANY_FILES, -22, "too many open files")

typedef enum cn_status {
#define CN_STATUS_CASE(name, value, message) CN_##name = value,
    CN_STATUS_MAP(CN_STATUS_CASE)
#undef CN_STATUS_CASE
} cn_status;

/* Static text; never NULL. Any thread. */
const char *cn_status_message(cn_status status);

/* ---- 2. Heads ------------------------------------------------------------------------------- */

/* Borrowed bytes. */
typedef struct cn_span {
    const uint8_t *data;
    size_t count;
} cn_span;

/* One header field: offsets into cn_head.bytes. */
typedef struct cn_field {
    uint32_t name_offset;
    uint32_t name_count;
    uint32_t value_offset;
    uint32_t value_count;
} cn_field;

typedef enum cn_version { CN_HTTP_1_0, CN_HTTP_1_1, CN_HTTP_2 } cn_version;

/*
 * The head of a message, or a trailer section (fields alone). Borrowed: valid during the call.
 * Fields of the connection itself (connection, transfer-encoding, keep-alive, proxy-connection,
 * upgrade, and on HTTP/1 host, which becomes authority) are left out when received and dropped
 * when sent: framing belongs to CNet.
 */
typedef struct cn_head {
    cn_span method;    /* requests */
    cn_span target;    /* requests; origin form, or "*" */
    cn_span authority; /* requests; empty if there was none */
    uint32_t status;   /* responses */
    cn_version version;
    const uint8_t *bytes;
    const cn_field *fields;
    size_t bytes_count;
    size_t field_count;
} cn_head;

/* ---- 3. Loop -------------------------------------------------------------------------------- */

typedef struct cn_loop cn_loop;

/* Starts a thread called `name` (15 bytes at most are kept) that runs a loop. on_wake runs after
 * cn_loop_wake, at least once for all wakes before it; on_stop runs last, on the loop's thread,
 * after every handle is closed. Ignores SIGPIPE for the process. Any thread. */
cn_status cn_loop_start(const char *name, void (*on_wake)(void *user), void (*on_stop)(void *user),
                        void *user, cn_loop **loop_p);
/* Any thread, until cn_loop_destroy. */
void cn_loop_wake(cn_loop *loop);
/* Any thread. */
bool cn_loop_is_current(const cn_loop *loop);
/* Whether the loop is closing its handles: what is created now ends with CN_CANCELLED. */
bool cn_loop_is_stopping(const cn_loop *loop);
/* Closes every handle; what still runs ends with CN_CANCELLED. Any thread; once. */
void cn_loop_stop(cn_loop *loop);
/* Waits for the thread's end. Not on the loop's thread; once, after cn_loop_stop. */
void cn_loop_join(cn_loop *loop);
/* After cn_loop_join. */
void cn_loop_destroy(cn_loop *loop);

/* ---- 4. Timers ------------------------------------------------------------------------------ */

typedef struct cn_timer cn_timer;

/* What a timer or watcher of one of these kinds tells; on_gone comes exactly once and last, after
 * destroy (from inside it, for timers) or when the loop stops. */
typedef void (*cn_gone)(void *user);

/* Fires after `delay_ns`, never early; then, if `repeat_ns` is not 0, again every so often.
 * Timers that are due fire in the order of their due times. */
cn_status cn_timer_create(cn_loop *loop, uint64_t delay_ns, uint64_t repeat_ns,
                          void (*on_fire)(void *user), cn_gone on_gone, void *user,
                          cn_timer **timer_p);
void cn_timer_destroy(cn_timer *timer);

/* ---- 5. Watchers ---------------------------------------------------------------------------- */

typedef struct cn_poll cn_poll;

/* Level-triggered: on_readable runs in every turn in which `fd` is readable or broken. */
cn_status cn_poll_create(cn_loop *loop, int fd, void (*on_readable)(void *user), cn_gone on_gone,
                         void *user, cn_poll **poll_p);
void cn_poll_destroy(cn_poll *poll);

typedef struct cn_signals cn_signals;

cn_status cn_signals_create(cn_loop *loop, const int *numbers, size_t number_count,
                            void (*on_signal)(void *user, int number), cn_gone on_gone,
                            void *user, cn_signals **signals_p);
void cn_signals_destroy(cn_signals *signals);

/* ---- 6. Processes --------------------------------------------------------------------------- */

typedef struct cn_process cn_process;

typedef enum cn_output { CN_OUTPUT_INHERIT, CN_OUTPUT_NULL, CN_OUTPUT_PIPE } cn_output;

typedef struct cn_process_events {
    /* Bytes that the child wrote; stream is 1 or 2. */
    void (*output)(void *user, int stream, const uint8_t *bytes, size_t count);
    /* Exactly once and last: the child ended and its pipes are drained. The process is gone when
     * it returns. */
    void (*exited)(void *user, int64_t exit_status, int term_signal);
} cn_process_events;

/* `arguments` includes argv[0]; both lists end with NULL; a NULL environment is inherited.
 * Standard input is empty. The child is killed if the loop stops first. */
cn_status cn_process_spawn(cn_loop *loop, const char *path, const char *const *arguments,
                           const char *const *environment, cn_output standard_output,
                           cn_output standard_error, const cn_process_events *events, void *user,
                           cn_process **process_p);
int cn_process_pid(const cn_process *process);
/* CN_NOT_FOUND once it has ended. */
cn_status cn_process_kill(cn_process *process, int signal_number);
/* Asks the kernel to send `signal_number` to this process when the thread that spawned it ends;
 * sends it at once if the parent is no longer `parent_pid`. Any thread. */
void cn_follow_parent(int parent_pid, int signal_number);

/* ---- 7. TLS contexts ------------------------------------------------------------------------ */

/* Reference counted by the configurations and connections that use it. Any thread. */
typedef struct cn_tls_context cn_tls_context;

typedef enum cn_tls_verify {
    CN_TLS_VERIFY_NONE,
    CN_TLS_VERIFY_SYSTEM,
    CN_TLS_VERIFY_FILE,
} cn_tls_verify;

/* On failure `problem` (problem_bytes long, may be NULL) receives one line. */
/* client_ca_file NULL: clients need no certificate. */
cn_status cn_tls_context_create_server(const char *certificate_file, const char *key_file,
                                       const char *client_ca_file, char *problem,
                                       size_t problem_bytes, cn_tls_context **context_p);
/* A P-256 key and a certificate for the given DNS names and IP literals, valid for a year. */
cn_status cn_tls_context_create_self_signed(const char *const *names, size_t name_count,
                                            char *problem, size_t problem_bytes,
                                            cn_tls_context **context_p);
/* certificate_file and key_file are both NULL or both given. */
cn_status cn_tls_context_create_client(cn_tls_verify verify, const char *ca_file,
                                       const char *certificate_file, const char *key_file,
                                       char *problem, size_t problem_bytes,
                                       cn_tls_context **context_p);
/* Handshakes from now on use the new certificate; on failure the old one stays. */
cn_status cn_tls_context_reload(cn_tls_context *context, const char *certificate_file,
                                const char *key_file, char *problem, size_t problem_bytes);
/* The certificate as PEM, NUL-terminated; free with cn_free. */
cn_status cn_tls_context_certificate(cn_tls_context *context, char **pem_p);
void cn_tls_context_retain(cn_tls_context *context);
void cn_tls_context_release(cn_tls_context *context);
void cn_free(void *memory);

/* ---- 8. Exchanges --------------------------------------------------------------------------- */

/* One request and its response, on either side, on HTTP/1 or HTTP/2. */
typedef struct cn_exchange cn_exchange;

typedef struct cn_exchange_events {
    /* Clients: the response's head (informational ones are not reported). */
    void (*responded)(void *user, const cn_head *head);
    void (*body)(void *user, const uint8_t *bytes, size_t count);
    /* The incoming message is complete; trailers is NULL without any. */
    void (*ended)(void *user, const cn_head *trailers);
    /* The queue fell to the low-water mark after cn_exchange_write returned false. */
    void (*writable)(void *user);
    /* Exactly once and last; the exchange is gone when it returns. detail may be NULL. */
    void (*closed)(void *user, cn_status status, const char *detail);
} cn_exchange_events;

typedef struct cn_connection_config {
    uint32_t max_head_bytes;
    uint32_t high_water_bytes; /* cn_exchange_write returns false above it */
    uint32_t low_water_bytes;
    uint32_t idle_timeout_ms;     /* 0: none. No progress of a body, or between requests */
    uint32_t h2_stream_window_bytes;
    uint32_t h2_max_stream_count; /* what the peer may have open at once */
    cn_tls_context *tls;          /* NULL: plain */
} cn_connection_config;

/* Servers. Starts the response; adds a `date` if there is none. HTTP/1: a content-length field sets
 * the length, else chunked. */
void cn_exchange_respond(cn_exchange *exchange, const cn_head *head);
/* Servers. An interim response, 100 to 199 without 101; before cn_exchange_respond. */
void cn_exchange_inform(cn_exchange *exchange, uint32_t status);
/* Sends or copies the bytes. False: above the high-water mark, wait for `writable`. */
bool cn_exchange_write(cn_exchange *exchange, const uint8_t *bytes, size_t count);
/* The outgoing message is complete. trailers may be NULL. */
void cn_exchange_finish(cn_exchange *exchange, const cn_head *trailers);
/* Ends with `closed` and CN_CANCELLED. HTTP/1 closes the connection, HTTP/2 resets the stream. */
void cn_exchange_abort(cn_exchange *exchange);
/* As abort, but without any event after it; the exchange is gone when it returns. */
void cn_exchange_cancel(cn_exchange *exchange);
/* HTTP/1 stops reading the socket, HTTP/2 withholds window updates. */
void cn_exchange_pause(cn_exchange *exchange);
void cn_exchange_resume(cn_exchange *exchange);
/* Whether any byte of the request may have reached the peer. */
bool cn_exchange_was_sent(const cn_exchange *exchange);
bool cn_exchange_is_h2(const cn_exchange *exchange);
/* The peer's address as `host:port` text, NUL-terminated; the count without the NUL, 0 if
 * unknown. */
size_t cn_exchange_peer(const cn_exchange *exchange, char *text, size_t text_bytes);

/* ---- 9. Server ------------------------------------------------------------------------------ */

typedef struct cn_listener cn_listener;

typedef struct cn_listener_config {
    cn_connection_config connection;
    uint32_t head_timeout_ms; /* from a connection's or request's first byte to its complete head */
    uint32_t max_connection_count;
    /* Requests of one HTTP/2 connection that its client may reset or spoil: at once, per second. */
    uint32_t h2_reset_burst;
    uint32_t h2_reset_rate;
} cn_listener_config;

typedef struct cn_listener_events {
    /* A request's head arrived. Returns the user pointer of the exchange, or NULL: 404. */
    void *(*request)(void *user, cn_exchange *exchange, const cn_head *head);
    /* Exactly once and last: after cn_listener_drain when no connection is left, after
     * cn_listener_destroy, or when the loop stops. The listener is gone when it returns. */
    cn_gone gone;
} cn_listener_events;

/* `host` is a literal. With `shared`, other listeners may bind the same port. */
cn_status cn_listener_create(cn_loop *loop, const char *host, uint16_t port, bool shared,
                             const cn_listener_config *config, const cn_listener_events *events,
                             const cn_exchange_events *exchange_events, void *user,
                             cn_listener **listener_p);
uint16_t cn_listener_port(const cn_listener *listener);
/* Stops accepting, closes idle connections, lets exchanges end, then reports `gone`. */
void cn_listener_drain(cn_listener *listener);
/* Aborts what is left, then reports `gone`. */
void cn_listener_destroy(cn_listener *listener);
/* CN_ADDRESS_IN_USE if another socket listens there. Any thread. */
cn_status cn_address_probe(const char *host, uint16_t port);

/* ---- 10. Client ----------------------------------------------------------------------------- */

/* One connection to a server. */
typedef struct cn_client cn_client;

typedef enum cn_codec {
    CN_CODEC_HTTP1,
    CN_CODEC_HTTP2, /* plain: prior knowledge; TLS: offered by ALPN */
    CN_CODEC_NONE,  /* no HTTP: one exchange, whose `body` and writes are the stream's bytes */
} cn_codec;

typedef struct cn_client_config {
    cn_connection_config connection;
    uint32_t connect_timeout_ms;  /* resolve, connect and TLS together */
    uint32_t response_timeout_ms; /* 0: none. From the request's end to the response's head */
    uint32_t keep_alive_ms;       /* how long the connection may wait for an exchange */
    cn_codec codec;
    const char *server_name;      /* TLS name; NULL: the host */
} cn_client_config;

typedef struct cn_client_events {
    void (*connected)(void *user, bool is_h2);
    /* An exchange ended and the connection can carry another one. */
    void (*available)(void *user);
    /* Exactly once and last; the client is gone when it returns. */
    void (*closed)(void *user, cn_status status, const char *detail);
} cn_client_events;

/* Connects. `host` is a name, a literal, or the path of a Unix socket, which begins with '/'. */
cn_status cn_client_connect(cn_loop *loop, const char *host, uint16_t port,
                            const cn_client_config *config, const cn_client_events *events,
                            const cn_exchange_events *exchange_events, void *user,
                            cn_client **client_p);
/* The number of exchanges that may be started now. */
size_t cn_client_capacity(const cn_client *client);
/* Sends a request's head. body_bytes: -1 unknown (chunked), 0 none (the request is complete),
 * else cn_exchange_write must follow with exactly so many bytes, and cn_exchange_finish. Head and
 * length are not looked at without a codec. */
cn_status cn_client_start(cn_client *client, const cn_head *head, int64_t body_bytes, void *user,
                          cn_exchange **exchange_p);
/* Ends with `closed` and CN_CANCELLED; exchanges end first. */
void cn_client_close(cn_client *client);

#ifdef __cplusplus
}
#endif

#endif
