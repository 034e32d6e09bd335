/* Lookups. The walk reads who holds each block in turn, and works only where that changes from one
 * block to the next: along a prompt it seldom does. */
#include <string.h>

#include "impl.h"

/* ---- Reading a block ---- */

#define NOBODY INLINE_EMPTY

/* The slots of a line whose key it is: one, or two while the block moves, as bits. */
static inline unsigned find_in_line(const slot *line, uint64_t mixed)
{
    unsigned found = 0;
    for (unsigned i = 0; i < LINE_SLOTS; i++)
        found |= (unsigned)(load(&line[i].key) == mixed) << i;
    return found;
}

static bool has_end(const slot *line)
{
    bool is_end = false;
    for (unsigned i = 0; i < LINE_SLOTS; i++)
        is_end |= load(&line[i].key) == KEY_EMPTY;
    return is_end;
}

/* Who holds a block, as form and residents of its payload; NOBODY if it is not there. */
static uint64_t read_block(const ci_index *index, uint64_t mixed, bool marks_use)
{
    const segment *segment = &index->segments[segment_of(mixed)];
    for (;;) {
        uint64_t version = load(&segment->version), part = NOBODY;
        uintptr_t table = atomic_load_explicit(&segment->table, memory_order_acquire);
        slot *slots = table_slots(table);
        uint32_t capacity = table_capacity(table), place = line_home(mixed, capacity);
        for (uint32_t probes = 0; probes < capacity; probes += LINE_SLOTS) {
            slot *line = &slots[place];
            unsigned found = find_in_line(line, mixed);
            if (found != 0) {
                slot *slot = &line[__builtin_ctz(found)];
                uint64_t payload = load(&slot->payload);
                part = payload & (FORM_MASK | RESIDENTS_MASK);
                if (marks_use && (payload & PAYLOAD_USED) == 0)
                    atomic_fetch_or_explicit(&slot->payload, PAYLOAD_USED, memory_order_relaxed);
                break;
            }
            if (has_end(line))
                break;
            place = next_line(place, capacity);
        }
        if (load(&segment->version) == version)
            return part;
    }
}

/* A block on its way into the cache. */
typedef struct approach {
    uint64_t mixed;
    slot *line;
} approach;

static inline approach begin_approach(const ci_index *index, uint64_t key)
{
    approach approach = {.mixed = mix_key(index, key)};
    uintptr_t table = atomic_load_explicit(&index->segments[segment_of(approach.mixed)].table,
                                           memory_order_acquire);
    approach.line = &table_slots(table)[line_home(approach.mixed, table_capacity(table))];
    __builtin_prefetch(approach.line);
    return approach;
}

/* As read_block; most blocks lie in the line of their home. If the table was replaced since the
 * approach began, this is who held the block then. */
static inline uint64_t read_home(const ci_index *index, approach approach, bool marks_use)
{
    const segment *segment = &index->segments[segment_of(approach.mixed)];
    uint64_t version = load(&segment->version);
    unsigned found = find_in_line(approach.line, approach.mixed);
    if (found != 0) {
        uint64_t payload = load(&approach.line[__builtin_ctz(found)].payload);
        if (load(&segment->version) == version && (!marks_use || (payload & PAYLOAD_USED) != 0))
            return payload & (FORM_MASK | RESIDENTS_MASK);
    }
    return read_block(index, approach.mixed, marks_use);
}

/* ---- The walk ---- */

typedef struct walk {
    ci_matches *matches;
    size_t width;     /* words that may hold an endpoint still alive */
    uint64_t *alive;
    uint64_t *tiers[CI_TIER_COUNT]; /* who holds the present block there; gpu: or is expected to */
} walk;

static void count_blocks(walk *walk, unsigned endpoint, unsigned tier, uint32_t count)
{
    walk->matches->counts[endpoint * CI_TIER_COUNT + tier] += count;
}

/* The endpoint matched `length` blocks: those that no other tier counted lie in the GPU's. */
static void finish_endpoint(walk *walk, unsigned endpoint, size_t length)
{
    uint32_t *counts = walk->matches->counts + endpoint * CI_TIER_COUNT;
    counts[0] = (uint32_t)length - counts[1] - counts[2] - counts[3];
}

#define FOR_EACH_BIT(bits_, word, endpoint, body)                                                  \
    for (uint64_t rest_ = (bits_); rest_ != 0; rest_ &= rest_ - 1) {                               \
        unsigned endpoint = (unsigned)(word) * 64 + (unsigned)__builtin_ctzll(rest_);              \
        body;                                                                                      \
    }

