// The inside of the engine: objects, and who owns them.
//
// Unless marked [lock], fields belong to the progress thread once their object has been handed to
// it by a command. [lock] fields are shared with callers under engine->lock. [const] fields never
// change after creation.
#ifndef CT_ENGINE_H
#define CT_ENGINE_H

#include <pthread.h>
#include <sys/socket.h>

#include "blocks.h"
#include "copy.h"
#include "ctransfer.h"
#include "frame.h"
#include "ledger.h"
#include "list.h"

#pragma GCC visibility push(hidden)

// Work that is split into turns, so that no connection or copy holds up the others.
typedef struct ct_task {
    ct_link node;
    void (*run)(struct ct_task *task);
} ct_task;

// A call from another thread, carried out by the progress thread. Embedded in the object it is
// about, so that queueing cannot fail.
typedef struct ct_command {
    ct_link node;
    void (*run)(struct ct_command *command);
} ct_command;

// A file descriptor in the epoll set.
typedef struct ct_source {
    void (*ready)(struct ct_source *source, uint32_t events);
} ct_source;

// An event on its way to ct_engine_poll, and the allocation that it lies in.
typedef struct ct_event_node {
    ct_link node;
    ct_event event;
    void *allocation;
} ct_event_node;

// ---- Connections (conn.c) ----

typedef struct ct_conn ct_conn;

// What a connection tells its owner. A callback that returns an error closes the connection.
typedef struct ct_conn_ops {
    // Header and body of a frame are in. Announced payload is thrown away unless the callback says
    // by ct_conn_receive where it goes.
    ct_status (*frame)(ct_conn *conn);
    // The announced payload is in.
    ct_status (*payload)(ct_conn *conn);
    // A frame has left; the callback may start the next at once.
    void (*sent)(ct_conn *conn);
    // Nothing is being sent and the socket takes bytes; the callback may start one frame.
    ct_status (*idle)(ct_conn *conn);
    // The last callback. The connection is freed at the end of the engine's turn.
    void (*closed)(ct_conn *conn, ct_status status);
} ct_conn_ops;

// Where bytes of a frame are due next.
typedef enum ct_conn_input { CT_INPUT_HEADER, CT_INPUT_BODY, CT_INPUT_PAYLOAD } ct_conn_input;

// A stream socket that carries one frame at a time in each direction. Payloads go straight between
// the socket and block memory.
struct ct_conn {
    ct_task task;
    ct_source source;
    ct_link node;  // of the owner's list, or of the engine's closed connections
    ct_engine *engine;
    const ct_conn_ops *ops;
    int fd;
    int passed_fd;         // came with the frame in hand; -1: none. Closed by the connection
    uint8_t is_local;      // AF_UNIX: may carry descriptors
    uint8_t is_serving;    // the listening side: does not read while it sends, nor when given up
    uint8_t is_readable;   // as of the last edge
    uint8_t is_writable;
    uint8_t is_hung_up;
    uint8_t is_closed;
    uint64_t sent_ns;      // before the last send that took bytes; at first, when it was opened
    uint64_t received_ns;  // after the last receive that brought bytes

    ct_conn_input input;
    size_t input_have;  // of the header or the body
    ct_header header;   // of the frame in hand
    uint64_t input_payload_bytes;
    uint8_t input_discards;
    ct_cursor input_cursor;

    size_t output_bytes;  // of `output`; 0: nothing is being sent
    size_t output_sent;
    int output_fd;  // to pass with the first byte; -1: none. Closed by the connection
    uint64_t output_payload_bytes;
    ct_cursor output_cursor;

    uint8_t input_header[CT_HEADER_BYTES];
    _Alignas(8) uint8_t body[CT_BODY_MAX_BYTES];
    uint8_t output[CT_HEADER_BYTES + CT_BODY_MAX_BYTES];
};

// Takes over `fd`, which is non-blocking; on failure the caller keeps it. `conn` is the first
// member of its owner's allocation.
ct_status ct_conn_open(
    ct_conn *conn, ct_engine *engine, const ct_conn_ops *ops, int fd, int is_local, int is_serving);
// Ends the connection; `closed` is called before it returns. A closed connection is left alone.
void ct_conn_close(ct_conn *conn, ct_status status);
// Gives the connection a turn.
void ct_conn_wake(ct_conn *conn);
// From `frame` only: where the announced payload goes.
void ct_conn_receive(ct_conn *conn, ct_cursor cursor);
// Throws away what is still to come of the payload in hand.
void ct_conn_discard(ct_conn *conn);
// Where the body of the next frame to send is built.
uint8_t *ct_conn_body(ct_conn *conn);
// Sends a frame whose body has been built; nothing is being sent. `cursor` covers
// header->payload_bytes and may be NULL without payload. Takes over `fd`; -1: none.
void ct_conn_send(ct_conn *conn, const ct_header *header, const ct_cursor *cursor, int fd);
static inline int ct_conn_is_sending(const ct_conn *conn) {
    return conn->output_bytes > 0;
}

