/* The tables against a slow model, within a small budget, and read while they are written. Takes
 * the seed of the random cases as its argument. */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "CKVIndex.h"
#include "impl.h"

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state += 0x9e3779b97f4a7c15;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint32_t random_below(uint32_t bound) { return (uint32_t)(next_random() % bound); }

/* ---- Lookups ---- */

enum { LIMIT = 256 };

typedef struct lookup {
    ci_matches matches;
    uint32_t counts[LIMIT * CI_TIER_COUNT];
    uint16_t matched[LIMIT];
    uint64_t words[(1 + CI_TIER_COUNT) * LIMIT / 64];
} lookup;

static bool look_up(ci_index *index, const uint64_t *keys, size_t count, lookup *lookup)
{
    memset(lookup->counts, 0, sizeof lookup->counts);
    lookup->matches = (ci_matches){
        .limit = LIMIT, .counts = lookup->counts, .matched = lookup->matched,
        .words = lookup->words};
    return ci_match(index, keys, count, &lookup->matches);
}

static uint32_t matched(const lookup *lookup, unsigned holder)
{
    const uint32_t *counts = lookup->counts + holder * CI_TIER_COUNT;
    return counts[0] + counts[1] + counts[2] + counts[3];
}

/* ---- Against a model ---- */

enum { HOLDERS = 150, HASHES = 60, KEYS = 120 };

typedef struct model_block {
    bool is_known;
    unsigned references[CI_TIER_COUNT];
} model_block;

static model_block model[HOLDERS][HASHES];
static unsigned model_expected[HOLDERS][KEYS];
static bool model_masked[HOLDERS];
static size_t dropped_count, tail_count;

static void tail_dropped(void *context, uint16_t holder, uint64_t tag)
{
    (void)context, (void)holder, (void)tag;
    dropped_count++;
}

/* Hashes 2n and 2n+1 stand for the same keys; some for none, some for several. */
static size_t keys_of(unsigned hash, uint64_t keys[4])
{
    unsigned pair = hash / 2;
    size_t count = pair % 4;
    for (size_t i = 0; i < count; i++)
        keys[i] = pair * 4 + i;
    return count;
}

static uint64_t key_value(uint64_t key) { return (key + 1) * 0x2545f4914f6cdd1d; }

static int model_tier(unsigned holder, uint64_t key)
{
    if (model_expected[holder][key] > 0)
        return 0;
    for (int tier = 0; tier < CI_TIER_COUNT; tier++)
        for (unsigned hash = (unsigned)(key / 4 * 2); hash < key / 4 * 2 + 2; hash++)
            if (model[holder][hash].is_known && key % 4 < hash / 2 % 4
                && model[holder][hash].references[tier] > 0)
                return tier;
    return -1;
}

static void store_one(ci_index *index, unsigned holder, unsigned hash, unsigned tier)
{
    uint64_t keys[4], value = hash * 17 + 3;
    size_t count = keys_of(hash, keys);
    for (size_t i = 0; i < count; i++)
        keys[i] = key_value(keys[i]);
    bool has_tail = hash % 4 == 0;
    CHECK(ci_store(index, (uint16_t)holder, tier, &value, 1, keys, count, has_tail) == 1,
          "holder %u hash %u", holder, hash);
    tail_count += has_tail && !model[holder][hash].is_known;
    model[holder][hash].is_known = true;
    if (model[holder][hash].references[tier] < 15)
        model[holder][hash].references[tier]++;
}

static void remove_one(ci_index *index, unsigned holder, unsigned hash, unsigned tier)
{
    uint64_t value = hash * 17 + 3, unknown;
    size_t count = ci_remove(index, (uint16_t)holder, tier, &value, 1, &unknown);
    model_block *block = &model[holder][hash];
    bool is_there = block->is_known && block->references[tier] > 0;
    CHECK(count == !is_there, "holder %u hash %u", holder, hash);
    if (is_there)
        block->references[tier]--;
}

