/*
 * The tables and how they are read while they are written.
 *
 * Blocks: open addressing in SEGMENT_COUNT segments, by lines of four slots of two words: the mixed
 * request key and the payload, which is who holds the block. A search goes from line to line until
 * one has an empty slot. More than three residents lie in a record of the arena, a set, which never
 * changes and is shared by all blocks with these residents.
 *
 * Reading without waiting. There is one writer at a time. It keeps two rules:
 *  (a) every single store leaves a segment in a state that is true for each key: a slot is filled
 *      payload first, an entry that moves is copied before the original goes, a hole in the middle
 *      of a chain is TOMB, residents change by one store of a payload;
 *  (b) before any store that takes away what a reader may be looking at (the key of a slot, or a
 *      payload that is not its key's any more), it adds one to the version of the segment.
 * All stores are release, all loads acquire. A reader loads the version, then what it wants, then
 * the version again, and starts over if it changed. Proof: let the reader see the value of some
 * store S of the writer that is later than its first load of the version. If S took something
 * away, the increment before S happens before S (b), S synchronises with the load that saw it, so
 * the second load of the version sees the increment, or a later one, and differs. If none of the
 * stores that it saw took anything away, what it saw is the state at its first load plus additions
 * and newer residents, which is true (a). A reader repeats only when the writer has made progress,
 * so a writer that is not running holds nobody up.
 *
 * The table of a segment that has grown and the record of a set that no block names any more are
 * used again when no lookup can see them. A lookup counts itself in one of two counters of its
 * stripe, chosen by the phase, and out at its end. Memory is free after each counter of each
 * stripe was seen at zero once since what names it was replaced. A lookup has a sequentially
 * consistent fence after counting itself in, the writer one before it looks at the counters: a
 * lookup that is not seen there sees the replacement. One that was seen at zero has released all
 * that it read. The phase only lets a counter come to zero while new lookups keep coming.
 */
#ifndef CKVINDEX_IMPL_H
#define CKVINDEX_IMPL_H

#include <stdatomic.h>

#include "CKVIndex.h"

#pragma GCC visibility push(hidden)

enum {
    SEGMENT_BITS = 8,
    SEGMENT_COUNT = 1 << SEGMENT_BITS,
    /* Engine hashes name blocks by the upper bits of their mixed keys; no two blocks in the index
     * agree in them, the second is refused. */
    PREFIX_SHIFT = 20,
    ENGINE_SEGMENT_BITS = 4,
    ENGINE_SEGMENT_COUNT = 1 << ENGINE_SEGMENT_BITS,
    STRIPE_COUNT = 16,
    CHUNK_UNITS = 4096, /* 64 KiB */
    UNIT_BYTES = 16,
    RECORD_CLASS_COUNT = 17,
    AHEAD = 16, /* blocks whose cache misses overlap */
};

/* ---- Payloads ----
 *   63      form
 *   61      a lookup met the block lately
 *   60..48  engine hashes of all holders that name the block; sticks at the maximum
 *   47..0   INLINE: three residents in order, NO_RESIDENT behind the last
 *           SET:    31..0 record
 */
#define FORM_INLINE UINT64_C(0)
#define FORM_SET UINT64_C(1)
#define FORM_SHIFT 63
#define FORM_MASK (FORM_SET << FORM_SHIFT)
#define PAYLOAD_USED (UINT64_C(1) << 61)
#define ENTRIES_SHIFT 48
#define ENTRIES_MAXIMUM UINT64_C(0x1fff)
#define RESIDENTS_MASK ((UINT64_C(1) << 48) - 1)
#define NO_RESIDENT UINT16_C(0xffff)
#define INLINE_COUNT 3

/* A resident: the holder in the upper 13 bits, a tier or KIND_EXPECTED below. */
enum { KIND_EXPECTED = CI_TIER_COUNT, KIND_COUNT };

static inline uint16_t resident_of(uint16_t holder, unsigned kind)
{
    return (uint16_t)(holder << 3 | kind);
}

static inline unsigned payload_form(uint64_t payload) { return (unsigned)(payload >> FORM_SHIFT); }
static inline uint32_t payload_record(uint64_t payload) { return (uint32_t)payload; }
#define INLINE_EMPTY RESIDENTS_MASK

static inline bool is_held(uint64_t payload)
{
    return payload_form(payload) != FORM_INLINE || (uint16_t)payload != NO_RESIDENT;
}

/* ---- Sets ----
 * Word 0 is the header: width of the bitsets in words, the kinds that have one, and the number of
 * 16-bit lanes behind them. Word 1 is the writer's. */
enum { SET_HEADER_WORDS = 2, SET_MAXIMUM_WORDS = 768, RESIDENT_LIMIT = 8192 };

static inline uint64_t set_header(unsigned width, unsigned kinds, unsigned lanes)
{
    return (uint64_t)lanes << 32 | (uint64_t)kinds << 16 | width;
}