// ---- Pools (pool.c) ----

struct ct_pool {
    ct_command publish;
    ct_command withdraw;
    ct_command fence;
    ct_engine *engine;  // [const]
    ct_region region;   // [const]
    ct_plane plane;     // [const] whole blocks
    uint8_t *memory;    // [const]
    ct_ledger *ledger;  // [const] behind the blocks
    int fd;             // [const] sealed memfd
    uint32_t users;     // [lock] transfers that are not final, plus one until it is released
    uint8_t is_fencing;             // [lock] `fence` is queued
    _Atomic uint64_t served_epoch;  // fences that every connection has heard of
};

// A place in the engine's region table. Outlives its pool, so that peers hear of the end.
typedef struct ct_region_slot {
    ct_pool *pool;    // NULL: withdrawn or never used
    ct_region region;
    uint64_t change;  // when the slot last changed, on the count of engine->region_changes
} ct_region_slot;

// Ends one use; the last one frees the pool.
void ct_pool_drop(ct_pool *pool);
// Frees a pool that nothing uses, without withdrawing it.
void ct_pool_free(ct_pool *pool);

// ---- Transfers (transfer.c) ----

typedef enum ct_phase {
    CT_PHASE_WAITING,    // for the peer to come up
    CT_PHASE_MOVING,     // the path works on it
    CT_PHASE_DRAINING,   // ended, but the peer may still apply what was sent
    CT_PHASE_NOTIFYING,  // every block is complete
    CT_PHASE_FINAL,
} ct_phase;

typedef struct ct_transfer {
    ct_command submit;
    ct_event_node result;
    ct_link peer_node;
    ct_link path_node;  // of the path's queue, or of the peer's notifications
    ct_task copy;       // memfd
    uint64_t id;        // [const]
    ct_engine *engine;  // [const]
    ct_peer *peer;
    ct_pool *pool;      // [const] NULL without blocks
    ct_operation operation;
    ct_phase phase;
    ct_status status;   // of a transfer that is draining
    uint8_t is_cancelled;  // [lock]
    ct_region region;
    uint64_t epoch;     // in which the peer gave the remote blocks
    ct_view local;
    ct_view remote;     // base is set by the memfd path
    uint32_t block_count;
    uint32_t done_count;
    uint64_t block_bytes;
    uint64_t submitted_ns;
    uint64_t deadline_ns;
    uint8_t *done;          // a bit per block
    uint32_t *failed;       // room for every block
    uint32_t next_block;    // TCP: first that no request covers
    uint32_t outstanding;   // TCP: requests without an answer
    ct_cursor source;       // memfd
    ct_cursor target;       // memfd
    ct_copy_function kernel;  // memfd
    size_t notification_bytes;
    uint8_t notification[CT_NOTIFICATION_MAX];
} ct_transfer;

// Starts or fails a transfer whose peer is up or down.
void ct_transfer_begin(ct_transfer *transfer);
void ct_transfer_mark_done(ct_transfer *transfer, uint32_t first, uint32_t count);
// Every block is complete.
void ct_transfer_moved(ct_transfer *transfer);
// Ends a transfer early: at once, or when the path says it is drained.
void ct_transfer_fail(ct_transfer *transfer, ct_status status);
// No path touches the transfer any more. Hands it to the caller of ct_engine_poll.
void ct_transfer_finish(ct_transfer *transfer, ct_status status);
// Takes one request to cancel; NULL where the transfer is final. Returns 0 if there is none.
int ct_transfer_take_cancel(ct_engine *engine, ct_transfer **transfer_p);
// Lets another transfer be submitted in its place; the lock is held.
void ct_transfer_release_slot_locked(ct_transfer *transfer);

// ---- Paths (memfd.c, tcp.c) ----

typedef struct ct_stream ct_stream;

// One way to reach a peer. The engine knows no path by name.
typedef struct ct_path_ops {
    ct_path path;
    // Begins to set the path up, ending in ct_stream_subscribe. An error means: try another.
    ct_status (*open)(ct_peer *peer);
    // A stream that `open` began has shaken hands.
    void (*welcomed)(ct_peer *peer, ct_stream *stream);
    // The peer published a region (`fd` as passed, -1: none), or withdrew it; transfers that use it
    // have been ended.
    ct_status (*region_added)(ct_peer *peer, uint32_t region_id, int fd);
    void (*region_removed)(ct_peer *peer, uint32_t region_id);
    // Begins to move blocks. Reports by ct_transfer_mark_done, _moved, _fail.
    void (*start)(ct_transfer *transfer);
    // Stops. Returns 0 if the peer may still apply what was sent; ct_transfer_finish follows then.
    int (*stop)(ct_transfer *transfer);
    // For a path whose blocks travel in frames, else NULL: starts one request on an idle stream if
    // there is one to make.
    void (*request)(ct_stream *stream);
    // The frame in hand answers the oldest request of the stream, payload aside.
    ct_status (*answered)(ct_stream *stream);
    // The payload of that answer is in.
    void (*received)(ct_stream *stream);
} ct_path_ops;