static void compare(ci_index *index)
{
    static lookup lookup;
    uint64_t keys[24], values[24];
    size_t count = random_below(24);
    for (size_t i = 0; i < count; i++) {
        /* Keys that exist, mostly, so that runs are long. */
        do
            keys[i] = random_below(KEYS);
        while (keys[i] % 4 >= keys[i] / 4 % 4 && random_below(50) != 0);
        values[i] = key_value(keys[i]);
    }
    look_up(index, values, count, &lookup);
    for (unsigned holder = 0; holder < HOLDERS; holder++) {
        uint32_t expected[CI_TIER_COUNT] = {0};
        for (size_t i = 0; i < count && !model_masked[holder]; i++) {
            int tier = model_tier(holder, keys[i]);
            if (tier < 0)
                break;
            expected[tier]++;
        }
        for (unsigned tier = 0; tier < CI_TIER_COUNT; tier++)
            CHECK(lookup.counts[holder * CI_TIER_COUNT + tier] == expected[tier],
                  "holder %u tier %u: %u, not %u", holder, tier,
                  lookup.counts[holder * CI_TIER_COUNT + tier], expected[tier]);
    }
}

static void clear_holder(ci_index *index, unsigned holder)
{
    while (ci_holder_clear(index, (uint16_t)holder, 1 + random_below(20)) > 0)
        ;
    memset(model[holder], 0, sizeof model[holder]);
}

static void test_model(unsigned rounds)
{
    ci_index *index = ci_index_create(64 << 20, next_random(), tail_dropped, NULL);
    CHECK(index != NULL, "no index");
    for (unsigned round = 0; round < rounds; round++) {
        /* Phases in which few or many hold a block. */
        unsigned holder = random_below(round / 5000 % 2 == 0 ? 6 : HOLDERS);
        unsigned hash = random_below(HASHES), tier = random_below(10);
        tier = tier < CI_TIER_COUNT ? tier : 0;
        unsigned operation = random_below(1000);
        if (operation < 480) {
            store_one(index, holder, hash, tier);
        } else if (operation < 860) {
            remove_one(index, holder, hash, tier);
        } else if (operation < 910) {
            uint64_t key = random_below(KEYS), value = key_value(key), added;
            bool is_held = false;
            for (unsigned other = (unsigned)(key / 4 * 2); other < key / 4 * 2 + 2; other++)
                is_held |= key % 4 < other / 2 % 4 && model[holder][other].is_known
                           && model[holder][other].references[0] > 0;
            CHECK(ci_expect(index, (uint16_t)holder, &value, 1, &added) == !is_held, "expected");
            model_expected[holder][key] += !is_held;
        } else if (operation < 960) {
            uint64_t key = random_below(KEYS), value = key_value(key);
            if (model_expected[holder][key] > 0) {
                ci_expect_end(index, (uint16_t)holder, &value, 1);
                model_expected[holder][key]--;
            }
        } else if (operation < 970) {
            model_masked[holder] = !model_masked[holder];
            if (model_masked[holder])
                ci_holder_mask(index, (uint16_t)holder);
            else
                ci_holder_unmask(index, (uint16_t)holder);
        } else if (operation < 973) {
            clear_holder(index, holder);
        }
        if (round % 4 == 0)
            compare(index);
    }
    size_t held = 0;
    for (unsigned holder = 0; holder < HOLDERS; holder++) {
        size_t count = 0;
        for (unsigned hash = 0; hash < HASHES; hash++)
            for (unsigned tier = 0; tier < CI_TIER_COUNT; tier++)
                if (model[holder][hash].references[tier] > 0) {
                    count++;
                    break;
                }
        CHECK(ci_holder_block_count(index, (uint16_t)holder) == count, "holder %u", holder);
        held += count;
    }
    CHECK(held > 0, "an empty model tests nothing");
    for (unsigned holder = 0; holder < HOLDERS; holder++) {
        clear_holder(index, holder);
        for (uint64_t key = 0; key < KEYS; key++)
            for (uint64_t value = key_value(key); model_expected[holder][key] > 0;
                 model_expected[holder][key]--)
                ci_expect_end(index, (uint16_t)holder, &value, 1);
    }
    ci_statistics statistics = ci_index_statistics(index);
    CHECK(statistics.held_block_count == 0, "%zu left", statistics.held_block_count);
    CHECK(statistics.engine_block_count == 0, "%zu left", statistics.engine_block_count);
    CHECK(dropped_count == tail_count, "%zu of %zu", dropped_count, tail_count);
    ci_index_destroy(index);
}

/* ---- The budget ---- */

