// ctransfer.h: moves blocks of KV cache between engines, over the fastest path two machines share.
//
//   Errors ............ ct_status_message
//   Paths ............. ct_path_name, ct_capabilities
//   Engine ............ ct_engine_create, _destroy, _identity, _listen, _descriptor, _poll, _stats
//   Pools ............. ct_pool_create, _release, _memory, _region
//   Caller's memory ... ct_region_add
//   Reuse of blocks ... ct_pool_epoch, _fence, _settled
//   Peers ............. ct_peer_connect, _release, _id, _describe, _capabilities, _regions
//   Transfers ......... ct_transfer_submit, _cancel
//
// An engine owns one progress thread, which does all I/O and copying. Every function may be called
// from any thread, save that ct_engine_poll has one caller at a time and that a handle is not used
// while or after it is released. No function blocks on the network.
//
// Ownership: pools lend memory; a transfer touches its local blocks from submit until its
// CT_EVENT_TRANSFER is queued, and never after. Memory that is registered stays the caller's.
// Parameters are copied in. Outputs come last, end in `_p`, and are written only on success.
//
// Trust: whoever reaches the listening port may read and write the pools of the engine behind it.
// Frames are checked for region, generation and bounds, not for who sent them.
#ifndef CTRANSFER_H
#define CTRANSFER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// ---- Errors ----

// Values are fixed for ever. A function that can fail returns one of them, or CT_OK.
#define CT_STATUS_MAP(X)                                                                           \
    X(OK, 0, "success")                                                                            \
    X(EINVAL, -1, "a parameter is not valid")                                                      \
    X(ENOMEM, -2, "out of memory or of another resource of the system")                            \
    X(EAGAIN, -3, "a queue is full; try again after draining completions")                         \
    X(ENOTFOUND, -5, "the peer has no such region")                                                \
    X(ERANGE, -6, "a block lies outside its region")                                               \
    X(ESTALE, -7, "the engine or the region is another one, or a block was taken back")            \
    X(EUNREACH, -8, "the peer cannot be reached")                                                  \
    X(EPEERDEAD, -9, "the peer closed its connection or stopped answering")                        \
    X(ETIMEDOUT, -10, "the deadline passed")                                                       \
    X(ECANCELED, -11, "cancelled by the caller")                                                   \
    X(EPOLICY, -13, "no path to the peer is both allowed and possible")                            \
    X(EPERM, -14, "the system does not permit it")                                                 \
    X(EVERSION, -15, "the peer speaks another version of the protocol")                            \
    X(EPROTOCOL, -16, "the peer sent a frame that is not valid")                                   \
    X(EADDRESS, -17, "the listening address is in use or not of this machine")                     \
    X(EFAULT, -18, "a region's memory is not mapped, or of a kind that the path cannot reach")

typedef int32_t ct_status;
enum {
#define CT_STATUS_ENUM(name, value, text) CT_##name = value,
    CT_STATUS_MAP(CT_STATUS_ENUM)
#undef CT_STATUS_ENUM
};

// Static text for a status, for people.
const char *ct_status_message(ct_status status);

// ---- Paths ----

// How bytes travel to a peer. Chosen for every transfer: the first of memfd, cma and tcp that is
// allowed and that reaches the region. Every completion says which it was.
typedef uint32_t ct_path;
enum {
    CT_PATH_NONE = 0,   // nothing travelled
    CT_PATH_MEMFD = 1,  // same host: the initiator maps the peer's pool and copies
    CT_PATH_TCP = 2,    // scatter and gather over sockets
    CT_PATH_CMA = 3,    // same host: the kernel copies between the two processes' memory
    CT_PATH_COUNT = 4,
};
#define CT_PATH_MASK(path) (UINT32_C(1) << (path))
#define CT_PATH_MASK_ANY                                                                           \
    (CT_PATH_MASK(CT_PATH_MEMFD) | CT_PATH_MASK(CT_PATH_TCP) | CT_PATH_MASK(CT_PATH_CMA))

// Static lower-case name of a path.
const char *ct_path_name(ct_path path);

// Whether a path is possible, and why or why not, for people.
typedef struct ct_capability {
    uint32_t is_possible;
    char reason[192];
} ct_capability;

// ---- Engine ----

typedef struct ct_engine ct_engine;
typedef struct ct_pool ct_pool;
typedef struct ct_peer ct_peer;

// Names an engine from its creation to its end; a restarted process has another.
typedef struct ct_engine_id {
    uint8_t bytes[16];
} ct_engine_id;