extern const ct_path_ops ct_memfd_ops;
extern const ct_path_ops ct_tcp_ops;

// ---- Peers (peer.c) ----

// Requests under way on a stream: enough to keep the wire full, few enough to be soon forgotten.
#define CT_WINDOW 8

typedef enum ct_request_kind {
    CT_REQUEST_BLOCKS,
    CT_REQUEST_NOTIFY,
    CT_REQUEST_PING,
} ct_request_kind;

// A request that waits for its answer. The transfer is NULL once it no longer cares.
typedef struct ct_request {
    ct_request_kind kind;
    ct_frame_type answer;
    ct_transfer *transfer;
    uint32_t first;
    uint32_t count;
    uint64_t payload_bytes;  // of the answer
} ct_request;

// The connecting side of one connection to a peer.
struct ct_stream {
    ct_conn conn;  // first
    ct_peer *peer;
    uint8_t is_greeted;       // HELLO was sent
    uint8_t is_welcomed;
    uint8_t wants_subscribe;
    uint8_t is_subscribed;
    uint8_t wants_ping;
    uint64_t pinged_ns;
    uint64_t first_request;   // number of the oldest without an answer
    uint32_t request_count;
    ct_request requests[CT_WINDOW];  // by number modulo CT_WINDOW
};

typedef enum ct_peer_state { CT_PEER_CONNECTING, CT_PEER_UP, CT_PEER_DOWN } ct_peer_state;

typedef struct ct_peer_region {
    ct_region region;  // generation 0: none
    uint8_t *memory;   // memfd: the mapping, ledger included; NULL: none
    int fd;            // memfd: of a description that nobody else has, as long as it is mapped
} ct_peer_region;

struct ct_peer {
    ct_command connect;
    ct_command release;
    ct_link node;
    ct_engine *engine;  // [const]
    uint64_t id;        // [const]
    uint32_t allowed_paths;
    uint32_t stream_count;
    uint8_t expects_id;
    ct_engine_id expected_id;
    struct sockaddr_storage address;
    socklen_t address_bytes;
    uint64_t deadline_ns;  // of connecting

    ct_peer_state state;
    ct_status down_status;
    uint32_t tried_paths;  // mask
    const ct_path_ops *path;
    ct_hello hello;        // of the engine that answered
    ct_stream *streams[CT_STREAMS_MAX];
    ct_stream *channel;    // same host; NULL: none
    ct_link transfers;
    ct_link queue;          // TCP: transfers with blocks that no request covers
    ct_link notifications;  // transfers whose notification is to be sent
    ct_peer_region regions[CT_REGIONS_MAX];
    ct_event_node *up_event;  // allocated ahead, so that reporting cannot fail
    ct_event_node *down_event;

    ct_peer_info info;                           // [lock]
    ct_region published[CT_REGIONS_MAX];         // [lock] generation 0: none
};

// Opens a connection to the peer's listening port, or over the same-host channel.
ct_status ct_peer_open_stream(
    ct_peer *peer, const struct sockaddr *address, socklen_t bytes, ct_stream **stream_p);
// Ends every transfer and closes every connection. A peer that is down is left alone.
void ct_peer_down(ct_peer *peer, ct_status status);
// Gives every stream a turn.
void ct_peer_wake(ct_peer *peer);
// Frees a peer that is down.
void ct_peer_free(ct_peer *peer);
void ct_peer_timers(ct_peer *peer, uint64_t now_ns);
// What its streams heard. An error closes the stream.
ct_status ct_peer_region_changed(ct_peer *peer, const ct_region_change *change, int fd);
ct_status ct_peer_welcomed(ct_stream *stream, const ct_hello *hello);
void ct_peer_ready(ct_peer *peer);
void ct_peer_stream_closed(ct_stream *stream, ct_status status);

// ---- Streams (stream.c) ----

// Takes over `fd` on success.
ct_status ct_stream_create(ct_peer *peer, int fd, int is_local, ct_stream **stream_p);
// Asks for the region table on this stream; the peer is up when it has come.
void ct_stream_subscribe(ct_stream *stream);
// Sends a request whose body has been built, and remembers it.
void ct_stream_send(
    ct_stream *stream, ct_header header, const ct_cursor *cursor, ct_request request);
