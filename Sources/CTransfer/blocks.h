// Lists of blocks over one or more planes, and a cursor that walks their bytes in the order in
// which they travel: block by block, and within a block plane by plane.
#ifndef CT_BLOCKS_H
#define CT_BLOCKS_H

#include <sys/uio.h>

#include "ctransfer.h"

#pragma GCC visibility push(hidden)

// Blocks of one side in memory.
typedef struct ct_view {
    uint8_t *base;
    const ct_plane *planes;
    const uint32_t *ids;  // NULL: block i is number i
    uint32_t plane_count;
} ct_view;

// Bytes of one block over all planes; 0 if a length is 0 or the sum does not fit.
uint64_t ct_planes_block_bytes(const ct_plane *planes, uint32_t plane_count);

// CT_ERANGE if any byte of any block lies outside a region of `region_bytes`. At least one block.
ct_status ct_blocks_check(
    const ct_plane *planes, uint32_t plane_count, const uint32_t *ids, uint32_t block_count,
    uint64_t region_bytes);

typedef struct ct_cursor {
    const ct_view *view;
    uint32_t block;
    uint32_t block_end;
    uint32_t plane;
    uint64_t offset_bytes;  // within this block's slice of this plane
} ct_cursor;

// The bytes of blocks [first, end).
ct_cursor ct_cursor_make(const ct_view *view, uint32_t first, uint32_t end);

// Whether all bytes are behind.
static inline int ct_cursor_at_end(const ct_cursor *cursor) {
    return cursor->block == cursor->block_end;
}

// The rest of the current slice. The cursor is not at its end.
struct iovec ct_cursor_slice(const ct_cursor *cursor);

// Moves on by at most what is left of the current slice.
void ct_cursor_skip(ct_cursor *cursor, uint64_t bytes);

// Fills up to `capacity` vectors with at most `limit_bytes` of the bytes ahead, neighbours merged.
// The cursor stays.
size_t ct_cursor_vectors(
    const ct_cursor *cursor, uint64_t limit_bytes, struct iovec *vectors, size_t capacity);

// Moves on over any number of slices.
void ct_cursor_advance(ct_cursor *cursor, uint64_t bytes);

#pragma GCC visibility pop

#endif