static void test_budget(void)
{
    enum { BUDGET = 4 << 20, HOT = 64, RUN = 64, STEADY = 8, ALL = 64 };
    ci_index *index = ci_index_create(BUDGET, next_random(), tail_dropped, NULL);
    uint64_t hot[HOT], hashes[RUN], keys[RUN];
    static lookup lookup;
    for (unsigned i = 0; i < HOT; i++)
        hot[i] = next_random();
    CHECK(ci_store(index, 0, 0, hot, HOT, hot, 1, false) == HOT, "hot");
    for (unsigned round = 0; round < 4000; round++) {
        /* New engines come when the budget is spent. */
        uint16_t holder = (uint16_t)(1 + random_below(round < 2000 ? STEADY : ALL));
        for (unsigned i = 0; i < RUN; i++)
            hashes[i] = keys[i] = next_random();
        size_t stored = ci_store(index, holder, 0, hashes, RUN, keys, 1, false);
        if (round % 7 == 0) /* many holders of the same blocks: records */
            for (uint16_t other = 1; other < 40; other++)
                ci_store(index, other, 0, hashes, RUN, keys, 1, false);
        CHECK(stored > RUN / 2, "round %u: %zu stored", round, stored);
        look_up(index, hot, HOT, &lookup);
        ci_statistics statistics = ci_index_statistics(index);
        CHECK(statistics.allocated_bytes <= BUDGET, "%zu bytes", statistics.allocated_bytes);
        if (round == 3999)
            CHECK(statistics.engine_block_count > 20000, "%zu", statistics.engine_block_count);
    }
    CHECK(matched(&lookup, 0) == HOT, "the hot prompt went: %u", matched(&lookup, 0));
    CHECK(ci_index_statistics(index).eviction_count > 100000, "no evictions");
    for (unsigned holder = 0; holder < LIMIT; holder++)
        while (ci_holder_clear(index, (uint16_t)holder, 1000) > 0)
            ;
    CHECK(ci_index_statistics(index).engine_block_count == 0, "entries left");
    ci_index_destroy(index);
}

/* ---- Groups of hybrid models ---- */

static void test_groups(void)
{
    ci_index *index = ci_index_create(8 << 20, next_random(), tail_dropped, NULL);
    static lookup lookup;
    uint64_t keys[32], unknown[32];
    for (unsigned i = 0; i < 32; i++)
        keys[i] = next_random();
    ci_holder_set_group(index, 1, 100, CI_GROUP_WINDOW, 4);
    ci_holder_set_group(index, 1, 101, CI_GROUP_STATE, 0);
    ci_store(index, 1, 0, keys, 32, keys, 1, false);
    ci_store(index, 2, 0, keys, 10, keys, 1, false);
    for (unsigned round = 0; round < 3000; round++) {
        bool window[32] = {0}, state[32] = {0};
        for (unsigned i = 0; i < 32; i++) {
            window[i] = random_below(10) != 0;
            state[i] = random_below(4) != 0;
            if (window[i])
                ci_store(index, 100, random_below(2), &keys[i], 1, &keys[i], 1, false);
            if (state[i])
                ci_store(index, 101, 0, &keys[i], 1, &keys[i], 1, false);
        }
        size_t expected = 0, count = random_below(33);
        for (size_t length = 1; length <= count; length++) {
            bool fits = state[length - 1];
            for (size_t i = length > 4 ? length - 4 : 0; i < length; i++)
                fits = fits && window[i];
            expected = fits ? length : expected;
        }
        look_up(index, keys, count, &lookup);
        CHECK(matched(&lookup, 1) == expected, "%u, not %zu", matched(&lookup, 1), expected);
        CHECK(matched(&lookup, 2) == (count < 10 ? count : 10), "not hybrid");
        CHECK(matched(&lookup, 100) == 0 && lookup.matches.matched_count <= 2, "groups show");
        for (unsigned i = 0; i < 32; i++)
            for (uint16_t holder = 100; holder < 102; holder++)
                for (unsigned tier = 0; tier < 2; tier++)
                    ci_remove(index, holder, tier, &keys[i], 1, unknown);
    }
    ci_holder_set_group(index, 1, 100, CI_GROUP_NONE, 0);
    ci_holder_set_group(index, 1, 101, CI_GROUP_NONE, 0);
    look_up(index, keys, 32, &lookup);
    CHECK(matched(&lookup, 1) == 32, "no groups are left");
    ci_index_destroy(index);
}

/* ---- Step by step: a lookup after every store of a writer, a writer within every lookup ---- */

enum { STEP_KEYS = 48, STEP_HOLDERS = 6, STEP_CHURN = 436 };

