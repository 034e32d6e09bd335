/* What engines tell of their blocks: stores, further places, removals. For the writer alone. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* ---- Storing ---- */

/* Whether the entry names these keys in this shape. */
static bool names(const ci_index *index, uint16_t holder, uint64_t tag, uint64_t meta,
                  const uint64_t *mixed, size_t key_count, bool has_tail)
{
    if (((meta & META_TAIL) != 0) != has_tail || ((meta & META_NO_KEY) != 0) != (key_count == 0)
        || ((meta & META_PARTS) != 0) != (key_count > 1))
        return false;
    if (key_count > 0 && prefix_of(meta) != prefix_of(mixed[key_count - 1]))
        return false;
    if (key_count > 1) {
        entry *beyond = ci_engine_find(index, holder, ci_part_tag(tag, key_count - 1));
        entry *last = ci_engine_find(index, holder, ci_part_tag(tag, key_count - 2));
        if (beyond != NULL || last == NULL
            || prefix_of(last->meta) != prefix_of(mixed[key_count - 2]))
            return false;
    }
    return true;
}

/* Calls `body` for the mixed prefix of each key of a block. */
#define FOR_EACH_KEY(index, number, tag, meta, prefix, body)                                       \
    do {                                                                                           \
        if (((meta) & META_NO_KEY) == 0) {                                                         \
            uint64_t prefix = prefix_of(meta);                                                     \
            body;                                                                                  \
        }                                                                                          \
        for (size_t part_ = 0; ((meta) & META_PARTS) != 0; part_++) {                              \
            entry *entry_ = ci_engine_find(index, number, ci_part_tag(tag, part_));                \
            if (entry_ == NULL || (entry_->meta & META_PART) == 0)                                 \
                break;                                                                             \
            uint64_t prefix = prefix_of(entry_->meta);                                             \
            body;                                                                                  \
        }                                                                                          \
    } while (0)

/* A block that is gone from the table comes back only with its whole key. */
static void add_resident(ci_index *index, uint64_t prefix, uint16_t resident)
{
    slot *slot = ci_block_find_prefix(index, prefix);
    if (slot == NULL || ci_residents_contain(index, load(&slot->payload), resident))
        return;
    ci_block_attach(index, load(&slot->key), resident, false);
}

/* One more store of a known block. */
static void refer(ci_index *index, uint16_t number, uint64_t tag, entry *block, unsigned tier)
{
    uint64_t one = UINT64_C(1) << (4 + 4 * tier), meta = block->meta;
    if (references(meta, tier) < 15)
        block->meta += one;
    if ((meta & META_REFERENCES) == 0)
        index->holders[number].held_count++;
    if (references(meta, tier) > 0)
        return;
    uint16_t resident = resident_of(number, tier);
    index->storing = tag;
    FOR_EACH_KEY(index, number, tag, meta, prefix, {
        slot *slot = ci_block_find_prefix(index, prefix);
        if (slot != NULL)
            ci_block_attach(index, load(&slot->key), resident, false);
    });
    index->storing = 0;
}

