/*
 * Who holds which KV blocks: tables of the index, written by one thread at a time and read by any
 * number without locks.
 *
 *   Index      ci_index_create, ci_index_destroy, ci_index_statistics, ci_index_set_other_bytes
 *   Holders    ci_holder_mask, ci_holder_unmask, ci_holder_clear, ci_holder_block_count,
 *              ci_holder_set_group
 *   Blocks     ci_store, ci_store_place, ci_remove, ci_find, ci_tag
 *   Expected   ci_expect, ci_expect_end
 *   Lookups    ci_match
 *
 * A holder is a small integer: one KV cache, which is an endpoint, or one attention group of an
 * endpoint of a hybrid model. An engine hash names a block within one holder; a request key names
 * it everywhere.
 *
 * Threads: ci_match may be called at any time from any thread. All other functions are writes and
 * come one at a time; the caller holds a lock. A lookup never waits for a writer, not even for one
 * that was descheduled half-way: see impl.h for the protocol and its proof.
 */
#ifndef CKVINDEX_H
#define CKVINDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CI_HOLDER_LIMIT 8192
#define CI_TIER_COUNT 4 /* gpu, cpu, disk, remote: from fast to slow */

/* ---- Index ---- */

typedef struct ci_index ci_index;

/* Called when the index forgets a block that was stored with `has_tail`, by the writing thread
 * inside the call that made it forget. Must not call the index. */
typedef void ci_tail_dropped(void *context, uint16_t holder, uint64_t tag);

/*
 * NULL if memory is lacking. `seed` scatters the tables: it must not be known to who chooses the
 * texts. The index allocates no more than `maximum_bytes`, less what ci_index_set_other_bytes
 * says, and forgets blocks to stay below.
 */
ci_index *ci_index_create(size_t maximum_bytes, uint64_t seed, ci_tail_dropped *tail_dropped,
                          void *context);

/* No lookup may be under way. */
void ci_index_destroy(ci_index *index);

typedef struct ci_statistics {
    size_t allocated_bytes;    /* as the allocator rounds them */
    size_t held_block_count;   /* request keys that some holder holds or is expected to */
    size_t engine_block_count; /* engine hashes known, of all holders */
    size_t eviction_count;     /* blocks and engine hashes forgotten to save memory */
    size_t conflict_count;     /* blocks refused: another one has the first 44 bits of its key */
} ci_statistics;

ci_statistics ci_index_statistics(const ci_index *index);

/* What belongs to the index but lies with the caller; part of the budget. */
void ci_index_set_other_bytes(ci_index *index, size_t bytes);

/* Whether so many bytes more would fit the budget. */
bool ci_index_has_room(const ci_index *index, size_t bytes);

/* ---- Holders ---- */

/* From the next lookup on the holder is passed over: all that it holds is gone at once. */
void ci_holder_mask(ci_index *index, uint16_t holder);
void ci_holder_unmask(ci_index *index, uint16_t holder);

/* Forgets up to `limit` engine hashes of a holder; returns how many are left. */
size_t ci_holder_clear(ci_index *index, uint16_t holder, size_t limit);

/* Engine hashes that the holder holds in some tier. */
size_t ci_holder_block_count(const ci_index *index, uint16_t holder);

/* What of a group of a hybrid model must be there for a prefix to be reused. */
typedef enum ci_group_rule {
    CI_GROUP_NONE,   /* the holder is an endpoint */
    CI_GROUP_PREFIX, /* all of it: full attention */
    CI_GROUP_WINDOW, /* the last `window_blocks` */
    CI_GROUP_STATE   /* its last block: the state of a recurrent layer */
} ci_group_rule;

/*
 * Makes `holder` a group of `endpoint`: lookups count for the endpoint only what all its groups
 * allow, and do not report the group. CI_GROUP_NONE takes it away again.
 */
void ci_holder_set_group(ci_index *index, uint16_t endpoint, uint16_t holder, ci_group_rule rule,
                         uint32_t window_blocks);

/* ---- Blocks ---- */

/*
 * Stores consecutive engine blocks in a tier. `keys_per_block` request keys of each follow one
 * another in `keys`; 0 where an engine block completes none. With `has_tail` the caller keeps
 * where the sequence goes on after the (only) block under its ci_tag. Returns how many of the
 * blocks were stored: a block stays out where memory ends, or on a conflict.
 */
size_t ci_store(ci_index *index, uint16_t holder, unsigned tier, const uint64_t *hashes,
                size_t block_count, const uint64_t *keys, size_t keys_per_block, bool has_tail);

/* Stores of known blocks in a further tier. Hashes that are not known are written to `unknown`,
 * which has room for `count`; their number is returned. */
size_t ci_store_place(ci_index *index, uint16_t holder, unsigned tier, const uint64_t *hashes,
                      size_t count, uint64_t *unknown);

/* Takes back one store each. Hashes without one are written to `unknown` as above. */
size_t ci_remove(ci_index *index, uint16_t holder, unsigned tier, const uint64_t *hashes,
                 size_t count, uint64_t *unknown);

typedef enum ci_found {
    CI_UNKNOWN,
    CI_KEY,    /* its last request key is told */
    CI_TAIL,   /* the caller keeps where the sequence goes on */
    CI_EVICTED /* known, but the block was forgotten to save memory */
} ci_found;

ci_found ci_find(const ci_index *index, uint16_t holder, uint64_t hash, uint64_t *key_p);

/* The index's own name of an engine hash, as ci_tail_dropped tells it. */
uint64_t ci_tag(const ci_index *index, uint64_t hash);

/* ---- Expected blocks: about to be held, in the GPU's tier ---- */

/* Adds the blocks that the holder does not hold on its GPU; writes their keys to `added`, which
 * has room for `count`, and returns their number. */
size_t ci_expect(ci_index *index, uint16_t holder, const uint64_t *keys, size_t count,
                 uint64_t *added);

/* Takes back what one ci_expect added. */
void ci_expect_end(ci_index *index, uint16_t holder, const uint64_t *keys, size_t count);

/* ---- Lookups ---- */

/* Memory of a lookup, the caller's. `limit` is a multiple of 64; holders from there on are not
 * seen. */
typedef struct ci_matches {
    size_t limit;
    uint32_t *counts;   /* limit * CI_TIER_COUNT: blocks by the fastest tier; all 0 before */
    uint16_t *matched;  /* limit: the endpoints that hold the first block */
    uint64_t *words;    /* (1 + CI_TIER_COUNT) * limit / 64 */
    size_t matched_count;
} ci_matches;

/* The longest run from the first key on that each endpoint holds. Returns whether any does. */
bool ci_match(ci_index *index, const uint64_t *keys, size_t key_count, ci_matches *matches);

#ifdef __cplusplus
}
#endif

#endif