// The oldest request; there is one.
ct_request *ct_stream_oldest(ct_stream *stream);
// Takes the oldest request out.
ct_request ct_stream_pop(ct_stream *stream);
// The transfer no longer cares for answers on this stream. What comes is thrown away.
void ct_stream_forget(ct_stream *stream, const ct_transfer *transfer);
void ct_stream_timers(ct_stream *stream, uint64_t now_ns);

// ---- Serving (serve.c) ----

// The listening side of one connection.
typedef struct ct_server {
    ct_conn conn;  // first
    ct_engine_id sender;
    uint8_t is_welcomed;
    uint8_t is_refused;  // closes once the answer is sent
    uint8_t is_subscribed;
    uint8_t has_sent_ready;
    uint8_t sends_data;  // a DATA frame is leaving; DONE follows
    uint64_t region_change;  // the newest that the peer was told
    ct_status status;        // of the blocks in hand
    const ct_pool *pool;     // whose bytes are moving; NULL: none
    ct_view view;
    ct_list list;
} ct_server;

// Accepts whatever waits on a listening socket.
void ct_server_accept(ct_engine *engine, int listener, int is_local);
void ct_server_timers(ct_server *server, uint64_t now_ns);
// A region changed; `pool` is set where it is withdrawn.
void ct_servers_region_changed(ct_engine *engine, const ct_pool *withdrawn);
// Blocks were taken back: no connection writes to them from here on.
void ct_servers_fenced(ct_engine *engine, const ct_pool *pool);

// ---- The engine (engine.c, listen.c) ----

typedef struct ct_listener {
    ct_source source;
    ct_engine *engine;
    int fd;  // -1: closed
    int is_local;
} ct_listener;

struct ct_engine {
    ct_engine_params params;  // [const]
    ct_engine_id id;          // [const]
    uint8_t boot_id[16];      // [const]
    int epoll_fd;             // [const]
    int wake_fd;              // [const]
    int event_fd;             // [const]
    pthread_t thread;
    ct_source wake_source;
    ct_copy_function streaming_copy;  // [const]

    ct_command listen;
    ct_listener tcp_listener;
    ct_listener local_listener;
    uint64_t timer_ns;      // when something is due next
    uint64_t accept_retry_ns;  // 0: none
    ct_link tasks;
    ct_link peers;
    ct_link servers;
    uint32_t server_count;
    ct_link closed_conns;
    ct_region_slot regions[CT_REGIONS_MAX];
    uint64_t region_changes;

    pthread_mutex_t lock;
    ct_link commands;          // [lock]
    uint8_t is_woken;          // [lock] wake_fd is readable
    uint8_t is_stopping;       // [lock]
    ct_link events;            // [lock]
    ct_link polled;            // events that the last poll handed out; of the polling caller
    uint32_t notification_count;  // [lock] in `events`
    ct_transfer **slots;       // [lock] by the low bits of the id
    uint32_t *free_slots;      // [lock] a stack
    uint32_t free_slot_count;  // [lock]
    uint64_t *cancels;         // [lock] ids; as many as slots
    uint32_t cancel_count;     // [lock]
    uint64_t transfer_serial;  // [lock]
    uint64_t peer_serial;      // [lock]
    uint64_t generation;       // [lock] of the newest region
    uint64_t region_ids;       // [lock] a bit per id in use
    ct_stats stats;            // [lock]
};

uint64_t ct_now_ns(void);
// Shares a command with the progress thread; the lock is held.
void ct_engine_command_locked(ct_engine *engine, ct_command *command);
void ct_engine_schedule(ct_engine *engine, ct_task *task);
// Asks for a look at the timers no later than this.
void ct_engine_arm(ct_engine *engine, uint64_t at_ns);
void ct_engine_wake_locked(ct_engine *engine);
void ct_engine_push_event_locked(ct_engine *engine, ct_event_node *node);
ct_status ct_engine_watch(ct_engine *engine, ct_source *source, int fd, uint32_t events);
// The abstract address of the same-host channel of an engine.
socklen_t ct_channel_address(const ct_engine_id *id, struct sockaddr_storage *address_p);
// Whether the process at the other end of an AF_UNIX socket runs as this user.
int ct_socket_is_same_user(int fd);
// A numeric host and a port; CT_EINVAL where the host is not numeric.
ct_status ct_address_parse(
    const char *host, uint16_t port, struct sockaddr_storage *address_p, socklen_t *bytes_p);
void ct_listeners_retry(ct_engine *engine, uint64_t now_ns);

#pragma GCC visibility pop

#endif
