// The one way to memory: every allocation and mapping of this library, so that tests can refuse
// the n-th.
#ifndef CT_MEMORY_H
#define CT_MEMORY_H

#include <stddef.h>

#pragma GCC visibility push(hidden)

// Zeroed; NULL when there is none. Freed by free().
void *ct_allocate(size_t bytes);

// Maps a file, shared, or with `fd` -1 memory of this process that costs nothing until it is
// touched. NULL on failure.
void *ct_map(size_t bytes, int fd);
void ct_unmap(void *memory, size_t bytes);

// For tests: asked before each of the above, which fails if it returns 0. NULL: all may pass.
void ct_memory_set_gate(int (*gate)(void));

#pragma GCC visibility pop

#endif
