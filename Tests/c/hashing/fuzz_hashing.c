/* Kernels against each other, in whole and in pieces, with tokens and extra keys of the fuzzer's
 * choice; then the encoder of extra keys. Input: algorithm, block size, bytes of extra keys, where
 * to cut, then the extra keys and the tokens. */
#include <stdlib.h>
#include <string.h>

#include "CHashing.h"

static void require(int condition)
{
    if (!condition)
        abort();
}

/* The keys of two chains with the same tokens, hashed side by side: one at once, one in pieces. */
static void hash_pair(const char *kernel, ch_algorithm algorithm, size_t block_size,
                      const uint32_t *tokens, size_t token_count, size_t cut, ch_bytes extra,
                      uint8_t *keys_p)
{
    static const uint8_t root[CH_KEY_BYTES_MAX] = {1};
    size_t key_bytes = ch_key_bytes(algorithm), total = token_count / block_size * key_bytes;
    ch_chain chains[2];
    if (ch_kernel_select(kernel) != CH_OK)
        return;
    require(ch_chain_init(&chains[0], algorithm, root, block_size) == CH_OK);
    chains[1] = chains[0];
    uint8_t *pieces = malloc(total);
    ch_job job = {.chain = &chains[0],
                  .tokens = tokens,
                  .token_count = token_count,
                  .extra_keys = extra,
                  .keys_p = keys_p};
    ch_job jobs[2] = {job, job};
    jobs[1].chain = &chains[1];
    jobs[1].token_count = cut;
    jobs[1].keys_p = pieces;
    ch_hash(jobs, 2);
    size_t filled = cut / block_size, taken = filled * block_size;
    jobs[1].tokens += taken;
    jobs[1].token_count = token_count - taken;
    jobs[1].keys_p = pieces + filled * key_bytes;
    ch_hash(&jobs[1], 1);
    require(total == 0 || memcmp(keys_p, pieces, total) == 0);
    free(pieces);
}

static void encode_extra_keys(ch_algorithm algorithm, const uint8_t *data, size_t size)
{
    ch_extra_key keys[4];
    size_t count = 0;
    for (; count < 4 && size >= 4; count++) {
        size_t length = data[1] < size - 4 ? data[1] : size - 4;
        keys[count] = (ch_extra_key){.kind = data[0] & 3,
                                     .value = {data + 4, length},
                                     .path = {data + 4, length / 2},
                                     .number = (int64_t)((uint64_t)data[2] << (data[3] & 63))};
        data += 4 + length, size -= 4 + length;
    }
    for (ch_extra_style style = CH_STYLE_0_9; style <= CH_STYLE_0_33; style++) {
        size_t length, again;
        if (ch_extra_keys_encode(algorithm, style, keys, count, NULL, 0, NULL, 0, &length) != CH_OK)
            continue;
        uint8_t *bytes = malloc(length);
        require(ch_extra_keys_encode(algorithm, style, keys, count, NULL, 0, bytes, length,
                                     &again) == CH_OK);
        require(again == length);
        free(bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const kernels[] = {"portable", "openssl", "sha-ni", "armv8"};
    if (size < 5)
        return 0;
    ch_algorithm algorithm = data[0] & 7;
    size_t block_size = 1u + data[1];
    size_t extra_bytes = (data[2] | (data[3] & 15u) << 8);
    size_t cut = data[4];
    data += 5, size -= 5;
    encode_extra_keys(algorithm, data, size);
    extra_bytes = extra_bytes < size ? extra_bytes : size;
    ch_bytes extra = {extra_bytes > 0 ? data : NULL, extra_bytes};
    size_t token_count = (size - extra_bytes) / sizeof(uint32_t);
    cut = cut < token_count ? cut : token_count;
    uint32_t *tokens = malloc(token_count * sizeof *tokens);
    if (token_count > 0)
        memcpy(tokens, data + extra_bytes, token_count * sizeof *tokens);

    size_t total = token_count / block_size * ch_key_bytes(algorithm);
    uint8_t *expected = malloc(total), *keys = malloc(total);
    hash_pair(kernels[0], algorithm, block_size, tokens, token_count, cut, extra, expected);
    for (size_t i = 1; i < sizeof kernels / sizeof *kernels; i++) {
        if (ch_kernel_select(kernels[i]) != CH_OK)
            continue;
        hash_pair(kernels[i], algorithm, block_size, tokens, token_count, cut, extra, keys);
        require(total == 0 || memcmp(expected, keys, total) == 0);
    }
    free(keys);
    free(expected);
    free(tokens);
    return 0;
}