static inline unsigned set_width(uint64_t header) { return (unsigned)(header & 0xffff); }
static inline unsigned set_kinds(uint64_t header) { return (unsigned)(header >> 16 & 0x1f); }
static inline unsigned set_lanes(uint64_t header) { return (unsigned)(header >> 32); }

/* Where the bitset of a kind begins; of KIND_COUNT, where the lanes do. */
static inline unsigned set_offset(uint64_t header, unsigned kind)
{
    unsigned before = set_kinds(header) & ((1u << kind) - 1);
    return SET_HEADER_WORDS + set_width(header) * (unsigned)__builtin_popcount(before);
}

/* A change that was made lately: the next block's will be the same. */
enum { CHANGE_COUNT = 8 };
typedef struct set_change {
    uint64_t from, what, to;
} set_change;

/* ---- Blocks ---- */

#define KEY_EMPTY UINT64_C(0)
#define KEY_TOMB UINT64_C(1)

typedef struct slot {
    _Atomic uint64_t key, payload;
} slot;

/* What readers load; what only the writer knows lies elsewhere, so that its changes do not take
 * the line from them. */
typedef struct segment {
    _Atomic uint64_t version;
    _Atomic uintptr_t table; /* slots, aligned to 64, plus the class of their number */
} segment;

typedef struct segment_use {
    uint32_t count, hand;
} segment_use;

/* ---- Engine blocks, for the writer alone ----
 * Sorted by tag within a segment: linear probing where an entry is as near to its home as the
 * order allows, so that a search for what is not there ends early. */
typedef struct entry {
    uint64_t tag; /* of the engine hash; 0 where there is no entry */
    uint64_t meta;
} entry;

/* meta: 63..20 prefix of the last request key, 19..4 stores by tier (4 bits each, no more than
 * 15 counted), then flags. */
#define META_REFERENCES UINT64_C(0xffff0)
#define META_PART UINT64_C(1)  /* one of several keys of a block, but the last */
#define META_PARTS UINT64_C(2) /* has such entries, under part_tag 0, 1, ... */
#define META_TAIL UINT64_C(4)
#define META_NO_KEY UINT64_C(8)

typedef struct engine_segment {
    entry *entries; /* `capacity` and PAD more, of which the last stays empty */
    uint32_t capacity, count, hand;
} engine_segment;

typedef struct holder {
    engine_segment *segments; /* NULL before the first store */
    size_t entry_count, held_count;
} holder;

typedef struct retired {
    uint64_t tag;
    uint16_t holder;
} retired;

/* ---- The index ---- */

/* At the start of every table, ahead of what lookups read. */
typedef struct garbage {
    _Alignas(64) struct garbage *next;
    bool seen_zero[2];
} garbage;

typedef struct stripe {
    _Alignas(64) _Atomic uint64_t readers[2];
} stripe;

struct ci_index {
    _Alignas(64) segment segments[SEGMENT_COUNT];
    _Alignas(64) stripe stripes[STRIPE_COUNT];
    _Atomic uint64_t masked[CI_HOLDER_LIMIT / 64];
    /* window_blocks << 32 | next group of the same endpoint << 8 | rule */
    _Atomic uint64_t groups[CI_HOLDER_LIMIT];
    _Atomic uint64_t group_count, phase;
    /* Whether lookups mark what they meet; without need of eviction that is only in the way. */
    _Atomic bool marks_use;
    /* Chunks stay where they are; a reader knows of one by a record in it. */
    _Atomic(_Atomic uint64_t *) *chunks;

    uint64_t multiplier, inverse, mask, hash_multiplier;
    _Alignas(64) segment_use uses[SEGMENT_COUNT];
    holder holders[CI_HOLDER_LIMIT];
    size_t chunk_count, chunk_limit, chunk_used_units;
    uint32_t free_records[RECORD_CLASS_COUNT]; /* NO_RECORD where there is none */
    uint32_t *sets; /* records by content, NO_RECORD where there is none */
    uint32_t set_capacity, set_count;
    set_change changes[CHANGE_COUNT];
    garbage *garbage;
    /* Records that wait: those that came since the wait began, and those that it is for. */
    uint32_t new_records, old_records;
    bool seen_zero[2];
    retired *retired;
    size_t retired_capacity, retired_limit, retired_count, retired_next;
    uint32_t holder_limit; /* past the highest that ever had entries */
    uint32_t reclaim_hand;
    size_t maximum_bytes, bytes, other_bytes;
    uint64_t storing; /* the tag that eviction must spare */
    uint64_t engine_changes; /* what entries of engines were moved, added or taken away */
    ci_tail_dropped *tail_dropped;
    void *context;
    ci_statistics statistics;
};

#define NO_RECORD UINT32_MAX
#define NO_GROUP UINT16_C(0xffff)
#define GROUP_NEXT_MASK (UINT64_C(0xffff) << 8)
static inline uint16_t group_next(uint64_t group) { return (uint16_t)(group >> 8); }
static inline ci_group_rule group_rule(uint64_t group) { return (ci_group_rule)(group & 0xff); }
static inline uint32_t group_window(uint64_t group) { return (uint32_t)(group >> 32); }