static enum { FREE, READ_AFTER_STORES, WRITE_AFTER_LOADS, IN_TURN } stepping;
static ci_index *stepped;
static uint64_t step_keys[STEP_KEYS], step_churn[STEP_CHURN];
static bool step_stored[STEP_CHURN];
static unsigned countdown, step_count;

static void check_steps(void)
{
    static lookup lookup;
    look_up(stepped, step_keys, STEP_KEYS, &lookup);
    for (unsigned holder = 0; holder < STEP_HOLDERS; holder++)
        CHECK(matched(&lookup, holder) == (holder + 1) * 8, "step %u, holder %u: %u", step_count,
              holder, matched(&lookup, holder));
    step_count++;
}

/* Another block comes or goes. It has a holder of its own, so that clearing erases it. */
static void change_churn(unsigned place)
{
    const uint64_t *key = &step_churn[place];
    uint16_t holder = (uint16_t)(100 + place);
    if (step_stored[place])
        ci_holder_clear(stepped, holder, 1);
    else
        ci_store(stepped, holder, 0, key, 1, key, 1, false);
    step_stored[place] = !step_stored[place];
}

/* Other blocks come and go, the steady ones get and lose further holders. */
static void change_something(void)
{
    uint64_t unknown;
    if (random_below(3) == 0) {
        const uint64_t *key = &step_keys[random_below(STEP_KEYS)];
        uint16_t holder = (uint16_t)(10 + random_below(30));
        if (random_below(2) == 0)
            ci_store(stepped, holder, random_below(2), key, 1, key, 1, false);
        else
            ci_remove(stepped, holder, random_below(2), key, 1, &unknown);
    } else {
        change_churn(random_below(STEP_CHURN));
    }
}

/* In turn: a lookup begins after any store of the writer, and is held up at some load while the
 * writer makes some more. */
enum { NO_PLACE = STEP_CHURN };
static _Thread_local bool is_reader;
static sem_t reader_turn, writer_turn;
static unsigned loads_left; /* 0: to the end of the lookup */
static unsigned erased_place, moved_place, read_place;
static bool in_turn_is_over;

static void take_turn(sem_t *other, sem_t *own)
{
    sem_post(other);
    while (sem_wait(own) != 0)
        ;
}

/* Both are called by the tables, built with CI_TEST_STEPS. */
void ci_test_stored(void);
void ci_test_loaded(void);

void ci_test_stored(void)
{
    if (stepping == IN_TURN && !is_reader && --countdown == 0) {
        loads_left = random_below(2) * (1 + random_below(16));
        take_turn(&reader_turn, &writer_turn);
        countdown = 1 + random_below(6);
    }
    if (stepping != READ_AFTER_STORES)
        return;
    stepping = FREE;
    check_steps();
    stepping = READ_AFTER_STORES;
}

void ci_test_loaded(void)
{
    if (stepping == IN_TURN && is_reader && loads_left > 0 && --loads_left == 0)
        take_turn(&writer_turn, &reader_turn);
    if (stepping != WRITE_AFTER_LOADS || --countdown > 0)
        return;
    stepping = FREE;
    for (unsigned i = 0; i < 16; i++)
        change_something();
}

static void begin_steps(void)
{
    stepped = ci_index_create(64 << 20, next_random(), tail_dropped, NULL);
    /* All in one segment, so that they push one another from their homes; the steady ones last, so
     * that they are not at home. */
    for (unsigned i = 0; i < STEP_CHURN; i++) {
        step_churn[i] = unmix_key(stepped, next_random() >> SEGMENT_BITS);
        ci_store(stepped, (uint16_t)(100 + i), 0, &step_churn[i], 1, &step_churn[i], 1, false);
        step_stored[i] = true;
    }
    for (unsigned i = 0; i < STEP_KEYS; i++)
        step_keys[i] = unmix_key(stepped, next_random() >> SEGMENT_BITS);
    for (uint16_t holder = 0; holder < STEP_HOLDERS; holder++)
        ci_store(stepped, holder, holder % 2, step_keys, (holder + 1) * 8u, step_keys, 1, false);
    step_count = 0;
}

static void test_steps(unsigned rounds)
{
    begin_steps();
    for (unsigned round = 0; round < rounds; round++) {
        stepping = READ_AFTER_STORES;
        change_something();
        stepping = WRITE_AFTER_LOADS;
        countdown = 1 + random_below(STEP_KEYS * 4);
        check_steps();
        stepping = FREE;
    }
    CHECK(step_count > 4 * rounds, "%u steps", step_count);
    ci_index_destroy(stepped);
}

