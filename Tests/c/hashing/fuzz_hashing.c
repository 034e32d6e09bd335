/* Kernels against each other, and tokens in two pieces against all at once. Input: block size,
 * bytes of extra keys, where to cut, then the extra keys and the tokens. */
#include <stdlib.h>
#include <string.h>

#include "CHashing.h"

static void require(int condition)
{
    if (!condition)
        abort();
}

static uint8_t *block_hashes(const char *kernel, size_t block_size, const uint32_t *tokens,
                             size_t token_count, size_t cut, const uint8_t *extra,
                             size_t extra_bytes)
{
    static const uint8_t root[CH_HASH_BYTES] = {1};
    ch_block_chain chain;
    ch_kernel_select(kernel);
    require(ch_block_chain_init(&chain, root, block_size) == CH_OK);
    uint8_t *hashes = malloc(token_count / block_size * CH_HASH_BYTES);
    size_t filled = ch_block_chain_update(&chain, tokens, cut, extra, extra_bytes, hashes);
    filled += ch_block_chain_update(&chain, tokens + cut, token_count - cut, extra, extra_bytes,
                                    hashes + CH_HASH_BYTES * filled);
    require(filled == token_count / block_size);
    return hashes;
}

static uint64_t *request_keys(ch_request_algorithm algorithm, size_t block_size,
                              const uint32_t *tokens, size_t token_count, size_t cut,
                              const uint8_t *extra, size_t extra_bytes)
{
    ch_request_chain chain;
    require(ch_request_chain_init(&chain, algorithm, 1, block_size) == CH_OK);
    uint64_t *keys = malloc(token_count / block_size * sizeof *keys);
    size_t filled = ch_request_chain_update(&chain, tokens, cut, extra, extra_bytes, keys);
    filled += ch_request_chain_update(&chain, tokens + cut, token_count - cut, extra, extra_bytes,
                                      keys + filled);
    require(filled == token_count / block_size);
    return keys;
}

/* Frees both. */
static void require_equal(void *a, void *b, size_t bytes)
{
    require(bytes == 0 || memcmp(a, b, bytes) == 0);
    free(a);
    free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    size_t block_size = 1u + data[0];
    size_t extra_bytes = data[1] | (data[2] & 1u) << 8;
    size_t cut = data[3];
    data += 4, size -= 4;
    extra_bytes = extra_bytes < size ? extra_bytes : size;
    const uint8_t *extra = extra_bytes > 0 ? data : NULL;
    size_t token_count = (size - extra_bytes) / sizeof(uint32_t);
    cut = cut < token_count ? cut : token_count;
    uint32_t *tokens = malloc(token_count * sizeof *tokens);
    if (token_count > 0)
        memcpy(tokens, data + extra_bytes, token_count * sizeof *tokens);
    size_t block_count = token_count / block_size;

    require_equal(
        block_hashes("portable", block_size, tokens, token_count, cut, extra, extra_bytes),
        block_hashes(NULL, block_size, tokens, token_count, 0, extra, extra_bytes),
        block_count * CH_HASH_BYTES);
    for (int i = 0; i < 2; i++) {
        ch_request_algorithm algorithm = i == 0 ? CH_REQUEST_XXH64 : CH_REQUEST_CBOR_FNV;
        require_equal(
            request_keys(algorithm, block_size, tokens, token_count, cut, extra, extra_bytes),
            request_keys(algorithm, block_size, tokens, token_count, 0, extra, extra_bytes),
            block_count * sizeof(uint64_t));
    }
    free(tokens);
    return 0;
}
