#include "memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

static int (*_Atomic current_gate)(void);

void ct_memory_set_gate(int (*gate)(void)) {
    atomic_store(&current_gate, gate);
}

static int may_pass(void) {
    int (*gate)(void) = atomic_load_explicit(&current_gate, memory_order_relaxed);
    return gate == NULL || gate();
}

void *ct_allocate(size_t bytes) {
    return may_pass() ? calloc(1, bytes) : NULL;
}

void *ct_map(size_t bytes, int fd) {
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
    void *memory =
        may_pass() ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0) : MAP_FAILED;
    return memory == MAP_FAILED ? NULL : memory;
}

void ct_unmap(void *memory, size_t bytes) {
    if (memory != NULL) {
        munmap(memory, bytes);
    }
}
