/* The table of blocks by request key. */
#include <stdlib.h>
#include <string.h>

#include "impl.h"

/* Each half as large again as the one before, and a multiple of 4. */
const uint32_t ci_table_capacity[TABLE_CLASS_COUNT] = {
    16, 24, 36, 56, 84, 128, 192, 288, 432, 648, 972, 1460, 2192, 3288, 4932, 7400, 11100, 16652,
    24980, 37472, 56208, 84312, 126468, 189704, 284556, 426836, 640256, 960384, 1440576, 2160864,
    3241296, 4861944, 7292916, 10939376,};

/* The slots of a class, and the note of `ci_retire` ahead of them. 0 where memory ends. */
static uintptr_t make_table(ci_index *index, unsigned class)
{
    size_t bytes = ci_table_capacity[class] * sizeof(slot);
    char *memory = ci_allocate_lines(index, sizeof(garbage) + bytes);
    if (memory == NULL)
        return 0;
    memset(memory + sizeof(garbage), 0, bytes);
    return (uintptr_t)(memory + sizeof(garbage)) + class;
}

static void *table_memory(uintptr_t table) { return (char *)table_slots(table) - sizeof(garbage); }

bool ci_blocks_create(ci_index *index)
{
    for (unsigned i = 0; i < SEGMENT_COUNT; i++) {
        uintptr_t table = make_table(index, 0);
        if (table == 0)
            return false;
        atomic_init(&index->segments[i].table, table);
    }
    return true;
}

void ci_blocks_destroy(ci_index *index)
{
    for (unsigned i = 0; i < SEGMENT_COUNT; i++)
        if (index->segments[i].table != 0)
            ci_free(index, table_memory(index->segments[i].table));
}

static uintptr_t table_of(const segment *segment)
{
    return atomic_load_explicit(&segment->table, memory_order_relaxed);
}

static uint32_t limit_of(uintptr_t table) { return table_capacity(table) / 4 * 3; }

/* ---- Search, by the writer ---- */

void ci_block_prefetch(const ci_index *index, uint64_t mixed)
{
    uintptr_t table = table_of(&index->segments[segment_of(mixed)]);
    __builtin_prefetch(&table_slots(table)[line_home(mixed, table_capacity(table))], 1);
}

/* The empty slots of a line, as bits. */
static inline unsigned empty_slots(const slot *line)
{
    unsigned empty = 0;
    for (unsigned i = 0; i < LINE_SLOTS; i++)
        empty |= (unsigned)(load(&line[i].key) == KEY_EMPTY) << i;
    return empty;
}

/* The slot of the block with the prefix of `mixed`, or the empty one where it would go. With a
 * branch for each slot: while the line is on its way the processor goes on with what comes next. */
static slot *locate(const ci_index *index, uint64_t mixed)
{
    uintptr_t table = table_of(&index->segments[segment_of(mixed)]);
    slot *slots = table_slots(table);
    uint32_t capacity = table_capacity(table), place = line_home(mixed, capacity);
    for (;; place = next_line(place, capacity)) {
        slot *empty = NULL;
        for (unsigned i = 0; i < LINE_SLOTS; i++) {
            uint64_t key = load(&slots[place + i].key);
            if (key >> PREFIX_SHIFT == mixed >> PREFIX_SHIFT)
                return &slots[place + i];
            empty = empty == NULL && key == KEY_EMPTY ? &slots[place + i] : empty;
        }
        if (empty != NULL)
            return empty;
    }
}

slot *ci_block_find_prefix(const ci_index *index, uint64_t mixed)
{
    slot *slot = locate(index, mixed);
    return load(&slot->key) != KEY_EMPTY ? slot : NULL;
}

slot *ci_block_find(const ci_index *index, uint64_t mixed)
{
    slot *slot = ci_block_find_prefix(index, mixed);
    return slot != NULL && load(&slot->key) == mixed ? slot : NULL;
}

/* ---- Removal ---- */

/* One of the blocks in a line whose home lies in `line` or before: how far behind that is it? */
static bool is_home_before(uint64_t key, uint32_t line, uint32_t place, uint32_t capacity)
{
    uint32_t home = line_home(key, capacity);
    uint32_t from_line = place >= line ? place - line : place + capacity - line;
    uint32_t from_home = place >= home ? place - home : place + capacity - home;
    return from_home >= from_line;
}

/* A block from further on moves into a line that was full, and so on until one was not. The payload
 * is the caller's to free, after this. */
static void erase(ci_index *index, segment *segment, slot *slot_to_erase)
{
    uintptr_t table = table_of(segment);
    slot *slots = table_slots(table), *hole = slot_to_erase;
    uint32_t capacity = table_capacity(table);
    uint32_t line = (uint32_t)(hole - slots) / LINE_SLOTS * LINE_SLOTS, place = line;
    bump(segment);
    store(&hole->key, KEY_TOMB);
    while (empty_slots(&slots[place]) == 0) {
        place = next_line(place, capacity);
        for (unsigned i = 0; i < LINE_SLOTS; i++) {
            slot *moved = &slots[place + i];
            uint64_t key = load(&moved->key);
            if (key <= KEY_TOMB || !is_home_before(key, line, place, capacity))
                continue;
            bump(segment);
            store(&hole->payload, load(&moved->payload));
            store(&hole->key, key);
            bump(segment);
            store(&moved->key, KEY_TOMB);
            hole = moved;
            line = place;
            break;
        }
    }
    store(&hole->key, KEY_EMPTY);
    /* The next block here writes its payload first. */
    bump(segment);
    index->uses[segment - index->segments].count--;
}