static bool store_block(ci_index *index, uint16_t number, unsigned tier, uint64_t tag,
                        const uint64_t *mixed, size_t key_count, bool has_tail)
{
    entry *place = ci_engine_place(index, number, tag);
    uint64_t engine_changes = index->engine_changes;
    bool is_known = place != NULL && place->tag == tag && (place->meta & META_PART) == 0;
    entry *known = is_known ? place : NULL;
    uint16_t resident = resident_of(number, tier);
    if (known != NULL && names(index, number, tag, known->meta, mixed, key_count, has_tail)) {
        uint64_t meta = known->meta;
        /* What was evicted since comes back. */
        for (size_t i = 0; i < key_count; i++) {
            if (ci_block_find(index, mixed[i]) != NULL)
                continue;
            ci_block_attach(index, mixed[i], NO_RESIDENT, true);
        }
        known = ci_engine_find_block(index, number, tag);
        if (known != NULL && known->meta == meta) {
            bool was_held = references(meta, tier) > 0;
            refer(index, number, tag, known, tier);
            for (size_t i = 0; was_held && i < key_count; i++)
                add_resident(index, mixed[i], resident);
            return true;
        }
        known = ci_engine_find_block(index, number, tag);
    }
    /* The engine gave the hash to other tokens: it dropped the old ones unseen. */
    if (known != NULL)
        ci_engine_forget(index, number, tag);

    uint64_t meta = UINT64_C(1) << (4 + 4 * tier);
    meta |= has_tail ? META_TAIL : 0;
    meta |= key_count == 0 ? META_NO_KEY : prefix_of(mixed[key_count - 1]);
    meta |= key_count > 1 ? META_PARTS : 0;
    size_t attached = 0, inserted = 0;
    index->storing = tag;
    while (attached < key_count && ci_block_attach(index, mixed[attached], resident, true))
        attached++;
    if (index->engine_changes != engine_changes)
        place = NULL;
    bool is_named = attached == key_count && ci_engine_insert(index, number, tag, meta, place);
    if (is_named)
        index->holders[number].held_count++;
    while (is_named && key_count > 1 && inserted < key_count - 1) {
        uint64_t own = ci_part_tag(tag, inserted);
        if (ci_engine_find(index, number, own) != NULL
            || !ci_engine_insert(index, number, own, prefix_of(mixed[inserted]) | META_PART, NULL))
            break;
        inserted++;
    }
    index->storing = 0;
    if (is_named && (key_count <= 1 || inserted == key_count - 1))
        return true;
    /* Memory has ended half-way: those that have an entry go with it, then the others. */
    if (is_named) {
        ci_engine_find_block(index, number, tag)->meta &= ~META_TAIL;
        ci_engine_forget(index, number, tag);
        attached--;
    }
    for (size_t i = inserted; i < attached; i++)
        ci_block_detach(index, mixed[i], resident, true);
    return false;
}

size_t ci_store(ci_index *index, uint16_t number, unsigned tier, const uint64_t *hashes,
                size_t block_count, const uint64_t *keys, size_t keys_per_block, bool has_tail)
{
    enum { SOME_KEYS = 64 };
    uint64_t some[SOME_KEYS], *mixed = some;
    const holder *holder = &index->holders[number];
    size_t stored = 0, fetched = 0;
    /* Blocks with more keys than that are worth an allocation. */
    if (keys_per_block > SOME_KEYS)
        mixed = malloc(keys_per_block * sizeof *mixed);
    if (mixed == NULL)
        return 0;
    ci_collect(index);
    if (block_count >= ENGINE_SEGMENT_COUNT)
        ci_engine_reserve(index, number, block_count);
    for (size_t block = 0; block < block_count; block++) {
        for (; fetched < block_count && fetched < block + AHEAD; fetched++) {
            if (holder->segments != NULL)
                ci_engine_prefetch(holder, ci_tag(index, hashes[fetched]));
            for (size_t i = 0; i < keys_per_block; i++)
                ci_block_prefetch(index, mix_key(index, keys[fetched * keys_per_block + i]));
        }
        for (size_t i = 0; i < keys_per_block; i++)
            mixed[i] = mix_key(index, keys[block * keys_per_block + i]);
        stored += store_block(index, number, tier, ci_tag(index, hashes[block]), mixed,
                              keys_per_block, has_tail);
    }
    if (mixed != some)
        free(mixed);
    return stored;
}

size_t ci_store_place(ci_index *index, uint16_t number, unsigned tier, const uint64_t *hashes,
                      size_t count, uint64_t *unknown)
{
    size_t unknown_count = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t tag = ci_tag(index, hashes[i]);
        entry *block = ci_engine_find_block(index, number, tag);
        if (block != NULL)
            refer(index, number, tag, block, tier);
        else
            unknown[unknown_count++] = hashes[i];
    }
    return unknown_count;
}

/* ---- Removal ---- */

