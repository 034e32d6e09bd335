/* What the index allocates, counted as the allocator rounds it; the arena of records; and tables
 * that lookups may still read. */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "impl.h"

/* glibc keeps this much before each allocation. */
enum { HEADER_BYTES = 16 };

static size_t size_of(void *memory) { return malloc_usable_size(memory) + HEADER_BYTES; }

static void count_bytes(ci_index *index, size_t added, size_t removed)
{
    index->bytes += added - removed;
    bool is_near = index->bytes + index->other_bytes > index->maximum_bytes / 2;
    if (is_near != atomic_load_explicit(&index->marks_use, memory_order_relaxed))
        atomic_store_explicit(&index->marks_use, is_near, memory_order_relaxed);
}

void ci_index_set_other_bytes(ci_index *index, size_t bytes)
{
    index->other_bytes = bytes;
    count_bytes(index, 0, 0);
}

bool ci_index_has_room(const ci_index *index, size_t bytes)
{
    return index->bytes + index->other_bytes + bytes <= index->maximum_bytes;
}

/* The allocator's rounding, at most. */
enum { ROUNDING_BYTES = 64 + HEADER_BYTES };

void *ci_allocate(ci_index *index, size_t bytes)
{
    void *memory = ci_index_has_room(index, bytes + ROUNDING_BYTES) ? malloc(bytes) : NULL;
    if (memory != NULL)
        count_bytes(index, size_of(memory), 0);
    return memory;
}

void *ci_allocate_lines(ci_index *index, size_t bytes)
{
    bytes = (bytes + 63) / 64 * 64;
    void *memory =
        ci_index_has_room(index, bytes + ROUNDING_BYTES) ? aligned_alloc(64, bytes) : NULL;
    if (memory != NULL)
        count_bytes(index, size_of(memory), 0);
    return memory;
}

void ci_free(ci_index *index, void *memory)
{
    if (memory == NULL)
        return;
    count_bytes(index, 0, size_of(memory));
    free(memory);
}

void *ci_shrink(ci_index *index, void *memory, size_t bytes)
{
    size_t before = size_of(memory);
    void *shrunk = realloc(memory, bytes);
    memory = shrunk != NULL ? shrunk : memory;
    count_bytes(index, size_of(memory), before);
    return memory;
}

/* ---- Tables that lookups may still read ---- */

void ci_retire(ci_index *index, void *memory)
{
    garbage *note = memory;
    *note = (garbage){.next = index->garbage};
    index->garbage = note;
    ci_collect(index);
}

/* Gives the records of a list back. */
static void free_records(ci_index *index, uint32_t record)
{
    while (record != NO_RECORD) {
        _Atomic uint64_t *words = record_words(index, record);
        uint32_t next = (uint32_t)load(&words[1]);
        uint64_t header = load(&words[0]);
        size_t word_count = set_offset(header, KIND_COUNT) + (set_lanes(header) + 3) / 4;
        unsigned record_class = ci_record_class(word_count * sizeof *words);
        store(&words[1], index->free_records[record_class]);
        index->free_records[record_class] = record;
        record = next;
    }
}

void ci_collect(ci_index *index)
{
    if (index->garbage == NULL && index->old_records == NO_RECORD)
        return;
    /* With the fence of a lookup that counts itself in: either it is seen here, or it sees what
     * was stored until now. */
    atomic_thread_fence(memory_order_seq_cst);
    bool is_zero[2] = {true, true};
    for (unsigned i = 0; i < STRIPE_COUNT; i++)
        for (unsigned phase = 0; phase < 2; phase++)
            if (atomic_load(&index->stripes[i].readers[phase]) != 0)
                is_zero[phase] = false;
    for (garbage **link = &index->garbage; *link != NULL;) {
        garbage *note = *link;
        note->seen_zero[0] |= is_zero[0];
        note->seen_zero[1] |= is_zero[1];
        if (note->seen_zero[0] && note->seen_zero[1]) {
            *link = note->next;
            ci_free(index, note);
        } else {
            link = &note->next;
        }
    }
    index->seen_zero[0] |= is_zero[0];
    index->seen_zero[1] |= is_zero[1];
    if (index->seen_zero[0] && index->seen_zero[1]) {
        free_records(index, index->old_records);
        index->old_records = index->new_records;
        index->new_records = NO_RECORD;
        index->seen_zero[0] = index->seen_zero[1] = false;
    }
    /* New lookups go to one counter until the other was seen at zero. */
    bool is_first_seen =
        index->seen_zero[0] || (index->garbage != NULL && index->garbage->seen_zero[0]);
    atomic_store(&index->phase, is_first_seen ? 0 : 1);
}

/* ---- The arena ---- */

static const uint16_t record_units[RECORD_CLASS_COUNT] = {
    1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384};

size_t ci_record_bytes(unsigned record_class)
{
    return (size_t)record_units[record_class] * UNIT_BYTES;
}

unsigned ci_record_class(size_t bytes)
{
    unsigned record_class = 0;
    while (ci_record_bytes(record_class) < bytes)
        record_class++;
    return record_class;
}

/* The memory is as its last user left it. */
uint32_t ci_record_allocate(ci_index *index, unsigned record_class)
{
    uint32_t record = index->free_records[record_class];
    if (record != NO_RECORD) {
        index->free_records[record_class] = (uint32_t)load(&record_words(index, record)[1]);
        return record;
    }
    unsigned units = record_units[record_class];
    if (index->chunk_count == 0 || index->chunk_used_units + units > CHUNK_UNITS) {
        if (index->chunk_count == index->chunk_limit)
            return NO_RECORD;
        _Atomic uint64_t *chunk = ci_allocate_lines(index, CHUNK_UNITS * UNIT_BYTES);
        if (chunk == NULL)
            return NO_RECORD;
        atomic_store_explicit(&index->chunks[index->chunk_count++], chunk, memory_order_release);
        index->chunk_used_units = 0;
    }
    record = (uint32_t)((index->chunk_count - 1) * CHUNK_UNITS + index->chunk_used_units);
    index->chunk_used_units += units;
    return record;
}

void ci_record_retire(ci_index *index, uint32_t record)
{
    if (index->old_records == NO_RECORD) {
        index->old_records = record;
        index->seen_zero[0] = index->seen_zero[1] = false;
        store(&record_words(index, record)[1], NO_RECORD);
        return;
    }
    store(&record_words(index, record)[1], index->new_records);
    index->new_records = record;
}
