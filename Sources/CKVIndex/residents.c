/*
 * Who holds a block: in the slot, or in a set that all blocks with the same residents share.
 *
 * Along a prompt the residents of one block are those of the next. So a set is made once, never
 * changed, and found again by its content; a lookup sees by the number of the set alone that
 * nothing has changed, and an event of many blocks makes each change once.
 */
#include <string.h>

#include "impl.h"

/* A reader may have marked the block meanwhile. */
static void put_payload(slot *slot, uint64_t payload)
{
    uint64_t old = atomic_load_explicit(&slot->payload, memory_order_relaxed);
    payload &= ~PAYLOAD_USED;
    while (!atomic_compare_exchange_weak_explicit(&slot->payload, &old,
                                                  payload | (old & PAYLOAD_USED),
                                                  memory_order_release, memory_order_relaxed))
        ;
    ci_test_stored();
}

/* ---- Residents as a sorted list, each as often as there are reasons for it ---- */

static unsigned read_inline(uint64_t payload, uint16_t *residents)
{
    unsigned count = 0;
    for (; count < INLINE_COUNT && (uint16_t)(payload >> 16 * count) != NO_RESIDENT; count++)
        residents[count] = (uint16_t)(payload >> 16 * count);
    return count;
}

static uint64_t inline_residents(const uint16_t *residents, unsigned count)
{
    uint64_t lanes = INLINE_EMPTY;
    for (unsigned i = 0; i < count; i++)
        lanes = (lanes & ~(UINT64_C(0xffff) << 16 * i)) | (uint64_t)residents[i] << 16 * i;
    return lanes;
}

