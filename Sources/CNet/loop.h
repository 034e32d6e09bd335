/* What the other files of CNet need of a loop. */
#ifndef CN_LOOP_H
#define CN_LOOP_H

#include <time.h>
#include <uv.h>

#include "bytes.h"
#include "cnet.h"

#pragma GCC visibility push(hidden)

/* A doubly linked ring; a node outside of any ring has next == NULL. */
typedef struct cn_node {
    struct cn_node *next;
    struct cn_node *previous;
} cn_node;

void cn_ring_init(cn_node *ring);
void cn_ring_append(cn_node *ring, cn_node *node);
/* Does nothing outside of a ring. */
void cn_ring_remove(cn_node *node);

/* Something that must end with the loop. `stop` leaves the loop's ring before it returns. */
typedef struct cn_resource {
    cn_node node; /* first */
    void (*stop)(struct cn_resource *resource);
} cn_resource;

/* Work for the end of the turn, before the loop waits again. */
typedef struct cn_deferred {
    cn_node node; /* first */
    void (*run)(struct cn_deferred *deferred);
} cn_deferred;

/* A point in time at which something happens. */
typedef struct cn_deadline {
    uint64_t due_ns;
    uint64_t order; /* among equal times, first set fires first */
    size_t place;   /* in the heap, from 1; 0: not set */
    void (*fire)(struct cn_deadline *deadline);
} cn_deadline;

enum {
    CN_READ_BYTES = 64 << 10,
    CN_PLAIN_BYTES = 16 << 10,
    CN_SPARE_BYTES = 16 << 10,
    CN_SPARE_COUNT = 32,
    CN_MAX_FIELD_COUNT = 256,
};

struct cn_loop {
    uv_loop_t uv;
    uv_thread_t thread;
    uv_async_t wake;
    uv_prepare_t prepare;
    uv_idle_t idle; /* active while deferred work is left: the loop must not wait */
    uv_timer_t timer;
    void (*on_wake)(void *user);
    void (*on_stop)(void *user);
    void *user;
    _Atomic(bool) stop_requested;
    bool stopping;
    cn_node resources;
    cn_node deferred;
    cn_deadline **heap; /* from index 1 */
    size_t heap_count;
    size_t heap_capacity;
    size_t deadline_count; /* what the heap has room for */
    uint64_t armed_ns;     /* what `timer` is set to; 0: not set */
    uint64_t order;
    uint8_t *spare[CN_SPARE_COUNT];
    size_t spare_count;
    char name[16];
    time_t date_s; /* what `date` shows */
    char date[30];
    cn_field fields[CN_MAX_FIELD_COUNT]; /* of the head being parsed */
    uint8_t plain[CN_PLAIN_BYTES];       /* of the TLS record being read */
    uint8_t read[CN_READ_BYTES];         /* of the read being handled */
};

void cn_loop_add(cn_loop *loop, cn_resource *resource);
void cn_loop_defer(cn_loop *loop, cn_deferred *deferred);
/* Gives an empty queue memory that other connections used before. */
void cn_loop_lend(cn_loop *loop, cn_bytes *bytes);
/* Takes the memory of an empty queue back. */
void cn_loop_reclaim(cn_loop *loop, cn_bytes *bytes);

/* Reserves room, so that setting cannot fail; every init needs a fini. */
bool cn_deadline_init(cn_loop *loop, cn_deadline *deadline, void (*fire)(cn_deadline *deadline));
void cn_deadline_fini(cn_loop *loop, cn_deadline *deadline);
void cn_deadline_set(cn_loop *loop, cn_deadline *deadline, uint64_t due_ns);
void cn_deadline_clear(cn_loop *loop, cn_deadline *deadline);
/* Fires what is due. */
void cn_deadlines_fire(cn_loop *loop);

/* Nanoseconds on the clock of deadlines, as the loop last read it: cheap, late by one turn. */
static inline uint64_t cn_loop_now(const cn_loop *loop)
{
    return uv_now(&loop->uv) * 1000000;
}

/* The time of day as the `date` field has it (RFC 9110 section 5.6.7), made once a second. */
cn_span cn_loop_date(cn_loop *loop);

cn_status cn_status_from_uv(int code);

#define CN_CONTAINER(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#pragma GCC visibility pop

#endif
