#include "arena.h"

#include <stdlib.h>

#include "memory.h"

#define CT_FREE 0x80u
#define CT_INSIDE 0x40u  // no piece begins here

static unsigned order_of(uint64_t bytes) {
    unsigned order = 0;
    while (((uint64_t)CT_ARENA_UNIT << order) < bytes) {
        order++;
    }
    return order;
}

static size_t unit_of(const ct_arena *arena, const void *piece) {
    return (size_t)((const uint8_t *)piece - arena->memory) / CT_ARENA_UNIT;
}

static void add(ct_arena *arena, size_t unit, unsigned order) {
    ct_link *link = (ct_link *)(void *)(arena->memory + unit * CT_ARENA_UNIT);
    arena->orders[unit] = (uint8_t)(CT_FREE | order);
    // The piece that was used last comes first: it is in the caches.
    ct_link_append(arena->free[order].next, link);
}

ct_status ct_arena_open(ct_arena *arena, uint64_t bytes) {
    if (bytes == 0 || bytes > (uint64_t)CT_ARENA_UNIT << (CT_ARENA_ORDERS - 1)) {
        return CT_EINVAL;
    }
    unsigned order = order_of(bytes);
    *arena = (ct_arena){.bytes = (size_t)CT_ARENA_UNIT << order};
    for (unsigned i = 0; i < CT_ARENA_ORDERS; i++) {
        ct_link_init(&arena->free[i]);
    }
    arena->orders = ct_allocate(arena->bytes / CT_ARENA_UNIT);
    arena->memory = arena->orders != NULL ? ct_map(arena->bytes, -1) : NULL;
    if (arena->memory == NULL) {
        ct_arena_close(arena);
        return CT_ENOMEM;
    }
    add(arena, 0, order);
    return CT_OK;
}

void ct_arena_close(ct_arena *arena) {
    ct_unmap(arena->memory, arena->bytes);
    free(arena->orders);
    *arena = (ct_arena){0};
}

void *ct_arena_take(ct_arena *arena, size_t bytes) {
    if (bytes > arena->bytes) {
        return NULL;
    }
    unsigned wanted = order_of(bytes);
    unsigned order = wanted;
    while (order < CT_ARENA_ORDERS && ct_link_is_empty(&arena->free[order])) {
        order++;
    }
    if (order == CT_ARENA_ORDERS) {
        return NULL;
    }
    ct_link *link = ct_link_pop(&arena->free[order]);
    size_t unit = unit_of(arena, link);
    while (order > wanted) {
        order--;
        add(arena, unit + ((size_t)1 << order), order);
    }
    arena->orders[unit] = (uint8_t)wanted;
    return link;
}

void ct_arena_give(ct_arena *arena, void *piece) {
    if (piece == NULL) {
        return;
    }
    size_t unit = unit_of(arena, piece);
    size_t units = arena->bytes / CT_ARENA_UNIT;
    unsigned order = arena->orders[unit];
    for (;;) {
        size_t size = (size_t)1 << order;
        size_t buddy = unit ^ size;
        if (size == units || arena->orders[buddy] != (CT_FREE | order)) {
            break;
        }
        ct_link_remove((ct_link *)(void *)(arena->memory + buddy * CT_ARENA_UNIT));
        arena->orders[unit > buddy ? unit : buddy] = CT_INSIDE;
        unit = unit < buddy ? unit : buddy;
        order++;
    }
    add(arena, unit, order);
}