/* The place of the first that is not below `resident`. */
static unsigned place_of(const uint16_t *residents, unsigned count, uint16_t resident)
{
    unsigned low = 0, high = count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (residents[middle] < resident)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void insert_resident(uint16_t *residents, unsigned count, uint16_t resident)
{
    unsigned place = place_of(residents, count, resident);
    memmove(residents + place + 1, residents + place, (count - place) * sizeof *residents);
    residents[place] = resident;
}

static uint16_t lane(const _Atomic uint64_t *words, unsigned index)
{
    return (uint16_t)(load(&words[index / 4]) >> 16 * (index % 4));
}

/* The residents of a set, the bits of each holder side by side so that they come in order. */
static unsigned read_set(const ci_index *index, uint32_t record, uint16_t *residents)
{
    const _Atomic uint64_t *words = record_words(index, record);
    uint64_t header = load(&words[0]);
    unsigned count = 0;
    for (unsigned word = 0; word < set_width(header); word++) {
        uint64_t any = 0;
        for (unsigned kind = 0; kind < KIND_COUNT; kind++)
            if ((set_kinds(header) >> kind & 1) != 0)
                any |= load(&words[set_offset(header, kind) + word]);
        for (; any != 0; any &= any - 1) {
            unsigned bit = (unsigned)__builtin_ctzll(any);
            for (unsigned kind = 0; kind < KIND_COUNT; kind++)
                if ((set_kinds(header) >> kind & 1) != 0
                    && (load(&words[set_offset(header, kind) + word]) >> bit & 1) != 0)
                    residents[count++] = resident_of((uint16_t)(word * 64 + bit), kind);
        }
    }
    const _Atomic uint64_t *lanes = words + set_offset(header, KIND_COUNT);
    for (unsigned i = 0; i < set_lanes(header); i++) {
        insert_resident(residents, count, lane(lanes, i));
        count++;
    }
    return count;
}

static unsigned read_residents(const ci_index *index, uint64_t payload, uint16_t *residents)
{
    return payload_form(payload) == FORM_SET
               ? read_set(index, payload_record(payload), residents)
               : read_inline(payload, residents);
}

/* ---- The words of a set: the header, what the writer needs, bitsets, lanes ---- */

typedef struct image {
    size_t word_count;
    uint64_t words[SET_MAXIMUM_WORDS];
} image;

static void put_lane(image *image, unsigned offset, unsigned lane, uint16_t resident)
{
    uint64_t *word = &image->words[offset + lane / 4];
    if (lane % 4 == 0)
        *word = ~UINT64_C(0);
    *word &= ~((uint64_t)(uint16_t)~resident << 16 * (lane % 4));
}

/* The smaller of the two forms: lanes alone, or bitsets and the lanes of what is there more than
 * once. False if there are too many. */
static bool make_image(const uint16_t *residents, unsigned count, image *image)
{
    unsigned width = (residents[count - 1] >> 3) / 64 + 1, kinds = 0, repeated = 0;
    for (unsigned i = 0; i < count; i++) {
        kinds |= 1u << (residents[i] & 7);
        repeated += i > 0 && residents[i] == residents[i - 1];
    }
    size_t bit_words = (size_t)width * (unsigned)__builtin_popcount(kinds) + (repeated + 3) / 4;
    bool is_list = (count + 3) / 4 <= bit_words;
    uint64_t header = is_list ? set_header(0, 0, count) : set_header(width, kinds, repeated);
    unsigned lanes_offset = set_offset(header, KIND_COUNT);
    image->word_count = lanes_offset + (set_lanes(header) + 3) / 4;
    if (image->word_count > SET_MAXIMUM_WORDS)
        return false;
    memset(image->words, 0, lanes_offset * sizeof(uint64_t));
    image->words[0] = header;
    unsigned lanes = 0;
    for (unsigned i = 0; i < count; i++) {
        if (is_list || (i > 0 && residents[i] == residents[i - 1]))
            put_lane(image, lanes_offset, lanes++, residents[i]);
        else
            image->words[set_offset(header, residents[i] & 7) + (residents[i] >> 3) / 64] |=
                UINT64_C(1) << (residents[i] >> 3) % 64;
    }
    return true;
}

static uint32_t hash_image(const image *image)
{
    uint64_t hash = image->words[0];
    for (size_t i = SET_HEADER_WORDS; i < image->word_count; i++) {
        hash = (hash ^ image->words[i]) * UINT64_C(0x9fb21c651e98df25);
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

/* ---- Sets by content: word 1 is the hash in the upper half, the blocks that refer below ---- */

static uint32_t references_of(const ci_index *index, uint32_t record)
{
    return (uint32_t)load(&record_words(index, record)[1]);
}

static uint32_t hash_of(const ci_index *index, uint32_t record)
{
    return (uint32_t)(load(&record_words(index, record)[1]) >> 32);
}

static bool is_image(const ci_index *index, uint32_t record, const image *image)
{
    const _Atomic uint64_t *words = record_words(index, record);
    if (load(&words[0]) != image->words[0])
        return false;
    for (size_t i = SET_HEADER_WORDS; i < image->word_count; i++)
        if (load(&words[i]) != image->words[i])
            return false;
    return true;
}

static bool grow_sets(ci_index *index)
{
    uint32_t capacity = index->set_capacity == 0 ? 64 : 2 * index->set_capacity;
    uint32_t *sets = ci_allocate(index, capacity * sizeof *sets);
    if (sets == NULL)
        return false;
    memset(sets, 0xff, capacity * sizeof *sets);
    for (uint32_t i = 0; i < index->set_capacity; i++) {
        uint32_t record = index->sets[i];
        if (record == NO_RECORD)
            continue;
        uint32_t place = hash_of(index, record) & (capacity - 1);
        while (sets[place] != NO_RECORD)
            place = (place + 1) & (capacity - 1);
        sets[place] = record;
    }
    ci_free(index, index->sets);
    index->sets = sets;
    index->set_capacity = capacity;
    return true;
}

/* The set with this content, made if there is none; NO_RECORD where memory ends. */
static uint32_t intern(ci_index *index, const image *image)
{
    if (index->set_count >= index->set_capacity / 4 * 3 && !grow_sets(index)
        && index->set_count + 1 >= index->set_capacity)
        return NO_RECORD;
    uint32_t hash = hash_image(image), mask = index->set_capacity - 1, place = hash & mask;
    for (; index->sets[place] != NO_RECORD; place = (place + 1) & mask)
        if (hash_of(index, index->sets[place]) == hash
            && is_image(index, index->sets[place], image))
            return index->sets[place];
    uint32_t record =
        ci_record_allocate(index, ci_record_class(image->word_count * sizeof(uint64_t)));
    if (record == NO_RECORD)
        return NO_RECORD;
    _Atomic uint64_t *words = record_words(index, record);
    store(&words[0], image->words[0]);
    store(&words[1], (uint64_t)hash << 32);
    for (size_t i = SET_HEADER_WORDS; i < image->word_count; i++)
        store(&words[i], image->words[i]);
    index->sets[place] = record;
    index->set_count++;
    return record;
}

static void forget_set(ci_index *index, uint32_t record)
{
    uint32_t mask = index->set_capacity - 1, hole = hash_of(index, record) & mask;
    while (index->sets[hole] != record)
        hole = (hole + 1) & mask;
    for (uint32_t place = (hole + 1) & mask; index->sets[place] != NO_RECORD;
         place = (place + 1) & mask) {
        uint32_t home = hash_of(index, index->sets[place]) & mask;
        /* The entry may move to the hole unless its home lies behind the hole. */
        if (((place - home) & mask) >= ((place - hole) & mask)) {
            index->sets[hole] = index->sets[place];
            hole = place;
        }
    }
    index->sets[hole] = NO_RECORD;
    index->set_count--;
    /* Changes that end in this set, or begin with it, are no longer known. */
    memset(index->changes, 0, sizeof index->changes);
    ci_record_retire(index, record);
}

static void refer(ci_index *index, uint64_t payload, int change)
{
    if (payload_form(payload) != FORM_SET)
        return;
    uint32_t record = payload_record(payload);
    _Atomic uint64_t *word = &record_words(index, record)[1];
    store(word, load(word) + (uint64_t)(int64_t)change);
    if (references_of(index, record) == 0)
        forget_set(index, record);
}

/* ---- Changes ---- */

/* The residents part of a payload for a sorted list. False where memory ends. */
static bool residents_part(ci_index *index, const uint16_t *residents, unsigned count,
                           uint64_t *part_p)
{
    if (count <= INLINE_COUNT) {
        *part_p = inline_residents(residents, count);
        return true;
    }
    image image;
    if (!make_image(residents, count, &image))
        return false;
    uint32_t record = intern(index, &image);
    *part_p = FORM_SET << FORM_SHIFT | record;
    return record != NO_RECORD;
}

/* `part` with a resident more or less. False where memory ends, or it is not there. */
static bool changed_part(ci_index *index, uint64_t part, uint16_t resident, bool is_added,
                         uint64_t *part_p)
{
    uint16_t residents[RESIDENT_LIMIT + 1];
    unsigned count = read_residents(index, part, residents);
    if (is_added) {
        if (count == RESIDENT_LIMIT)
            return false;
        insert_resident(residents, count, resident);
        return residents_part(index, residents, count + 1, part_p);
    }
    unsigned place = place_of(residents, count, resident);
    if (place == count || residents[place] != resident)
        return false;
    memmove(residents + place, residents + place + 1, (count - place - 1) * sizeof *residents);
    return residents_part(index, residents, count - 1, part_p);
}

static bool change(ci_index *index, slot *slot, uint16_t resident, bool is_added)
{
    uint64_t payload = load(&slot->payload);
    uint64_t part = payload & (FORM_MASK | RESIDENTS_MASK), new;
    uint64_t what = (uint64_t)is_added << 16 | resident | UINT64_C(1) << 17;
    set_change *known = &index->changes[(part ^ part >> 16 ^ what) % CHANGE_COUNT];
    if (known->what == what && known->from == part) {
        new = known->to;
    } else {
        if (!changed_part(index, part, resident, is_added, &new))
            return false;
        *known = (set_change){.from = part, .what = what, .to = new};
    }
    refer(index, new, 1);
    put_payload(slot, (payload & ~(FORM_MASK | RESIDENTS_MASK)) | new);
    refer(index, part, -1);
    return true;
}

bool ci_residents_add(ci_index *index, slot *slot, uint16_t resident)
{
    return change(index, slot, resident, true);
}

bool ci_residents_remove(ci_index *index, slot *slot, uint16_t resident)
{
    return change(index, slot, resident, false);
}

void ci_residents_free(ci_index *index, uint64_t payload) { refer(index, payload, -1); }

bool ci_residents_contain(const ci_index *index, uint64_t payload, uint16_t resident)
{
    if (payload_form(payload) != FORM_SET) {
        for (unsigned i = 0; i < INLINE_COUNT; i++)
            if ((uint16_t)(payload >> 16 * i) == resident)
                return true;
        return false;
    }
    const _Atomic uint64_t *words = record_words(index, payload_record(payload));
    uint64_t header = load(&words[0]);
    unsigned kind = resident & 7, word = (resident >> 3) / 64;
    if (word < set_width(header) && (set_kinds(header) >> kind & 1) != 0)
        return (load(&words[set_offset(header, kind) + word]) >> (resident >> 3) % 64 & 1) != 0;
    /* Sorted; of a set with bitsets, only repetitions. */
    unsigned low = 0, high = set_lanes(header);
    while (low < high) {
        unsigned middle = (low + high) / 2;
        uint16_t other = lane(words + set_offset(header, KIND_COUNT), middle);
        if (other == resident)
            return true;
        if (other < resident)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}
