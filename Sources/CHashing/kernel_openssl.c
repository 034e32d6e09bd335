/* OpenSSL, where this CPU has no SHA extensions: its code for AVX2 and SSSE3. The low-level
 * functions, which OpenSSL 3 deprecates, because EVP allocates. */
#if defined(__x86_64__)
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include "impl.h"

/* A program that is not linked with OpenSSL goes without this kernel. */
#pragma weak SHA256_Init
#pragma weak SHA256_Update

int ch_has_openssl(void)
{
    return SHA256_Init != NULL && SHA256_Update != NULL;
}

/* Whole blocks go straight from SHA256_Update to the compression. */
static void compress(uint32_t state[8], const uint8_t *blocks, size_t block_count)
{
    SHA256_CTX context;
    SHA256_Init(&context);
    memcpy(context.h, state, sizeof context.h);
    SHA256_Update(&context, blocks, 64 * block_count);
    memcpy(state, context.h, sizeof context.h);
}

const ch_kernel ch_kernel_openssl = {
    .name = "openssl", .compress = compress, .put_tokens = ch_put_tokens};
#endif