// Zero means the default. Start from CT_ENGINE_PARAMS_INIT.
typedef struct ct_engine_params {
    uint32_t struct_size;
    uint32_t transfers_max;       // in flight or not yet polled; default 4096, at most 65536
    uint32_t notifications_max;   // received but not yet polled; default 4096
    uint32_t connections_max;     // accepted; default 256
    uint64_t heartbeat_ns;        // between two signs of life; default 1 s
    uint64_t lease_ns;            // silence after which a peer is dead; more than a heartbeat,
                                  // the same on both sides; default 5 s
    uint64_t list_bytes;          // room for the lists of those transfers: 8 bytes per block and 48
                                  // per plane, each list rounded up to a power of two; touched
                                  // where it is used; default 64 MiB
    uint32_t admits_tracers;      // 1: lets every process of this user reach this one by cma where
                                  // Yama's ptrace_scope is 1, by PR_SET_PTRACER; that opens it to
                                  // their debuggers too. Default 0
} ct_engine_params;
#define CT_ENGINE_PARAMS_INIT {.struct_size = sizeof(ct_engine_params)}

// Starts an engine and its thread. The caller destroys it.
ct_status ct_engine_create(const ct_engine_params *params, ct_engine **engine_p);

// Stops the thread, closes every connection and frees every pool and peer still held. Transfers in
// flight end without a completion. Peers on this host may still be writing to memory that was
// registered: release it and wait for its event first. NULL is allowed.
void ct_engine_destroy(ct_engine *engine);

// The engine's own name.
ct_engine_id ct_engine_identity(const ct_engine *engine);

// What this machine and this process are able to do, by path.
void ct_capabilities(const ct_engine *engine, ct_capability capabilities[CT_PATH_COUNT]);

// Accepts peers on a numeric IPv4 or IPv6 host and a port; port 0 asks for a free one. The real
// port is written. At most one call per engine succeeds. CT_EADDRESS where the address is taken.
ct_status ct_engine_listen(ct_engine *engine, const char *host, uint16_t port, uint16_t *port_p);

// What a peer needs to name memory. `generation` differs for every region an engine ever had.
typedef struct ct_region {
    uint32_t id;
    uint64_t generation;
    uint64_t size_bytes;
    uint64_t block_bytes;
} ct_region;

typedef uint32_t ct_event_kind;
enum {
    CT_EVENT_TRANSFER = 1,      // a transfer is final
    CT_EVENT_NOTIFICATION = 2,  // the initiator of a finished transfer sent bytes
    CT_EVENT_PEER_UP = 3,       // a connect succeeded: path and regions are known
    CT_EVENT_PEER_DOWN = 4,     // a connect failed or a peer was lost; its transfers are final
    CT_EVENT_REGION_GONE = 5,   // registered memory was released, and nothing touches it any more
};

// One thing that happened. Delivered once. Pointers are valid until the next ct_engine_poll.
typedef struct ct_event {
    ct_event_kind kind;
    ct_status status;
    uint64_t transfer_id;             // TRANSFER
    uint64_t peer_id;                 // TRANSFER, PEER_*
    ct_region region;                 // REGION_GONE
    ct_engine_id sender;              // NOTIFICATION
    const uint8_t *notification;      // NOTIFICATION
    size_t notification_bytes;        // NOTIFICATION
    ct_path path;                     // TRANSFER, PEER_UP
    uint32_t failed_count;            // TRANSFER
    const uint32_t *failed;           // TRANSFER: ascending positions in the block list that are
                                      // not known to be complete at their destination. Those of a
                                      // write may still change there until their owner fences them
    uint64_t transferred_bytes;       // TRANSFER: of the blocks that are complete
    uint64_t elapsed_ns;              // TRANSFER: from submit to final; the sum of these four:
    uint64_t queue_ns;                // until the engine took it up and its peer was up
    uint64_t post_ns;                 // until its first bytes were on their way
    uint64_t wire_ns;                 // until its last block was complete, or it failed
    uint64_t notify_ns;               // until its notification was answered
} ct_event;

// Becomes readable when events wait. Watch it, then poll until fewer than `capacity` events come;
// do not read it. Belongs to the engine.
int ct_engine_descriptor(const ct_engine *engine);

// Takes up to `capacity` events without waiting. One caller at a time.
void ct_engine_poll(ct_engine *engine, ct_event *events, size_t capacity, size_t *count_p);

typedef struct ct_path_stats {
    uint64_t transfers;           // final, whatever their status
    uint64_t failed_transfers;
    uint64_t transferred_bytes;
    uint64_t failed_blocks;
    uint64_t failovers;           // transfers that went on over another path after this one failed
    uint64_t queue_ns;            // sums of the times of ct_event
    uint64_t post_ns;
    uint64_t wire_ns;
    uint64_t notify_ns;
} ct_path_stats;