/* ---- Room ---- */

static bool grow(ci_index *index, segment *segment)
{
    uintptr_t old = table_of(segment);
    if ((old & TABLE_CLASS_MASK) == TABLE_CLASS_COUNT - 1)
        return false;
    uintptr_t new = make_table(index, (unsigned)(old & TABLE_CLASS_MASK) + 1);
    if (new == 0)
        return false;
    slot *from = table_slots(old), *to = table_slots(new);
    uint32_t capacity = table_capacity(new);
    for (uint32_t i = 0; i < table_capacity(old); i++) {
        uint64_t key = load(&from[i].key);
        if (key == KEY_EMPTY)
            continue;
        uint32_t place = line_home(key, capacity);
        unsigned empty;
        while ((empty = empty_slots(&to[place])) == 0)
            place = next_line(place, capacity);
        slot *slot = &to[place + (unsigned)__builtin_ctz(empty)];
        store(&slot->payload, load(&from[i].payload));
        store(&slot->key, key);
    }
    atomic_store(&segment->table, new);
    index->uses[segment - index->segments].hand = 0;
    ci_retire(index, table_memory(old));
    return true;
}

/* Forgets a block: one that nobody holds if there is one among the next few, else one that no
 * lookup met lately. */
static void evict(ci_index *index, segment *segment)
{
    enum { CANDIDATES = 24 };
    uintptr_t table = table_of(segment);
    slot *slots = table_slots(table), *victim = NULL;
    uint32_t *hand = &index->uses[segment - index->segments].hand;
    bool is_unused = false;
    for (unsigned candidates = 0; candidates < CANDIDATES;) {
        *hand = *hand + 1 < table_capacity(table) ? *hand + 1 : 0;
        slot *slot = &slots[*hand];
        if (load(&slot->key) == KEY_EMPTY)
            continue;
        candidates++;
        uint64_t payload = load(&slot->payload);
        if (!is_held(payload)) {
            victim = slot;
            break;
        }
        if (is_unused)
            continue;
        if (victim == NULL || (payload & PAYLOAD_USED) == 0)
            victim = slot;
        is_unused = (payload & PAYLOAD_USED) == 0;
        if (!is_unused)
            atomic_fetch_and_explicit(&slot->payload, ~PAYLOAD_USED, memory_order_relaxed);
    }
    uint64_t payload = load(&victim->payload);
    if (is_held(payload))
        index->statistics.held_block_count--;
    erase(index, segment, victim);
    ci_residents_free(index, payload);
    index->statistics.eviction_count++;
}

/* ---- Reasons to keep a block ---- */

/* `empty` is where it goes as long as nothing else changes. */
static void insert(ci_index *index, slot *empty, uint64_t mixed, uint64_t payload)
{
    segment *segment = &index->segments[segment_of(mixed)];
    segment_use *use = &index->uses[segment_of(mixed)];
    while (use->count >= limit_of(table_of(segment))) {
        if (!grow(index, segment))
            evict(index, segment);
        empty = locate(index, mixed);
    }
    store(&empty->payload, payload);
    store(&empty->key, mixed);
    use->count++;
    index->statistics.held_block_count += is_held(payload);
}

static void count_entry(slot *slot, bool is_added)
{
    uint64_t one = UINT64_C(1) << ENTRIES_SHIFT;
    uint64_t entries = load(&slot->payload) >> ENTRIES_SHIFT & ENTRIES_MAXIMUM;
    if (entries == ENTRIES_MAXIMUM || (!is_added && entries == 0))
        return;
    if (is_added)
        atomic_fetch_add_explicit(&slot->payload, one, memory_order_release);
    else
        atomic_fetch_sub_explicit(&slot->payload, one, memory_order_release);
}

bool ci_block_attach(ci_index *index, uint64_t mixed, uint16_t resident, bool is_named)
{
    for (bool is_retry = false;; is_retry = true) {
        slot *slot = locate(index, mixed);
        uint64_t key = load(&slot->key);
        if (mixed >> PREFIX_SHIFT == 0 || (key != mixed && key != KEY_EMPTY)) {
            index->statistics.conflict_count++;
            return false;
        }
        if (key == KEY_EMPTY) {
            insert(index, slot, mixed,
                   (INLINE_EMPTY & ~UINT64_C(0xffff)) | resident
                       | (uint64_t)is_named << ENTRIES_SHIFT);
            return true;
        }
        bool was_held = is_held(load(&slot->payload));
        if (resident == NO_RESIDENT || ci_residents_add(index, slot, resident)) {
            index->statistics.held_block_count += resident != NO_RESIDENT && !was_held;
            if (is_named)
                count_entry(slot, true);
            return true;
        }
        /* What is forgotten for a new chunk of records may be, or move, this very block. */
        if (is_retry || !ci_engine_reclaim(index, CHUNK_UNITS * UNIT_BYTES, 0))
            return false;
    }
}

void ci_block_detach(ci_index *index, uint64_t mixed, uint16_t resident, bool is_named)
{
    slot *slot = ci_block_find_prefix(index, mixed);
    if (slot == NULL)
        return;
    if (resident != NO_RESIDENT && is_held(load(&slot->payload))
        && ci_residents_remove(index, slot, resident)
        && !is_held(load(&slot->payload)))
        index->statistics.held_block_count--;
    if (is_named)
        count_entry(slot, false);
    uint64_t payload = load(&slot->payload);
    if (!is_held(payload) && (payload >> ENTRIES_SHIFT & ENTRIES_MAXIMUM) == 0)
        erase(index, &index->segments[segment_of(mixed)], slot);
}