/* Loads what the next blocks to be forgotten need: they were removed long ago. */
static void approach_retired(const ci_index *index)
{
    enum { STEP = AHEAD / 2 };
    const retired *far =
        &index->retired[(index->retired_next + 2 * STEP) % index->retired_capacity];
    const retired *near = &index->retired[(index->retired_next + STEP) % index->retired_capacity];
    if (index->holders[far->holder].segments != NULL)
        ci_engine_prefetch(&index->holders[far->holder], far->tag);
    entry *block = ci_engine_find_block(index, near->holder, near->tag);
    if (block != NULL)
        ci_block_prefetch(index, prefix_of(block->meta));
}

/* Keeps a block that is held no more for a while: its children, or its copies in another tier, may
 * still be announced. */
static void retire(ci_index *index, uint16_t number, uint64_t tag)
{
    if (index->retired_count == index->retired_capacity
        && index->retired_capacity < index->retired_limit) {
        size_t capacity = index->retired_capacity == 0 ? 256 : 2 * index->retired_capacity;
        retired *larger = ci_allocate(index, capacity * sizeof *larger);
        if (larger != NULL) {
            if (index->retired_count > 0)
                memcpy(larger, index->retired, index->retired_count * sizeof *larger);
            ci_free(index, index->retired);
            index->retired = larger;
            index->retired_capacity = capacity;
        } else {
            index->retired_limit = index->retired_capacity;
        }
    }
    retired new = {.tag = tag, .holder = number};
    if (index->retired_count < index->retired_capacity) {
        index->retired[index->retired_count++] = new;
        return;
    }
    if (index->retired_capacity == 0) {
        ci_engine_forget(index, number, tag);
        return;
    }
    approach_retired(index);
    retired old = index->retired[index->retired_next];
    index->retired[index->retired_next] = new;
    index->retired_next = (index->retired_next + 1) % index->retired_capacity;
    entry *block = ci_engine_find_block(index, old.holder, old.tag);
    if (block != NULL && (block->meta & META_REFERENCES) == 0)
        ci_engine_forget(index, old.holder, old.tag);
}

static bool remove_one(ci_index *index, uint16_t number, unsigned tier, uint64_t tag)
{
    entry *block = ci_engine_find_block(index, number, tag);
    if (block == NULL || references(block->meta, tier) == 0)
        return false;
    block->meta -= UINT64_C(1) << (4 + 4 * tier);
    uint64_t meta = block->meta;
    if (references(meta, tier) > 0)
        return true;
    uint16_t resident = resident_of(number, tier);
    FOR_EACH_KEY(index, number, tag, meta, prefix,
                 ci_block_detach(index, prefix, resident, false));
    if ((meta & META_REFERENCES) == 0) {
        index->holders[number].held_count--;
        retire(index, number, tag);
    }
    return true;
}

size_t ci_remove(ci_index *index, uint16_t number, unsigned tier, const uint64_t *hashes,
                 size_t count, uint64_t *unknown)
{
    uint64_t tags[AHEAD];
    const holder *holder = &index->holders[number];
    size_t unknown_count = 0;
    for (size_t first = 0; first < count; first += AHEAD) {
        size_t step = count - first < AHEAD ? count - first : AHEAD;
        for (size_t i = 0; i < step; i++) {
            tags[i] = ci_tag(index, hashes[first + i]);
            if (holder->segments != NULL)
                ci_engine_prefetch(holder, tags[i]);
        }
        for (size_t i = 0; i < step; i++) {
            entry *block = ci_engine_find_block(index, number, tags[i]);
            if (block != NULL)
                ci_block_prefetch(index, prefix_of(block->meta));
        }
        for (size_t i = 0; i < step; i++)
            if (!remove_one(index, number, tier, tags[i]))
                unknown[unknown_count++] = hashes[first + i];
    }
    return unknown_count;
}

ci_found ci_find(const ci_index *index, uint16_t holder, uint64_t hash, uint64_t *key_p)
{
    entry *block = ci_engine_find_block(index, holder, ci_tag(index, hash));
    if (block == NULL)
        return CI_UNKNOWN;
    if ((block->meta & META_TAIL) != 0)
        return CI_TAIL;
    slot *slot = ci_block_find_prefix(index, prefix_of(block->meta));
    if (slot == NULL)
        return CI_EVICTED;
    *key_p = unmix_key(index, load(&slot->key));
    return CI_KEY;
}