typedef struct ct_stats {
    ct_path_stats paths[CT_PATH_COUNT];  // of transfers this engine began, by path
    uint64_t served_requests;            // reads and writes done for peers over TCP
    uint64_t served_bytes;
    uint64_t refused_requests;           // answered with an error
    uint64_t protocol_errors;            // connections closed because of a frame that is not valid
    uint64_t notifications_received;
    uint64_t reconnects;                 // attempts to reach a lost peer again
} ct_stats;

// Counters since creation.
ct_stats ct_engine_stats(ct_engine *engine);

// ---- Pools ----

// Pools and registered memory of one engine.
#define CT_REGIONS_MAX 64

// Allocates zeroed memory for `block_count` blocks, sharable with processes of this host and user,
// advised to use huge pages, and publishes it to every connected peer. CT_EAGAIN when
// CT_REGIONS_MAX pools exist. The memory belongs to the pool.
ct_status ct_pool_create(
    ct_engine *engine, uint64_t block_bytes, uint64_t block_count, ct_pool **pool_p);

// Withdraws the region from every peer and frees the memory once the last transfer that uses it is
// final. Connections that are moving bytes of this pool for a peer are closed. Of registered memory
// nothing is freed: transfers that use it end with CT_ESTALE, and CT_EVENT_REGION_GONE says when
// neither they nor any peer touch it any more. NULL is allowed.
void ct_pool_release(ct_pool *pool);

// The first byte; stays put for the life of the pool.
void *ct_pool_memory(const ct_pool *pool);

// How peers name this pool.
ct_region ct_pool_region(const ct_pool *pool);

// ---- The caller's memory ----

// Registers memory of this process, such as a tensor of an engine, as a region of blocks that is
// used as a pool is, by ct_pool_ functions too. Peers on this host reach it by cma, others by tcp.
// The last block may be a shorter one. The memory stays mapped until CT_EVENT_REGION_GONE, which
// follows ct_pool_release. CT_EAGAIN when CT_REGIONS_MAX regions exist.
ct_status ct_region_add(
    ct_engine *engine, void *memory, uint64_t size_bytes, uint64_t block_bytes, ct_pool **pool_p);

// ---- Reuse of blocks ----

// A peer that was given blocks may fall silent, be given up, and come back in the middle of a copy.
// No lapse of time rules that out, so the owner says when blocks are no longer what they were:
//
//   1. Name blocks to a peer together with the epoch that the pool is in. The peer puts it into its
//      transfers.
//   2. Before other bytes go into blocks that a peer may still hold, fence them. From here on a
//      transfer that names an earlier epoch does not succeed on them: it ends with CT_ESTALE, even
//      if it has begun to copy. Blocks that peers only read may be reused at once.
//   3. Blocks that peers may write to are reused once they are settled.

// The pool's epoch now: how often blocks of it have been fenced.
uint64_t ct_pool_epoch(const ct_pool *pool);

// Takes blocks, by number, back from every peer that was given them. Begins the epoch written.
ct_status ct_pool_fence(
    ct_pool *pool, const uint32_t *blocks, size_t block_count, uint64_t *epoch_p);

// The newest epoch of which it is certain that no peer writes any more to a block that was fenced
// in it or before. Follows a fence within a turn of the engine's thread, except where a process of
// this host has stopped in the middle of a write: then when it goes on or is killed.
uint64_t ct_pool_settled(const ct_pool *pool);

// ---- Peers ----

#define CT_STREAMS_MAX 8

// Zero means the default. Start from CT_CONNECT_PARAMS_INIT.
typedef struct ct_connect_params {
    uint32_t struct_size;
    uint32_t allowed_paths;        // CT_PATH_MASK bits; default CT_PATH_MASK_ANY. One bit requires
                                   // that path. A connect that can have none of them fails with
                                   // CT_EPOLICY
    const char *host;              // numeric
    uint16_t port;
    uint16_t stream_count;         // TCP connections for data; default 1
    uint32_t expects_id;           // 1: fail with CT_ESTALE unless the engine is `expected_id`
    ct_engine_id expected_id;
    uint64_t timeout_ns;           // for connecting and shaking hands; default 5 s
    uint64_t reconnect_ns;         // wait before a lost or unreachable peer is tried again, doubled
                                   // after every attempt that fails; 0: it stays down
    uint64_t reconnect_max_ns;     // what the wait grows to; default 32 times reconnect_ns
} ct_connect_params;
#define CT_CONNECT_PARAMS_INIT {.struct_size = sizeof(ct_connect_params)}