static void add_resident(walk *walk, uint16_t resident)
{
    unsigned holder = resident >> 3, kind = resident & 7;
    if (holder / 64 < walk->width)
        walk->tiers[kind == KIND_EXPECTED ? 0 : kind][holder / 64] |= UINT64_C(1) << holder % 64;
}

static void spread_residents(const ci_index *index, walk *walk, uint64_t part)
{
    for (unsigned tier = 0; tier < CI_TIER_COUNT; tier++)
        memset(walk->tiers[tier], 0, walk->width * sizeof(uint64_t));
    if (payload_form(part) != FORM_SET) {
        for (unsigned i = 0; i < INLINE_COUNT && (uint16_t)(part >> 16 * i) != NO_RESIDENT; i++)
            add_resident(walk, (uint16_t)(part >> 16 * i));
        return;
    }
    const _Atomic uint64_t *words = record_words(index, payload_record(part));
    uint64_t header = load(&words[0]);
    unsigned width = set_width(header);
    size_t shared = width < walk->width ? width : walk->width;
    for (unsigned kind = 0; kind < KIND_COUNT; kind++) {
        if ((set_kinds(header) >> kind & 1) == 0)
            continue;
        uint64_t *to = walk->tiers[kind == KIND_EXPECTED ? 0 : kind];
        for (size_t i = 0; i < shared; i++)
            to[i] |= load(&words[set_offset(header, kind) + i]);
    }
    /* Behind bitsets, lanes only repeat. */
    const _Atomic uint64_t *lanes = words + set_offset(header, KIND_COUNT);
    for (unsigned i = 0; width == 0 && i < set_lanes(header); i += 4) {
        uint64_t word = load(&lanes[i / 4]);
        for (unsigned lane = 0; lane < 4 && i + lane < set_lanes(header); lane++)
            add_resident(walk, (uint16_t)(word >> 16 * lane));
    }
}

static void begin(const ci_index *index, walk *walk)
{
    ci_matches *matches = walk->matches;
    size_t width = 0;
    for (size_t word = 0; word < walk->width; word++) {
        uint64_t any = walk->tiers[0][word] | walk->tiers[1][word] | walk->tiers[2][word]
                       | walk->tiers[3][word];
        walk->alive[word] = any & ~load(&index->masked[word]);
        if (walk->alive[word] != 0)
            width = word + 1;
        FOR_EACH_BIT(walk->alive[word], word, endpoint,
                     matches->matched[matches->matched_count++] = (uint16_t)endpoint)
    }
    walk->width = width;
}

/* Those that do not hold the block at `position` are done. */
static void narrow(walk *walk, size_t position)
{
    size_t width = 0;
    for (size_t word = 0; word < walk->width; word++) {
        uint64_t any = walk->tiers[0][word] | walk->tiers[1][word] | walk->tiers[2][word]
                       | walk->tiers[3][word];
        FOR_EACH_BIT(walk->alive[word] & ~any, word, endpoint,
                     finish_endpoint(walk, endpoint, position))
        walk->alive[word] &= any;
        if (walk->alive[word] != 0)
            width = word + 1;
    }
    walk->width = width;
}

/* The last `length` blocks were alike. */
static void count_run(walk *walk, size_t length)
{
    for (size_t word = 0; word < walk->width; word++) {
        uint64_t slow = walk->alive[word] & ~walk->tiers[0][word];
        for (unsigned tier = 1; tier < CI_TIER_COUNT && slow != 0; tier++) {
            FOR_EACH_BIT(slow & walk->tiers[tier][word], word, endpoint,
                         count_blocks(walk, endpoint, tier, (uint32_t)length))
            slow &= ~walk->tiers[tier][word];
        }
    }
}

static void walk_blocks(const ci_index *index, const uint64_t *keys, size_t key_count, walk *walk)
{
    bool marks_use = atomic_load_explicit(&index->marks_use, memory_order_relaxed);
    approach approaches[2 * AHEAD];
    uint64_t part = NOBODY;
    size_t position = 0, changed = 0, ahead = 0;
    for (; position < key_count; position++) {
        for (; ahead < key_count && ahead < position + 2 * AHEAD; ahead++)
            approaches[ahead % (2 * AHEAD)] = begin_approach(index, keys[ahead]);
        uint64_t now = read_home(index, approaches[position % (2 * AHEAD)], marks_use);
        /* Sets are shared: the same number is the same residents. */
        if (now == part && position > 0)
            continue;
        if (now == NOBODY)
            break;
        if (position > 0)
            count_run(walk, position - changed);
        part = now;
        spread_residents(index, walk, part);
        if (position == 0)
            begin(index, walk);
        else
            narrow(walk, position);
        if (walk->width == 0)
            return;
        changed = position;
    }
    if (position > 0)
        count_run(walk, position - changed);
    for (size_t word = 0; word < walk->width && position > 0; word++)
        FOR_EACH_BIT(walk->alive[word], word, endpoint, finish_endpoint(walk, endpoint, position))
}

