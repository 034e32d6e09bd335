// The copy kernels of the memfd path.
#ifndef CT_COPY_H
#define CT_COPY_H

#include <stddef.h>

#pragma GCC visibility push(hidden)

// Transfers at least this large go past the caches: their bytes would evict more than they serve.
#define CT_STREAMING_MIN_BYTES (256u << 10)

typedef void (*ct_copy_function)(void *target, const void *source, size_t bytes);

// Stores that bypass the caches where the CPU has them, else memcpy. The bytes are visible to other
// cores when the call returns.
ct_copy_function ct_copy_streaming(void);

#pragma GCC visibility pop

#endif
