// Regions, transfers, and the paths that move them.
//
// Unless marked [lock], fields belong to the progress thread once their object has been handed to
// it by a command. [lock] fields are shared with callers under engine->lock. [const] fields never
// change after creation.
#ifndef CT_TRANSFER_H
#define CT_TRANSFER_H

#include "conn.h"
#include "copy.h"
#include "ledger.h"

#pragma GCC visibility push(hidden)

// ---- Regions (pool.c) ----

// A pool, or memory of the caller.
struct ct_pool {
    ct_command publish;
    ct_command withdraw;
    ct_command fence;
    ct_event_node gone;    // registered memory: reported when nothing touches it
    ct_link removal_node;  // of the engine's removals
    uint64_t gone_epoch;   // that has to be settled before
    uint64_t removal_wait_ns;
    uint64_t removal_ns;   // when to look again
    ct_engine *engine;     // [const]
    ct_region region;      // [const]
    ct_plane plane;        // [const] whole blocks
    uint8_t *memory;       // [const]
    uint8_t is_registered; // [const] the memory is the caller's
    void *file;            // [const] the mapped memfd: blocks and ledger, or the ledger alone
    size_t file_bytes;     // [const]
    ct_ledger *ledger;     // [const]
    int fd;                // [const] sealed memfd
    uint32_t users;        // [lock] transfers that are not final, plus one until it is released
    uint8_t is_fencing;             // [lock] `fence` is queued
    _Atomic uint64_t served_epoch;  // fences that every connection has heard of
};

// A place in the engine's region table. Outlives its pool, so that peers hear of the end.
typedef struct ct_region_slot {
    ct_pool *pool;    // NULL: withdrawn or never used
    ct_region region;
    uint64_t change;  // when the slot last changed, on the count of engine->region_changes
} ct_region_slot;

// Ends one use. The last one frees the pool, or sees to it that registered memory is reported gone.
void ct_pool_drop(ct_pool *pool);
// Frees a pool that nothing uses, without withdrawing it.
void ct_pool_free(ct_pool *pool);
// Reports registered memory that has become free of writers.
void ct_pools_timers(ct_engine *engine, uint64_t now_ns);

// ---- Transfers (transfer.c, submit.c) ----

typedef enum ct_phase {
    CT_PHASE_WAITING,    // for the peer to come up
    CT_PHASE_MOVING,     // the path works on it
    CT_PHASE_DRAINING,   // ended, but the peer may still apply what was sent
    CT_PHASE_NOTIFYING,  // every block is complete
    CT_PHASE_FINAL,
} ct_phase;

#define CT_PRIORITIES 3

typedef struct ct_path_ops ct_path_ops;

typedef struct ct_transfer {
    ct_command submit;
    ct_event_node result;
    ct_link peer_node;
    ct_link path_node;  // of the engine's moves, of the path's queue or the peer's notifications
    ct_link cancel_node;  // [lock] of the engine's cancels
    uint64_t id;
    ct_engine *engine;  // [const]
    ct_peer *peer;
    ct_pool *pool;      // NULL without blocks
    ct_operation operation;
    ct_phase phase;
    ct_status status;   // of a transfer that is draining
    uint8_t forbids_failover;
    uint8_t rank;              // 0 goes first
    uint32_t allowed_paths;    // mask
    uint32_t failed_paths;     // mask
    ct_status path_status;     // of the path that failed last
    const ct_path_ops *path;   // NULL: none yet
    ct_region region;
    uint64_t epoch;     // in which the peer gave the remote blocks
    ct_view local;
    ct_view remote;     // base is set by paths of the same host
    uint32_t block_count;
    uint32_t done_count;
    uint64_t block_bytes;
    uint64_t submitted_ns;
    uint64_t begun_ns;        // 0: not yet
    uint64_t posted_ns;       // 0: not yet
    uint64_t moved_ns;        // 0: not yet
    uint64_t deadline_ns;
    void *lists;              // in the engine's arena: planes, ids, done, failed
    uint8_t *done;            // a bit per block
    uint32_t *failed;         // room for every block; shared with local.ids, which are over by then
    uint32_t next_block;      // TCP: first that no request covers
    uint32_t outstanding;     // TCP: requests without an answer
    ct_cursor source;         // same host
    ct_cursor target;         // same host
    ct_copy_function kernel;  // memfd
    size_t notification_bytes;
    uint8_t notification[CT_NOTIFICATION_MAX];
} ct_transfer;

// Starts or fails a transfer whose peer is up or down.
void ct_transfer_begin(ct_transfer *transfer);
// Bytes of the transfer are about to move for the first time.
void ct_transfer_posted(ct_transfer *transfer);
void ct_transfer_mark_done(ct_transfer *transfer, uint32_t first, uint32_t count);
int ct_transfer_is_done(const ct_transfer *transfer, uint32_t block);
// Every block is complete.
void ct_transfer_moved(ct_transfer *transfer);
// Ends a transfer early: at once, or when the path says it is drained.
void ct_transfer_fail(ct_transfer *transfer, ct_status status);
// The path cannot move what is left, and has let go of it: another one, or the end.
void ct_transfer_path_failed(ct_transfer *transfer, ct_status status);
// No path touches the transfer any more. Hands it to the caller of ct_engine_poll.
void ct_transfer_finish(ct_transfer *transfer, ct_status status);
// Takes one request to cancel; NULL where the transfer is final. Returns 0 if there is none.
int ct_transfer_take_cancel(ct_engine *engine, ct_transfer **transfer_p);
// Its event was polled: another may be submitted in its place. The lock is held.
void ct_transfer_polled_locked(ct_transfer *transfer);
// What its event points to is no longer used; the lock is held.
void ct_transfer_recycle_locked(ct_transfer *transfer);
// Lets a transfer have its turns, by ct_path_ops.advance.
void ct_transfer_schedule(ct_transfer *transfer);
// One turn of the first transfer in line.
void ct_transfers_advance(ct_engine *engine);

// ---- Paths (memfd.c, cma.c, tcp.c) ----

// One way to reach a peer. The engine knows no path by name; paths.c lists them.
struct ct_path_ops {
    ct_path path;
    uint8_t uses_channel;  // ends with the same-host channel
    // Whether this machine and process have what the path needs; writes why or why not.
    int (*capability)(const ct_engine *engine, char *reason, size_t capacity);
    // Sets the path up with a peer that has answered. CT_EAGAIN: waits for a stream that it has
    // opened, and is asked again when that has shaken hands. CT_OK and errors are final; an error
    // writes why.
    ct_status (*probe)(ct_peer *peer, char *reason, size_t capacity);
    // Whether the path reaches a region that the peer publishes.
    int (*reaches)(const ct_peer *peer, uint32_t region_id);
    // Begins to move the blocks that are not done. Reports by ct_transfer_mark_done, _moved, _fail
    // and _path_failed.
    void (*begin)(ct_transfer *transfer);
    // One turn of a transfer that was scheduled; NULL for a path that schedules none.
    void (*advance)(ct_transfer *transfer);
    // Stops. Returns 0 if the peer may still apply what was sent; ct_transfer_finish follows then.
    int (*cancel)(ct_transfer *transfer);
    // Lets go of what `probe` set up. No transfer uses the path.
    void (*end)(ct_peer *peer);
};

// In order of preference; NULL ends the list.
extern const ct_path_ops *const ct_paths[];

extern const ct_path_ops ct_memfd_ops;
extern const ct_path_ops ct_cma_ops;
extern const ct_path_ops ct_tcp_ops;

#pragma GCC visibility pop

#endif
