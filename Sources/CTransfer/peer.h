// Peers as the connecting side sees them, streams to them, and the listening side's connections.
#ifndef CT_PEER_H
#define CT_PEER_H

#include <sys/socket.h>

#include "transfer.h"

#pragma GCC visibility push(hidden)

typedef struct ct_stream ct_stream;

// ---- Peers (peer.c, connect.c) ----

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

typedef enum ct_peer_state {
    CT_PEER_CONNECTING,
    CT_PEER_UP,
    CT_PEER_DOWN,
} ct_peer_state;

typedef struct ct_peer_region {
    ct_region region;   // generation 0: none
    void *file;         // the mapped memfd; NULL: none
    size_t file_bytes;
    int fd;             // of a description that nobody else has, as long as it is mapped
    uint8_t *memory;    // in `file`; NULL: blocks are not mapped
    ct_ledger *ledger;  // in `file`
    uint64_t address;   // of the blocks, in the peer's process; 0: not known
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
    uint64_t timeout_ns;
    uint64_t deadline_ns;  // of connecting
    uint64_t reconnect_ns;      // 0: never
    uint64_t reconnect_max_ns;
    uint64_t retry_wait_ns;     // before the attempt after the next
    uint64_t retry_ns;          // when to try again; 0: not at all

    ct_peer_state state;
    ct_status down_status;
    ct_event_kind told;         // what the caller has heard last; 0: nothing
    uint32_t probing_paths;     // mask: asked again when a stream has shaken hands
    uint32_t ready_paths;       // mask
    ct_status lost_paths[CT_PATH_COUNT];  // why; CT_OK: not lost
    ct_hello hello;             // of the engine that answered
    ct_stream *streams[CT_STREAMS_MAX];
    ct_stream *channel;         // same host; NULL: none
    uint8_t has_tried_channel;
    uint8_t has_channel;        // it has shaken hands
    ct_hello channel_hello;
    int process_fd;             // CMA: pidfd; -1: none
    pid_t process_id;           // CMA
    ct_link transfers;
    ct_link queues[CT_PRIORITIES];  // TCP: transfers with blocks that no request covers
    ct_link notifications;          // transfers whose notification is to be sent
    ct_peer_region regions[CT_REGIONS_MAX];
    ct_event_node *up_event;  // allocated ahead, so that reporting cannot fail
    ct_event_node *down_event;

    ct_peer_info info;                           // [lock]
    ct_region published[CT_REGIONS_MAX];         // [lock] generation 0: none
    char reasons[CT_PATH_COUNT][sizeof(((ct_capability *)0)->reason)];  // [lock]
};

// Has the events ready that report the peer up and down, so that reporting cannot fail. Returns 0
// for want of memory.
int ct_peer_prepare_events(ct_peer *peer);
// Queues an event about the peer, unless its owner has gone.
void ct_peer_report(ct_peer *peer, ct_event_node **event_p, ct_event event);
// Tells callers why a path works or not.
void ct_peer_set_reason(ct_peer *peer, ct_path path, const char *reason);
// Tells callers how the peer is reached now.
void ct_peer_update_info(ct_peer *peer);
// Begins to connect.
void ct_peer_attempt(ct_peer *peer);
// Asks the paths that have not given their last word; behind the last of them, the region table.
void ct_peer_probe_paths(ct_peer *peer);
// Opens a connection to the peer's listening port, or over the same-host channel.
ct_status ct_peer_open_stream(
    ct_peer *peer, const struct sockaddr *address, socklen_t bytes, ct_stream **stream_p);
// Ends every transfer and closes every connection. A peer that is down is left alone.
void ct_peer_down(ct_peer *peer, ct_status status);
// A path does not work any more; transfers that use it find out for themselves.
void ct_peer_lose_path(ct_peer *peer, const ct_path_ops *path, ct_status status);
// The first path that reaches a region of those in the mask; NULL: none.
const ct_path_ops *ct_peer_choose_path(const ct_peer *peer, uint32_t paths, uint32_t region_id);
// Gives every stream a turn.
void ct_peer_wake(ct_peer *peer);
// Frees a peer that is down.
void ct_peer_free(ct_peer *peer);
void ct_peer_timers(ct_peer *peer, uint64_t now_ns);
// What its streams heard. An error closes the stream.
ct_status ct_peer_region_changed(ct_stream *stream, const ct_region_change *change, int fd);
ct_status ct_peer_welcomed(ct_stream *stream, const ct_hello *hello);
void ct_peer_ready(ct_peer *peer);
// Forgets what the peer publishes; no transfer moves.
void ct_peer_forget_regions(ct_peer *peer);
// Forgets only what the channel brought.
void ct_peer_unmap_regions(ct_peer *peer);
void ct_peer_stream_closed(ct_stream *stream, ct_status status);

// ---- The same-host channel (channel.c) ----

// Opens it once per connect. As ct_path_ops.probe.
ct_status ct_channel_probe(ct_peer *peer, char *reason, size_t capacity);
// Maps what came with a region over the channel; `fd` -1: nothing came.
ct_status ct_channel_region_added(
    ct_peer *peer, const ct_region_change *change, int fd);
void ct_channel_region_removed(ct_peer_region *region);
// Whether the channel has brought the region's ledger.
int ct_channel_reaches(const ct_peer *peer, uint32_t region_id);
// Sets the cursors of a transfer of which a path of the same host is to move the blocks that are
// not done, the first ones being so. `remote` is where the peer's blocks begin.
void ct_channel_begin(ct_transfer *transfer, uint8_t *remote);
// One turn: moves at most `limit_bytes` by `move`, under the ledger's rules (ledger.h), and marks
// what is done. `move` advances the cursors; an error of it means that the path fails.
void ct_channel_advance(
    ct_transfer *transfer, uint64_t limit_bytes,
    ct_status (*move)(ct_transfer *transfer, uint64_t limit_bytes));
int ct_channel_cancel(ct_transfer *transfer);

// ---- Streams (stream.c) ----

// Takes over `fd` on success.
ct_status ct_stream_create(ct_peer *peer, int fd, int is_local, ct_stream **stream_p);
// Asks for the region table on this stream; the peer is up when it has come.
void ct_stream_subscribe(ct_stream *stream);
// Closes a stream on purpose, if there is one.
void ct_stream_end(ct_stream **stream_p, ct_status status);
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

// ---- What the streams carry for the TCP path (tcp.c) ----

// Starts one request on an idle stream if there is one to make.
void ct_tcp_request(ct_stream *stream);
// The frame in hand answers the oldest request of the stream, payload aside.
ct_status ct_tcp_answered(ct_stream *stream);
// The payload of that answer is in.
void ct_tcp_received(ct_stream *stream);

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

#pragma GCC visibility pop

#endif