static void check_steady_block(unsigned place)
{
    static lookup lookup;
    look_up(stepped, &step_keys[place], 1, &lookup);
    for (unsigned holder = 0; holder < STEP_HOLDERS; holder++)
        CHECK(matched(&lookup, holder) == (place < (holder + 1) * 8),
              "step %u, block %u, holder %u", step_count, place, holder);
}

/* Nobody but its own holder has a block, whatever comes into its place. */
static void check_churn_block(unsigned place, bool is_there)
{
    static lookup lookup;
    look_up(stepped, &step_churn[place], 1, &lookup);
    for (unsigned holder = 0; holder < LIMIT; holder++)
        CHECK(matched(&lookup, holder) == 0 || holder == 100 + place,
              "step %u: %u has the block of %u", step_count, holder, 100 + place);
    CHECK(!is_there || 100 + place >= LIMIT || matched(&lookup, 100 + place) == 1,
          "step %u: %u has lost its block", step_count, 100 + place);
}

static void *read_in_turn(void *context)
{
    (void)context;
    is_reader = true;
    while (sem_wait(&reader_turn) != 0)
        ;
    for (; !in_turn_is_over; step_count++) {
        read_place = random_below(2) == 0 ? moved_place : NO_PLACE;
        if (read_place != NO_PLACE)
            check_churn_block(read_place, true);
        else if (random_below(4) == 0)
            check_steady_block(random_below(STEP_KEYS));
        else
            check_churn_block(erased_place, false);
        if (!in_turn_is_over)
            take_turn(&writer_turn, &reader_turn);
    }
    sem_post(&writer_turn);
    return NULL;
}

/* The line where a block lies. */
static uint32_t line_of(unsigned place)
{
    uint64_t mixed = mix_key(stepped, step_churn[place]);
    const slot *slots = table_slots(stepped->segments[segment_of(mixed)].table);
    return (uint32_t)(ci_block_find(stepped, mixed) - slots) / LINE_SLOTS * LINE_SLOTS;
}

static uint32_t home_of(unsigned place)
{
    uint64_t mixed = mix_key(stepped, step_churn[place]);
    return line_home(mixed, table_capacity(stepped->segments[segment_of(mixed)].table));
}

/* A block that belongs into a line; one that is not there, or one that lies elsewhere. */
static unsigned find_neighbour(uint32_t line, bool is_there)
{
    unsigned first = random_below(STEP_CHURN);
    for (unsigned i = 0; i < STEP_CHURN; i++) {
        unsigned place = (first + i) % STEP_CHURN;
        if (step_stored[place] == is_there && home_of(place) == line
            && (!is_there || line_of(place) != line))
            return place;
    }
    return NO_PLACE;
}

static void test_in_turn(unsigned rounds)
{
    pthread_t reader;
    begin_steps();
    in_turn_is_over = false;
    erased_place = 0;
    moved_place = read_place = NO_PLACE;
    countdown = 1;
    CHECK(sem_init(&reader_turn, 0, 0) == 0 && sem_init(&writer_turn, 0, 0) == 0, "no semaphore");
    CHECK(pthread_create(&reader, NULL, read_in_turn, NULL) == 0, "no thread");
    for (unsigned round = 0; round < rounds; round++) {
        unsigned place = random_below(STEP_CHURN);
        if (place == read_place)
            continue;
        uint32_t line = 0;
        bool is_erased = step_stored[place];
        if (is_erased) {
            line = line_of(place);
            erased_place = place;
            moved_place = find_neighbour(line, true);
        }
        stepping = IN_TURN;
        change_churn(place);
        stepping = FREE;
        /* Where one went, another comes. */
        unsigned next = is_erased ? find_neighbour(line, false) : NO_PLACE;
        if (next == NO_PLACE || next == place)
            continue;
        stepping = IN_TURN;
        change_churn(next);
        stepping = FREE;
    }
    in_turn_is_over = true;
    take_turn(&reader_turn, &writer_turn);
    pthread_join(reader, NULL);
    CHECK(step_count > rounds / 4, "%u lookups in turn", step_count);
    sem_destroy(&reader_turn);
    sem_destroy(&writer_turn);
    ci_index_destroy(stepped);
}

/* ---- Readers beside a writer ---- */

enum { STEADY_KEYS = 256, STEADY_HOLDERS = 40, READERS = 3 };

