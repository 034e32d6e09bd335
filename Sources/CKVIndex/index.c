/* The index as a whole, its holders, and expected blocks. */
#include <stdlib.h>
#include <string.h>

#include "impl.h"

/* SplitMix64 (public domain, Vigna). */
static uint64_t next_random(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t mixed = *state;
    mixed = (mixed ^ mixed >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ mixed >> 31;
}

/* The odd number by which a product with an odd `number` is taken back. */
static uint64_t inverse_of(uint64_t number)
{
    uint64_t inverse = number; /* right in the lowest 3 bits; each step doubles them */
    for (unsigned bits = 3; bits < 64; bits *= 2)
        inverse *= 2 - number * inverse;
    return inverse;
}

ci_index *ci_index_create(size_t maximum_bytes, uint64_t seed, ci_tail_dropped *tail_dropped,
                          void *context)
{
    ci_index *index = aligned_alloc(64, (sizeof *index + 63) / 64 * 64);
    if (index == NULL)
        return NULL;
    memset(index, 0, sizeof *index);
    index->multiplier = next_random(&seed) | 1;
    index->inverse = inverse_of(index->multiplier);
    index->mask = next_random(&seed);
    index->hash_multiplier = next_random(&seed) | 1;
    index->maximum_bytes = maximum_bytes;
    index->bytes = sizeof *index;
    index->tail_dropped = tail_dropped;
    index->context = context;
    for (unsigned i = 0; i < RECORD_CLASS_COUNT; i++)
        index->free_records[i] = NO_RECORD;
    index->new_records = index->old_records = NO_RECORD;
    for (unsigned i = 0; i < CI_HOLDER_LIMIT; i++)
        atomic_init(&index->groups[i], (uint64_t)NO_GROUP << 8);
    /* A retired block is one of many: a small part of the budget is for them. */
    size_t retired_limit = maximum_bytes / 64 / sizeof(retired);
    index->retired_limit = retired_limit < 1 << 16 ? retired_limit : 1 << 16;
    index->chunk_limit = maximum_bytes / (CHUNK_UNITS * UNIT_BYTES);
    size_t chunks_bytes = (index->chunk_limit + 1) * sizeof *index->chunks;
    index->chunks = ci_allocate(index, chunks_bytes);
    if (index->chunks == NULL || !ci_blocks_create(index)) {
        ci_index_destroy(index);
        return NULL;
    }
    memset(index->chunks, 0, chunks_bytes);
    return index;
}

void ci_index_destroy(ci_index *index)
{
    if (index == NULL)
        return;
    ci_engine_destroy(index);
    ci_blocks_destroy(index);
    for (size_t i = 0; i < index->chunk_count; i++)
        ci_free(index, atomic_load_explicit(&index->chunks[i], memory_order_relaxed));
    ci_free(index, index->chunks);
    ci_free(index, index->retired);
    ci_free(index, index->sets);
    while (index->garbage != NULL) {
        garbage *next = index->garbage->next;
        ci_free(index, index->garbage);
        index->garbage = next;
    }
    free(index);
}

ci_statistics ci_index_statistics(const ci_index *index)
{
    ci_statistics statistics = index->statistics;
    statistics.allocated_bytes = index->bytes;
    return statistics;
}

/* ---- Holders ---- */

void ci_holder_mask(ci_index *index, uint16_t holder)
{
    atomic_fetch_or_explicit(&index->masked[holder / 64], UINT64_C(1) << holder % 64,
                             memory_order_release);
}

void ci_holder_unmask(ci_index *index, uint16_t holder)
{
    atomic_fetch_and_explicit(&index->masked[holder / 64], ~(UINT64_C(1) << holder % 64),
                              memory_order_release);
}

void ci_holder_set_group(ci_index *index, uint16_t endpoint, uint16_t number, ci_group_rule rule,
                         uint32_t window_blocks)
{
    /* The list of groups hangs off the endpoint: take the holder out, then in again. */
    uint16_t before = endpoint;
    for (uint16_t at; (at = group_next(load(&index->groups[before]))) != NO_GROUP; before = at) {
        if (at != number)
            continue;
        uint64_t after = load(&index->groups[at]) & GROUP_NEXT_MASK;
        store(&index->groups[before], (load(&index->groups[before]) & ~GROUP_NEXT_MASK) | after);
        atomic_fetch_sub_explicit(&index->group_count, 1, memory_order_release);
        break;
    }
    if (rule == CI_GROUP_NONE) {
        store(&index->groups[number], (uint64_t)NO_GROUP << 8);
        ci_holder_unmask(index, number);
        return;
    }
    ci_holder_mask(index, number);
    uint64_t head = load(&index->groups[endpoint]);
    store(&index->groups[number],
          (uint64_t)window_blocks << 32 | (head & GROUP_NEXT_MASK) | (uint64_t)rule);
    store(&index->groups[endpoint], (head & ~GROUP_NEXT_MASK) | (uint64_t)number << 8);
    atomic_fetch_add_explicit(&index->group_count, 1, memory_order_release);
}

/* ---- Expected blocks ---- */

size_t ci_expect(ci_index *index, uint16_t holder, const uint64_t *keys, size_t count,
                 uint64_t *added)
{
    size_t added_count = 0;
    uint16_t held = resident_of(holder, 0), expected = resident_of(holder, KIND_EXPECTED);
    for (size_t first = 0; first < count; first += AHEAD) {
        size_t end = count - first < AHEAD ? count : first + AHEAD;
        for (size_t i = first; i < end; i++)
            ci_block_prefetch(index, mix_key(index, keys[i]));
        for (size_t i = first; i < end; i++) {
            uint64_t mixed = mix_key(index, keys[i]);
            slot *slot = ci_block_find(index, mixed);
            if (slot != NULL && ci_residents_contain(index, load(&slot->payload), held))
                continue;
            if (ci_block_attach(index, mixed, expected, false))
                added[added_count++] = keys[i];
        }
    }
    return added_count;
}

void ci_expect_end(ci_index *index, uint16_t holder, const uint64_t *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t mixed = mix_key(index, keys[i]);
        if (ci_block_find(index, mixed) != NULL)
            ci_block_detach(index, mixed, resident_of(holder, KIND_EXPECTED), false);
    }
}