/* A tag's place and a key's: their upper bits choose the segment, those below the slot. */
static inline uint64_t mix_key(const ci_index *index, uint64_t key)
{
    return (key ^ index->mask) * index->multiplier;
}

static inline uint64_t unmix_key(const ci_index *index, uint64_t mixed)
{
    return mixed * index->inverse ^ index->mask;
}

static inline uint64_t scaled(uint64_t fraction, uint64_t count)
{
    return (uint64_t)((unsigned __int128)fraction * count >> 64);
}

/* memory.c: everything that the index allocates. NULL beyond the budget. */
void *ci_allocate(ci_index *index, size_t bytes);
void *ci_allocate_lines(ci_index *index, size_t bytes); /* from the start of a cache line */
void ci_free(ci_index *index, void *memory);
void *ci_shrink(ci_index *index, void *memory, size_t bytes);
/* Frees memory that begins with room for a `garbage` when no lookup can see it. */
void ci_retire(ci_index *index, void *memory);
void ci_collect(ci_index *index);
uint32_t ci_record_allocate(ci_index *index, unsigned record_class);
void ci_record_retire(ci_index *index, uint32_t record); /* of a set */
unsigned ci_record_class(size_t bytes);
size_t ci_record_bytes(unsigned record_class);

static inline _Atomic uint64_t *record_words(const ci_index *index, uint32_t record)
{
    _Atomic uint64_t *chunk =
        atomic_load_explicit(&index->chunks[record / CHUNK_UNITS], memory_order_acquire);
    return chunk + record % CHUNK_UNITS * (UNIT_BYTES / sizeof *chunk);
}

/* The tests step in after each of these. */
#ifdef CI_TEST_STEPS
void ci_test_loaded(void);
void ci_test_stored(void);
#else
static inline void ci_test_loaded(void) {}
static inline void ci_test_stored(void) {}
#endif

static inline uint64_t load(const _Atomic uint64_t *word)
{
    uint64_t value = atomic_load_explicit(word, memory_order_acquire);
    ci_test_loaded();
    return value;
}

static inline void store(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
    ci_test_stored();
}

/* Rule (b). The writer alone changes the version. */
static inline void bump(segment *segment)
{
    store(&segment->version,
          atomic_load_explicit(&segment->version, memory_order_relaxed) + 1);
}

/* residents.c: the payload of a slot. `add` is false where memory ends; `remove` also where there
 * is no such resident. */
bool ci_residents_add(ci_index *index, slot *slot, uint16_t resident);
bool ci_residents_remove(ci_index *index, slot *slot, uint16_t resident);
bool ci_residents_contain(const ci_index *index, uint64_t payload, uint16_t resident);
void ci_residents_free(ci_index *index, uint64_t payload);

/* blocks.c */
#define TABLE_CLASS_MASK ((uintptr_t)63)
enum { TABLE_CLASS_COUNT = 34 };
extern const uint32_t ci_table_capacity[TABLE_CLASS_COUNT];

static inline slot *table_slots(uintptr_t table) { return (slot *)(table & ~TABLE_CLASS_MASK); }
static inline uint32_t table_capacity(uintptr_t table)
{
    return ci_table_capacity[table & TABLE_CLASS_MASK];
}

static inline unsigned segment_of(uint64_t mixed)
{
    return (unsigned)(mixed >> (64 - SEGMENT_BITS));
}

/* A block lies in the line of its home, or behind it as far as lines are full. Of the prefix alone,
 * so that an engine's entry finds the block. */
enum { LINE_SLOTS = 4 };

static inline uint32_t line_home(uint64_t mixed, uint32_t capacity)
{
    uint64_t fraction = (mixed >> PREFIX_SHIFT << PREFIX_SHIFT) << SEGMENT_BITS;
    return (uint32_t)scaled(fraction, capacity / LINE_SLOTS) * LINE_SLOTS;
}

static inline uint32_t next_line(uint32_t place, uint32_t capacity)
{
    return place + LINE_SLOTS == capacity ? 0 : place + LINE_SLOTS;
}

bool ci_blocks_create(ci_index *index);
void ci_blocks_destroy(ci_index *index);
/* One more reason to keep a block: a resident, or NO_RESIDENT; and an engine hash that names it. */
bool ci_block_attach(ci_index *index, uint64_t mixed, uint16_t resident, bool is_named);
/* Takes them back, of the block with the prefix of `mixed`. */
void ci_block_detach(ci_index *index, uint64_t mixed, uint16_t resident, bool is_named);
slot *ci_block_find(const ci_index *index, uint64_t mixed);
slot *ci_block_find_prefix(const ci_index *index, uint64_t mixed);
void ci_block_prefetch(const ci_index *index, uint64_t mixed);

/* engine.c */
void ci_engine_destroy(ci_index *index);
/* Takes memory from engine tables that are larger than `capacity`. */
bool ci_engine_reclaim(ci_index *index, size_t bytes, uint32_t capacity);

#pragma GCC visibility pop

#endif
