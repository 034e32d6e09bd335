// Room for the lists of transfers: a buddy allocator over one mapping, so that submitting allocates
// nothing. A piece is freed by its address alone.
#ifndef CT_ARENA_H
#define CT_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "ctransfer.h"
#include "list.h"

#pragma GCC visibility push(hidden)

#define CT_ARENA_UNIT 512u
#define CT_ARENA_ORDERS 32

typedef struct ct_arena {
    uint8_t *memory;  // NULL: closed
    size_t bytes;     // a power of two
    uint8_t *orders;  // per unit: of the piece that begins there, and whether it is free
    ct_link free[CT_ARENA_ORDERS];  // pieces of CT_ARENA_UNIT << order
} ct_arena;

// At least `bytes`, rounded up to a power of two. The memory is touched only where it is used.
ct_status ct_arena_open(ct_arena *arena, uint64_t bytes);
// Whatever was taken is gone. A closed arena is left alone.
void ct_arena_close(ct_arena *arena);
// NULL when no piece is large enough. The bytes are not zeroed.
void *ct_arena_take(ct_arena *arena, size_t bytes);
// NULL is allowed.
void ct_arena_give(ct_arena *arena, void *piece);

#pragma GCC visibility pop

#endif
