#include "CHashingPeer.h"

#include <openssl/sha.h>
#include <string.h>

enum { BLOCK_SIZE_MAX = 1024, HASH_BYTES = 32 };

static uint8_t *put_head(uint8_t *out, uint8_t major, uint32_t value)
{
    static const uint8_t first[5] = {0, 24, 25, 26, 26}, rest[5] = {0, 1, 2, 4, 4};
    if (value < 24) {
        *out = major | (uint8_t)value;
        return out + 1;
    }
    /* By the number of bytes that the value needs. */
    unsigned bytes = (unsigned)(39 - __builtin_clz(value)) / 8;
    uint64_t encoded = (uint64_t)__builtin_bswap32(value << (32 - 8 * rest[bytes])) << 8;
    encoded |= major | first[bytes];
    memcpy(out, &encoded, sizeof encoded);
    return out + 1 + rest[bytes];
}

size_t chp_hash_chain(const uint32_t *tokens, size_t token_count, size_t block_size,
                      const uint8_t root[32], uint8_t last_hash_p[32])
{
    uint8_t message[3 + HASH_BYTES + 5 + 5 * BLOCK_SIZE_MAX + 8] = {0x83, 0x58, HASH_BYTES};
    size_t compression_count = 0;
    memcpy(last_hash_p, root, HASH_BYTES);
    for (; token_count >= block_size; token_count -= block_size, tokens += block_size) {
        memcpy(message + 3, last_hash_p, HASH_BYTES);
        uint8_t *end = put_head(message + 3 + HASH_BYTES, 0x80, (uint32_t)block_size);
        for (size_t i = 0; i < block_size; i++)
            end = put_head(end, 0, tokens[i]);
        *end++ = 0xf6;
        SHA256_CTX context;
        SHA256_Init(&context);
        SHA256_Update(&context, message, (size_t)(end - message));
        SHA256_Final(last_hash_p, &context);
        compression_count += ((size_t)(end - message) + 9 + 63) / 64;
    }
    return compression_count;
}

void chp_compress(size_t compression_count, uint8_t hash_p[32])
{
    static const uint8_t chunks[64 * 64];
    SHA256_CTX context;
    SHA256_Init(&context);
    for (; compression_count >= 64; compression_count -= 64)
        SHA256_Update(&context, chunks, sizeof chunks);
    SHA256_Update(&context, chunks, 64 * compression_count);
    SHA256_Final(hash_p, &context);
}
