/* The tables of engine hashes, one per holder: search, room, forgetting. For the writer alone. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

/* Slots behind the last home; the last of all stays empty and ends every search. */
enum { PAD = 12, FIRST_CAPACITY = 8 };

/* ---- Tags ---- */

uint64_t ci_tag(const ci_index *index, uint64_t hash)
{
    /* Hashes of some engines are small numbers in order. */
    uint64_t tag = (hash ^ hash >> 32) * index->hash_multiplier;
    return tag != 0 ? tag : 1;
}

uint64_t ci_part_tag(uint64_t tag, size_t part)
{
    /* Weyl steps of the golden ratio, scattered: no tag is near. */
    uint64_t step = tag + (part + 1) * UINT64_C(0x9e3779b97f4a7c15);
    step = (step ^ step >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    return step != 0 ? step : 1;
}

/* ---- The sorted segments ---- */

static engine_segment *segment_at(const holder *holder, uint64_t tag)
{
    return &holder->segments[tag >> (64 - ENGINE_SEGMENT_BITS)];
}

static uint32_t home_of(uint64_t tag, uint32_t capacity)
{
    return (uint32_t)scaled(tag << ENGINE_SEGMENT_BITS, capacity);
}

static size_t array_bytes(uint32_t capacity) { return (capacity + PAD) * sizeof(entry); }

/* The first entry that is not below `tag`, or an empty place. */
static entry *lower_bound(const engine_segment *segment, uint64_t tag)
{
    entry *place = &segment->entries[home_of(tag, segment->capacity)];
    while (place->tag != 0 && place->tag < tag)
        place++;
    return place;
}

entry *ci_engine_place(const ci_index *index, uint16_t holder_number, uint64_t tag)
{
    const holder *holder = &index->holders[holder_number];
    if (holder->segments == NULL)
        return NULL;
    engine_segment *segment = segment_at(holder, tag);
    return segment->entries != NULL ? lower_bound(segment, tag) : NULL;
}

entry *ci_engine_find(const ci_index *index, uint16_t holder, uint64_t tag)
{
    entry *place = ci_engine_place(index, holder, tag);
    return place != NULL && place->tag == tag ? place : NULL;
}

entry *ci_engine_find_block(const ci_index *index, uint16_t holder, uint64_t tag)
{
    entry *entry = ci_engine_find(index, holder, tag);
    return entry != NULL && (entry->meta & META_PART) == 0 ? entry : NULL;
}

void ci_engine_prefetch(const holder *holder, uint64_t tag)
{
    engine_segment *segment = segment_at(holder, tag);
    if (segment->entries != NULL)
        __builtin_prefetch(&segment->entries[home_of(tag, segment->capacity)], 1);
}

static void erase(ci_index *index, holder *holder, entry *place)
{
    engine_segment *segment = segment_at(holder, place->tag);
    for (;; place++) {
        entry *next = place + 1;
        if (next->tag == 0
            || &segment->entries[home_of(next->tag, segment->capacity)] == next)
            break;
        *place = *next;
    }
    place->tag = 0;
    index->engine_changes++;
    segment->count--;
    holder->entry_count--;
    index->statistics.engine_block_count--;
}

/* Whether the entries of `from`, each as near to its home as the order allows, fit. */
static bool fits(const entry *from, size_t from_count, uint32_t capacity)
{
    size_t next = 0;
    for (size_t i = 0; i < from_count; i++) {
        if (from[i].tag == 0)
            continue;
        size_t home = home_of(from[i].tag, capacity);
        next = (home > next ? home : next) + 1;
    }
    return next < capacity + PAD;
}

/* Moves them towards the start until they lie as in a table of `capacity`, in which they fit. */
static void pack(entry *entries, size_t count, uint32_t capacity)
{
    size_t next = 0;
    for (size_t i = 0; i < count; i++) {
        if (entries[i].tag == 0)
            continue;
        entry moved = entries[i];
        size_t home = home_of(moved.tag, capacity);
        while (next < home)
            entries[next++].tag = 0;
        entries[next++] = moved;
    }
    while (next < capacity + PAD)
        entries[next++].tag = 0;
}

/* Copies them into a larger table. False if they do not fit. */
static bool spread(const entry *from, size_t from_count, entry *to, uint32_t capacity)
{
    memset(to, 0, array_bytes(capacity));
    size_t next = 0;
    for (size_t i = 0; i < from_count; i++) {
        /* Without a branch on what is empty: that moves nothing and is written over. */
        size_t home = home_of(from[i].tag, capacity);
        next = home > next ? home : next;
        if (next == capacity + PAD - 1)
            return false;
        to[next] = from[i];
        next += from[i].tag != 0;
    }
    return true;
}

static uint32_t limit_of(uint32_t capacity) { return capacity - capacity / 8; }

/* Makes room for `count` entries. */
static bool grow(ci_index *index, engine_segment *segment, uint32_t count)
{
    for (uint32_t capacity = segment->capacity;;) {
        do {
            if (capacity < FIRST_CAPACITY)
                capacity = FIRST_CAPACITY;
            else
                capacity += capacity < 128 ? capacity / 2 : capacity / 16 * 3;
        } while (limit_of(capacity) < count);
        entry *entries = ci_allocate(index, array_bytes(capacity));
        /* Only from those that have more: so all come to have alike. */
        if (entries == NULL && ci_engine_reclaim(index, array_bytes(capacity), capacity))
            entries = ci_allocate(index, array_bytes(capacity));
        if (entries == NULL)
            return false;
        size_t old_length = segment->entries != NULL ? segment->capacity + PAD : 0;
        if (!spread(segment->entries, old_length, entries, capacity)) {
            ci_free(index, entries);
            continue;
        }
        ci_free(index, segment->entries);
        index->engine_changes++;
        segment->entries = entries;
        segment->capacity = capacity;
        segment->hand = 0;
        return true;
    }
}

/* ---- Forgetting ---- */

static void detach_all(ci_index *index, uint16_t holder, uint64_t meta, uint64_t references_of)
{
    for (unsigned tier = 0; tier < CI_TIER_COUNT; tier++)
        if (references(references_of, tier) > 0)
            ci_block_detach(index, prefix_of(meta), resident_of(holder, tier), false);
    ci_block_detach(index, prefix_of(meta), NO_RESIDENT, true);
}

void ci_engine_forget(ci_index *index, uint16_t number, uint64_t tag)
{
    holder *holder = &index->holders[number];
    entry *block = ci_engine_find_block(index, number, tag);
    if (block == NULL)
        return;
    uint64_t meta = block->meta;
    erase(index, holder, block);
    if ((meta & META_REFERENCES) != 0)
        holder->held_count--;
    if ((meta & META_NO_KEY) == 0)
        detach_all(index, number, meta, meta);
    if ((meta & META_PARTS) != 0) {
        for (size_t part = 0;; part++) {
            entry *entry = ci_engine_find(index, number, ci_part_tag(tag, part));
            if (entry == NULL || (entry->meta & META_PART) == 0)
                break;
            uint64_t part_meta = entry->meta;
            erase(index, holder, entry);
            detach_all(index, number, part_meta, meta);
        }
    }
    if ((meta & META_TAIL) != 0)
        index->tail_dropped(index->context, number, tag);
}

/* Forgets a block of a full segment: one that is held no more, else one whose request key was
 * forgotten or met by no lookup lately. */
static void evict(ci_index *index, uint16_t number, engine_segment *segment)
{
    enum { CANDIDATES = 16 };
    uint64_t victim = 0;
    bool is_unused = false;
    uint32_t length = segment->capacity + PAD;
    for (uint32_t step = 0, candidates = 0; step < length && candidates < CANDIDATES; step++) {
        segment->hand = segment->hand + 1 < length ? segment->hand + 1 : 0;
        entry *entry = &segment->entries[segment->hand];
        if (entry->tag == 0 || (entry->meta & META_PART) != 0 || entry->tag == index->storing)
            continue;
        candidates++;
        if ((entry->meta & META_REFERENCES) == 0) {
            victim = entry->tag;
            break;
        }
        if (is_unused)
            continue;
        slot *slot = ci_block_find_prefix(index, prefix_of(entry->meta));
        is_unused = slot == NULL || (load(&slot->payload) & PAYLOAD_USED) == 0;
        if (victim == 0 || is_unused)
            victim = entry->tag;
        if (!is_unused)
            atomic_fetch_and_explicit(&slot->payload, ~PAYLOAD_USED, memory_order_relaxed);
    }
    /* Only parts: their block is in another segment, and goes with the next eviction there. */
    if (victim == 0)
        return;
    ci_engine_forget(index, number, victim);
    index->statistics.eviction_count++;
}

bool ci_engine_reclaim(ci_index *index, size_t bytes, uint32_t capacity)
{
    /* Often in vain where all have alike: the hand goes on from here next time. */
    const unsigned visit_limit = capacity == 0 ? 512 : 16;
    const uint32_t segment_total = index->holder_limit * ENGINE_SEGMENT_COUNT;
    /* Who has little keeps it. */
    const size_t average =
        segment_total > 0 ? index->statistics.engine_block_count / segment_total : 0;
    for (unsigned visit = 0; visit < visit_limit && segment_total > 0; visit++) {
        if (ci_index_has_room(index, bytes + 128))
            return true;
        uint32_t at = index->reclaim_hand = (index->reclaim_hand + 1) % segment_total;
        uint16_t number = (uint16_t)(at / ENGINE_SEGMENT_COUNT);
        holder *holder = &index->holders[number];
        if (holder->segments == NULL) {
            index->reclaim_hand |= ENGINE_SEGMENT_COUNT - 1;
            continue;
        }
        engine_segment *segment = &holder->segments[at % ENGINE_SEGMENT_COUNT];
        uint32_t smaller = segment->capacity / 4 * 3;
        if (smaller <= capacity || smaller < FIRST_CAPACITY || segment->count < average)
            continue;
        while (segment->count > limit_of(smaller)) {
            uint32_t before = segment->count;
            evict(index, number, segment);
            if (segment->count == before)
                break;
        }
        /* In place, so that no more memory is needed; what does not fit at the end stays. */
        entry *entries = segment->entries;
        if (segment->count > limit_of(smaller)
            || !fits(entries, segment->capacity + PAD, smaller))
            continue;
        pack(entries, segment->capacity + PAD, smaller);
        index->engine_changes++;
        segment->capacity = smaller;
        segment->hand = 0;
        segment->entries = ci_shrink(index, segment->entries, array_bytes(smaller));
    }
    return ci_index_has_room(index, bytes + 128);
}

/* ---- Adding ---- */

static bool make_segments(ci_index *index, uint16_t number)
{
    const size_t bytes = ENGINE_SEGMENT_COUNT * sizeof(engine_segment);
    holder *holder = &index->holders[number];
    holder->segments = ci_allocate(index, bytes);
    if (holder->segments == NULL && ci_engine_reclaim(index, bytes, 0))
        holder->segments = ci_allocate(index, bytes);
    if (holder->segments == NULL)
        return false;
    memset(holder->segments, 0, bytes);
    if (number >= index->holder_limit)
        index->holder_limit = number + 1u;
    return true;
}

void ci_engine_reserve(ci_index *index, uint16_t number, size_t count)
{
    holder *holder = &index->holders[number];
    if (holder->segments == NULL && !make_segments(index, number))
        return;
    for (unsigned i = 0; i < ENGINE_SEGMENT_COUNT; i++) {
        engine_segment *segment = &holder->segments[i];
        size_t needed = segment->count + count / ENGINE_SEGMENT_COUNT;
        if (needed > limit_of(segment->capacity) && !grow(index, segment, (uint32_t)needed))
            return;
    }
}

bool ci_engine_insert(ci_index *index, uint16_t number, uint64_t tag, uint64_t meta, entry *place)
{
    holder *holder = &index->holders[number];
    if (holder->segments == NULL && !make_segments(index, number))
        return false;
    engine_segment *segment = segment_at(holder, tag);
    if (segment->count >= limit_of(segment->capacity)) {
        if (!grow(index, segment, segment->count + 1)) {
            if (segment->entries == NULL)
                return false;
            evict(index, number, segment);
            if (segment->count >= limit_of(segment->capacity))
                return false;
        }
        place = NULL;
    }
    for (;;) {
        if (place == NULL)
            place = lower_bound(segment, tag);
        entry *empty = place;
        while (empty->tag != 0)
            empty++;
        /* The last of all stays empty. */
        if (empty - segment->entries < segment->capacity + PAD - 1)
            break;
        if (!grow(index, segment, segment->count + 1))
            return false;
        place = NULL;
    }
    /* All move up to the next empty place. */
    entry carried = {.tag = tag, .meta = meta};
    for (; place->tag != 0; place++) {
        entry next = *place;
        *place = carried;
        carried = next;
    }
    *place = carried;
    segment->count++;
    holder->entry_count++;
    index->statistics.engine_block_count++;
    index->engine_changes++;
    return true;
}

/* ---- A whole holder ---- */

size_t ci_holder_clear(ci_index *index, uint16_t number, size_t limit)
{
    holder *holder = &index->holders[number];
    if (holder->segments == NULL)
        return 0;
    for (unsigned i = 0; i < ENGINE_SEGMENT_COUNT && limit > 0; i++) {
        engine_segment *segment = &holder->segments[i];
        if (segment->entries == NULL)
            continue;
        /* From the end: what goes moves only what is behind it. */
        for (uint32_t place = segment->capacity + PAD; place-- > 0 && limit > 0;) {
            if (place >= AHEAD && segment->entries[place - AHEAD].tag != 0)
                ci_block_prefetch(index, prefix_of(segment->entries[place - AHEAD].meta));
            entry *entry = &segment->entries[place];
            if (entry->tag == 0 || (entry->meta & META_PART) != 0)
                continue;
            ci_engine_forget(index, number, entry->tag);
            limit--;
        }
        if (segment->count == 0) {
            ci_free(index, segment->entries);
            *segment = (engine_segment){0};
        }
    }
    if (holder->entry_count == 0) {
        for (unsigned i = 0; i < ENGINE_SEGMENT_COUNT; i++)
            ci_free(index, holder->segments[i].entries);
        ci_free(index, holder->segments);
        holder->segments = NULL;
    }
    return holder->entry_count;
}

size_t ci_holder_block_count(const ci_index *index, uint16_t number)
{
    return index->holders[number].held_count;
}

void ci_engine_destroy(ci_index *index)
{
    for (unsigned number = 0; number < CI_HOLDER_LIMIT; number++) {
        holder *holder = &index->holders[number];
        for (unsigned i = 0; holder->segments != NULL && i < ENGINE_SEGMENT_COUNT; i++)
            ci_free(index, holder->segments[i].entries);
        ci_free(index, holder->segments);
    }
}
