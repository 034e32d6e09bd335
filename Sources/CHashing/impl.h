/* What the files of CHashing share. */
#ifndef CHASHING_IMPL_H
#define CHASHING_IMPL_H

#include <assert.h>
#include <string.h>

#include "CHashing.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tokens are hashed as they lie in memory");

#pragma GCC visibility push(hidden)

/* What a CPU computes in its own way. */
typedef struct ch_kernel {
    const char *name;
    /* SHA-256 of `block_count` blocks of 64 bytes onto `state`. */
    void (*compress)(uint32_t state[8], const uint8_t *blocks, size_t block_count);
    /* Writes tokens in CBOR and returns their end; may write CH_SLACK_BYTES behind it. */
    uint8_t *(*put_tokens)(uint8_t *out, const uint32_t *tokens, size_t token_count);
} ch_kernel;

enum { CH_SLACK_BYTES = 14 };

extern const ch_kernel ch_kernel_portable;
#if defined(__x86_64__)
extern const ch_kernel ch_kernel_shani;
#endif

/* The kernel in use. */
const ch_kernel *ch_selected_kernel(void);

/* Of the portable kernel, for what does not fill a vector. */
uint8_t *ch_put_tokens(uint8_t *out, const uint32_t *tokens, size_t token_count);

extern const uint32_t ch_sha256_constants[64];

#pragma GCC visibility pop

#endif
