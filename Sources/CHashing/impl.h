/* What the files of CHashing share. */
#ifndef CHASHING_IMPL_H
#define CHASHING_IMPL_H

#include <assert.h>
#include <string.h>

#include "CHashing.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tokens are hashed as they lie in memory");

#pragma GCC visibility push(hidden)

/* SHA-256 of `block_count` 64-byte blocks onto `state`. */
typedef void ch_compress(uint32_t state[8], const uint8_t *blocks, size_t block_count);

extern const uint32_t ch_sha256_constants[64];

ch_compress ch_compress_portable;
#if defined(__x86_64__)
ch_compress ch_compress_shani;
#endif

/* The kernel in use. */
ch_compress *ch_selected_compress(void);

#pragma GCC visibility pop

#endif