// Begins to connect. CT_EVENT_PEER_UP or CT_EVENT_PEER_DOWN follows; a peer that was up and is lost
// sends CT_EVENT_PEER_DOWN too, and its transfers are final. With reconnect_ns it is then tried
// again until it is up, which sends CT_EVENT_PEER_UP, or is found to be another engine, to speak
// another version or to have no allowed path. Else release it and connect again.
ct_status ct_peer_connect(
    ct_engine *engine, const ct_connect_params *params, ct_peer **peer_p);

// Closes the connections. Transfers in flight end with CT_ECANCELED. NULL is allowed.
void ct_peer_release(ct_peer *peer);

// The number that events carry.
uint64_t ct_peer_id(const ct_peer *peer);

typedef struct ct_peer_info {
    ct_path path;               // the first choice; CT_PATH_NONE until up
    uint32_t paths;             // CT_PATH_MASK bits of all that work now
    ct_engine_id engine_id;     // zero until up
    uint64_t regions_version;   // grows with every change of ct_peer_regions
} ct_peer_info;

// How the peer is reached now.
ct_peer_info ct_peer_describe(ct_peer *peer);

// Which paths work with this peer now, and why the others do not.
void ct_peer_capabilities(ct_peer *peer, ct_capability capabilities[CT_PATH_COUNT]);

// Copies the regions the peer publishes now; at most CT_REGIONS_MAX.
void ct_peer_regions(ct_peer *peer, ct_region regions[CT_REGIONS_MAX], size_t *count_p);

// ---- Transfers ----

typedef uint32_t ct_operation;
enum {
    CT_READ = 1,   // remote blocks into local blocks
    CT_WRITE = 2,  // local blocks into remote blocks
};

// Where one slice of every block lies: block b has `length_bytes` at offset_bytes + b *
// stride_bytes. A cache that keeps a tensor per layer has a plane per layer.
typedef struct ct_plane {
    uint64_t offset_bytes;
    uint64_t stride_bytes;
    uint64_t length_bytes;
} ct_plane;

#define CT_PLANES_MAX 256
#define CT_NOTIFICATION_MAX 256

// One side of a transfer.
typedef struct ct_blocks {
    const uint32_t *ids;      // block numbers in order; NULL: 0, 1, 2, ...
    const ct_plane *planes;   // NULL: one plane of whole blocks, as the region is laid out
} ct_blocks;

// A transfer goes before all of lower priority that wait for the same peer or processor; those of
// equal priority take turns.
typedef uint32_t ct_priority;
enum {
    CT_PRIORITY_NORMAL = 0,
    CT_PRIORITY_HIGH = 1,
    CT_PRIORITY_LOW = 2,
};

// Zero means the default or nothing. Start from CT_TRANSFER_PARAMS_INIT.
typedef struct ct_transfer_params {
    uint32_t struct_size;
    ct_operation operation;
    ct_peer *peer;
    ct_pool *pool;                  // local memory; of the same engine as the peer
    ct_region region;               // remote memory, as the peer published it
    uint64_t epoch;                 // of the remote pool when its owner named the blocks; 0 for
                                    // blocks that were never fenced
    ct_blocks local;
    ct_blocks remote;
    uint32_t block_count;           // 0 sends only the notification
    uint32_t plane_count;           // of local.planes and remote.planes; lengths must match
    const void *notification;       // given to the peer once, after every block is complete
    size_t notification_bytes;      // at most CT_NOTIFICATION_MAX
    uint64_t timeout_ns;            // default 30 s
    uint32_t allowed_paths;         // CT_PATH_MASK bits; default all that the peer may use. One
                                    // bit requires that path: CT_EPOLICY where it is not there
    ct_priority priority;
    uint32_t forbids_failover;      // 1: ends with an error where its path fails; 0: what is left
                                    // goes over the next path that is allowed
} ct_transfer_params;
#define CT_TRANSFER_PARAMS_INIT {.struct_size = sizeof(ct_transfer_params)}

// Queues a transfer; one CT_EVENT_TRANSFER with this id follows. Errors found at once (CT_EINVAL,
// also for a list that list_bytes can never hold, CT_ERANGE, CT_EAGAIN when transfers_max are in
// flight or list_bytes are in use) are returned and no event follows; all else comes as the event's
// status. Allocates nothing. Several transfers to a peer have no order among them. A failed
// transfer with no failed block is one whose notification may not have arrived.
ct_status ct_transfer_submit(
    ct_engine *engine, const ct_transfer_params *params, uint64_t *transfer_id_p);

// Asks for an early end. The completion still comes: CT_ECANCELED, or whatever came first. A write
// over TCP is final when the peer has answered what was sent or is given up, at most a lease later;
// so it is at its deadline. A transfer that is already final is left alone.
void ct_transfer_cancel(ct_engine *engine, uint64_t transfer_id);

#ifdef __cplusplus
}
#endif

#endif
