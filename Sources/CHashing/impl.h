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
    /* Does the jobs, of `sha256_cbor` chains whose messages fit CH_LANE_BYTES; NULL for a kernel
     * that gains nothing by it. */
    void (*hash_cbor_jobs)(const ch_job *jobs, size_t job_count);
} ch_kernel;

enum { CH_SLACK_BYTES = 14, CH_LANE_BYTES = 2048 };

extern const ch_kernel ch_kernel_portable;
#if defined(__x86_64__)
extern const ch_kernel ch_kernel_shani, ch_kernel_openssl;
/* Whether this program is linked with OpenSSL. */
int ch_has_openssl(void);
#elif defined(__aarch64__)
extern const ch_kernel ch_kernel_armv8;
#endif

/* The kernel in use. */
const ch_kernel *ch_selected_kernel(void);

/* Of the portable kernel, for what does not fill a vector. */
uint8_t *ch_put_tokens(uint8_t *out, const uint32_t *tokens, size_t token_count);

extern const uint32_t ch_sha256_constants[64];
extern const uint32_t ch_sha256_initial_state[8];

/* The encoded extra keys of a job's block. */
static inline ch_bytes ch_extra_of(const ch_job *job, size_t block)
{
    ch_bytes extra =
        block < job->first_extra_key_count ? job->first_extra_keys[block] : job->extra_keys;
    return extra.bytes != NULL ? extra : (ch_bytes){NULL, 0};
}

#pragma GCC visibility pop

#endif
