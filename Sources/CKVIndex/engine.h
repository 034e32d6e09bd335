/* Entries of engine hashes, between the table and what events do to it. */
#ifndef CKVINDEX_ENGINE_H
#define CKVINDEX_ENGINE_H

#include "impl.h"

#pragma GCC visibility push(hidden)

static inline uint64_t references(uint64_t meta, unsigned tier)
{
    return meta >> (4 + 4 * tier) & 15;
}

static inline uint64_t prefix_of(uint64_t meta) { return meta >> PREFIX_SHIFT << PREFIX_SHIFT; }

/* Under what the entry of the `part`-th of several keys of a block is found. */
uint64_t ci_part_tag(uint64_t tag, size_t part);

/* Pointers to entries are valid while `engine_changes` stays the same: room for a block may be made
 * by forgetting another. */
entry *ci_engine_find(const ci_index *index, uint16_t holder, uint64_t tag);
/* The entry of a block; not one of its parts. */
entry *ci_engine_find_block(const ci_index *index, uint16_t holder, uint64_t tag);
/* The first entry that is not below `tag`, or the empty place where the tag would go; NULL without
 * a table. */
entry *ci_engine_place(const ci_index *index, uint16_t holder, uint64_t tag);
void ci_engine_prefetch(const holder *holder, uint64_t tag);

/* Makes room for so many more blocks at once; without it room is made as they come. */
void ci_engine_reserve(ci_index *index, uint16_t holder, size_t count);
/* Adds an entry that is not there. `place` is its ci_engine_place, or NULL. False where memory
 * ends. */
bool ci_engine_insert(ci_index *index, uint16_t holder, uint64_t tag, uint64_t meta,
                      entry *place);
/* Drops all that is known of a block. */
void ci_engine_forget(ci_index *index, uint16_t holder, uint64_t tag);

#pragma GCC visibility pop

#endif