static uint64_t steady[STEADY_KEYS];
static atomic_bool is_over;
static atomic_ulong lookup_count;

/* How far each steady holder holds the prompt; every fifth has its second half on the CPU. */
static unsigned steady_length(unsigned holder) { return (holder + 1) * 6; }

static void *read_steady(void *context)
{
    ci_index *index = context;
    lookup lookup;
    while (!atomic_load(&is_over)) {
        look_up(index, steady, STEADY_KEYS, &lookup);
        for (unsigned holder = 0; holder < STEADY_HOLDERS; holder++) {
            unsigned length = steady_length(holder), slow = holder % 5 == 0 ? length / 2 : 0;
            CHECK(matched(&lookup, holder) == length, "holder %u: %u, not %u", holder,
                  matched(&lookup, holder), length);
            CHECK(lookup.counts[holder * CI_TIER_COUNT + 1] == slow, "holder %u: %u in the CPU's",
                  holder, lookup.counts[holder * CI_TIER_COUNT + 1]);
        }
        atomic_fetch_add(&lookup_count, 1);
    }
    return NULL;
}

/* Everything that changes the form, the place or the table of the steady blocks. */
static void churn(ci_index *index, unsigned round)
{
    uint64_t hashes[64], unknown[64];
    uint16_t holder = (uint16_t)(STEADY_HOLDERS + random_below(60));
    unsigned first = random_below(STEADY_KEYS - 64), tier = random_below(CI_TIER_COUNT);
    memcpy(hashes, steady + first, sizeof hashes);
    if (random_below(2) == 0)
        ci_store(index, holder, tier, hashes, 64, hashes, 1, false);
    else
        ci_remove(index, holder, tier, hashes, 64, unknown);
    /* A steady holder has a block in a second tier for a while. */
    holder = (uint16_t)(1 + 5 * random_below(STEADY_HOLDERS / 5));
    const uint64_t *held = steady + random_below(steady_length(holder) - 4);
    ci_store(index, holder, 3, held, 4, held, 1, false);
    ci_remove(index, holder, 3, held, 4, unknown);
    /* Neighbours in the table come and go: the steady blocks move to and fro. */
    for (unsigned batch = 0; batch < 16; batch++) {
        for (unsigned i = 0; i < 64; i++)
            hashes[i] = next_random();
        ci_store(index, 120, 0, hashes, 64, hashes, 1, false);
    }
    while (ci_holder_clear(index, 120, 500) > 0)
        ;
    /* Now and then the tables grow. */
    if (round % 256 == 255) {
        for (unsigned i = 0; i < 64; i++)
            hashes[i] = next_random();
        ci_store(index, 121, 0, hashes, 64, hashes, 1, false);
    }
}

static void test_readers(double seconds)
{
    ci_index *index = ci_index_create(64 << 20, next_random(), tail_dropped, NULL);
    for (unsigned i = 0; i < STEADY_KEYS; i++)
        steady[i] = next_random() | UINT64_C(1) << 63;
    for (uint16_t holder = 0; holder < STEADY_HOLDERS; holder++) {
        size_t length = steady_length(holder), slow = holder % 5 == 0 ? length / 2 : 0;
        ci_store(index, holder, 0, steady, length - slow, steady, 1, false);
        ci_store(index, holder, 1, steady + length - slow, slow, steady + length - slow, 1, false);
    }
    pthread_t readers[READERS];
    for (unsigned i = 0; i < READERS; i++)
        CHECK(pthread_create(&readers[i], NULL, read_steady, index) == 0, "no thread");
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    unsigned round = 0;
    do {
        churn(index, round++);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9
             < seconds);
    atomic_store(&is_over, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    printf("%u rounds of churn, %lu lookups\n", round, atomic_load(&lookup_count));
    CHECK(atomic_load(&lookup_count) > 0, "nobody looked");
    ci_index_destroy(index);
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    random_state = seed;
    /* The thread sanitizer is slow, and only the last test has threads. */
#if __has_feature(thread_sanitizer)
    const bool has_time = false;
#else
    const bool has_time = true;
#endif
    test_model(has_time ? 60000 : 2000);
    if (has_time)
        test_budget();
    test_groups();
    for (unsigned i = 0; i < (has_time ? 40 : 4); i++)
        test_steps(100);
    test_in_turn(has_time ? 40000 : 2000);
    test_readers(3);
    puts("ok");
    return 0;
}