/* ---- Hybrid models ---- */

/* The fastest tier in which a holder holds a block, CI_TIER_COUNT if in none. */
static unsigned tier_of(const ci_index *index, uint64_t key, uint16_t holder)
{
    uint64_t part = read_block(index, mix_key(index, key), false);
    if (ci_residents_contain(index, part, resident_of(holder, KIND_EXPECTED)))
        return 0;
    unsigned tier = 0;
    while (tier < CI_TIER_COUNT && !ci_residents_contain(index, part, resident_of(holder, tier)))
        tier++;
    return tier;
}

/* The longest prefix of at most `length` blocks that one group allows. */
static size_t allowed_length(const ci_index *index, const uint64_t *keys, size_t length,
                             uint16_t holder, uint64_t group)
{
    switch (group_rule(group)) {
    case CI_GROUP_PREFIX:
        for (size_t i = 0; i < length; i++)
            if (tier_of(index, keys[i], holder) == CI_TIER_COUNT)
                return i;
        return length;
    case CI_GROUP_STATE:
        while (length > 0 && tier_of(index, keys[length - 1], holder) == CI_TIER_COUNT)
            length--;
        return length;
    case CI_GROUP_WINDOW: {
        /* `held` blocks before `end` are there: enough if they are the window, or all. */
        size_t end = length, held = 0;
        while (held < end && held < group_window(group)) {
            if (tier_of(index, keys[end - held - 1], holder) != CI_TIER_COUNT) {
                held++;
            } else {
                end -= held + 1;
                held = 0;
            }
        }
        return end;
    }
    default:
        return length;
    }
}

/* Cuts what endpoints of hybrid models match to what all their groups allow at once. */
static void cut_to_groups(const ci_index *index, const uint64_t *keys, ci_matches *matches)
{
    for (size_t i = 0; i < matches->matched_count; i++) {
        uint16_t endpoint = matches->matched[i];
        uint16_t first = group_next(load(&index->groups[endpoint]));
        if (first == NO_GROUP)
            continue;
        uint32_t *counts = matches->counts + (size_t)endpoint * CI_TIER_COUNT;
        size_t matched = (size_t)counts[0] + counts[1] + counts[2] + counts[3];
        size_t length = matched, before;
        do {
            before = length;
            uint16_t group = first;
            /* A list that changes meanwhile may be longer than it is: bounded by the holders. */
            for (unsigned step = 0; group < CI_HOLDER_LIMIT && step < CI_HOLDER_LIMIT; step++) {
                uint64_t rule = load(&index->groups[group]);
                length = allowed_length(index, keys, length, group, rule);
                group = group_next(rule);
            }
        } while (length < before && length > 0);
        if (length == matched)
            continue;
        memset(counts, 0, CI_TIER_COUNT * sizeof *counts);
        for (size_t block = 0; block < length; block++) {
            unsigned tier = tier_of(index, keys[block], endpoint);
            counts[tier < CI_TIER_COUNT ? tier : 0]++;
        }
    }
}

/* ---- The call ---- */

/* Threads fall on different stripes by where their stacks lie. */
static stripe *own_stripe(ci_index *index)
{
    char here;
    uint64_t place = (uint64_t)(uintptr_t)&here >> 16;
    return &index->stripes[place * UINT64_C(0x9e3779b97f4a7c15) >> 60];
}

_Static_assert(STRIPE_COUNT == 16, "own_stripe takes 4 bits");

bool ci_match(ci_index *index, const uint64_t *keys, size_t key_count, ci_matches *matches)
{
    matches->matched_count = 0;
    walk walk = {.matches = matches, .width = matches->limit / 64, .alive = matches->words};
    for (unsigned tier = 0; tier < CI_TIER_COUNT; tier++)
        walk.tiers[tier] = matches->words + (1 + tier) * walk.width;

    stripe *stripe = own_stripe(index);
    unsigned phase = atomic_load(&index->phase) & 1;
    atomic_fetch_add(&stripe->readers[phase], 1);
    atomic_thread_fence(memory_order_seq_cst);
    walk_blocks(index, keys, key_count, &walk);
    if (atomic_load_explicit(&index->group_count, memory_order_acquire) > 0)
        cut_to_groups(index, keys, matches);
    atomic_fetch_sub_explicit(&stripe->readers[phase], 1, memory_order_release);
    return matches->matched_count > 0;
}
