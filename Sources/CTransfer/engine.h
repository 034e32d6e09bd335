// The inside of the engine. Who owns which field, transfer.h says.
#ifndef CT_ENGINE_H
#define CT_ENGINE_H

#include <pthread.h>

#include "arena.h"
#include "memory.h"
#include "peer.h"

#pragma GCC visibility push(hidden)

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
    uint8_t proof[CT_PROOF_BYTES];  // [const] random; who can read it here may use cma
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
    ct_link moves[CT_PRIORITIES];  // transfers that wait for a turn
    ct_link removals;              // registered memory that somebody may still write to
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
    ct_arena lists;            // [lock]
    uint32_t transfer_count;   // [lock] in flight or not yet polled
    ct_transfer *slots;        // [lock] twice transfers_max: with those that were polled last
    uint64_t *transfer_ids;    // [lock] by slot; 0: polled or never used
    uint32_t *free_slots;      // [lock] a stack
    uint32_t free_slot_count;  // [lock]
    ct_link cancels;           // [lock]
    uint64_t transfer_serial;  // [lock]
    uint64_t peer_serial;      // [lock]
    uint64_t generation;       // [lock] of the newest region
    uint64_t region_ids;       // [lock] a bit per id in use
    ct_stats stats;            // [lock]
};

uint64_t ct_now_ns(void);
// Sum and product of times; the end of time where they do not fit.
uint64_t ct_time_after(uint64_t now_ns, uint64_t wait_ns);
uint64_t ct_time_times(uint64_t wait_ns, uint64_t factor);
// Shares a command with the progress thread; the lock is held.
void ct_engine_command_locked(ct_engine *engine, ct_command *command);
void ct_engine_schedule(ct_engine *engine, ct_task *task);
// Asks for a look at the timers no later than this.
void ct_engine_arm(ct_engine *engine, uint64_t at_ns);
void ct_engine_wake_locked(ct_engine *engine);
void ct_eventfd_raise(int fd);
void ct_eventfd_lower(int fd);
// Frees the events of a list and what they point to.
void ct_events_free_locked(ct_link *events);
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
