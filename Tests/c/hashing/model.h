/* What the tests of CHashing share: random inputs, and a slow model of every key, which writes
 * messages byte by byte and hashes them whole. Its SHA-256 is written down from FIPS 180-4, so that
 * the model needs no library that a foreign architecture lacks; its XXH comes from libxxhash. */
#ifndef HASHING_MODEL_H
#define HASHING_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "CHashing.h"

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define ALGORITHM_COUNT 8
static const char *const kernel_names[] = {"portable", "openssl", "sha-ni", "armv8"};
#define KERNEL_COUNT (sizeof kernel_names / sizeof *kernel_names)

/* ---- Random inputs: SplitMix64 ---- */

static uint64_t random_state;

static inline uint32_t random_below(uint32_t bound)
{
    random_state += 0x9e3779b97f4a7c15;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (uint32_t)((z ^ z >> 31) % bound);
}

/* Of every width in CBOR and in a pickle, the edges often. */
static inline uint32_t random_token(void)
{
    static const uint32_t edges[] = {0,      1,      22,       23,       24,         25,
                                     255,    256,    257,      65535,    65536,      65537,
                                     128255, 151935, 16777215, 16777216, 0x7fffffff, 0x80000000,
                                     0xffffffff};
    switch (random_below(5)) {
    case 0: return random_below(24);
    case 1: return random_below(256);
    case 2: return random_below(65536);
    case 3: return random_below(0xffffffff);
    default: return edges[random_below(sizeof edges / sizeof edges[0])];
    }
}

static inline void fill_random(void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)random_below(256);
}

/* ---- Messages ---- */

typedef struct message {
    uint8_t bytes[1 << 16];
    size_t count;
} message;

static inline void put_byte(message *m, uint64_t byte)
{
    CHECK(m->count < sizeof m->bytes, "a message of the model is too long");
    m->bytes[m->count++] = (uint8_t)byte;
}

static inline void put_bytes(message *m, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        put_byte(m, ((const uint8_t *)bytes)[i]);
}

static inline void put_head(message *m, unsigned major, uint64_t value)
{
    int width = value < 24 ? 0 : value < 0x100 ? 1 : value < 0x10000 ? 2 : value >> 32 ? 8 : 4;
    int code = width == 0 ? (int)value : width == 1 ? 24 : width == 2 ? 25 : width == 4 ? 26 : 27;
    put_byte(m, major << 5 | (unsigned)code);
    for (int i = width - 1; i >= 0; i--)
        put_byte(m, value >> (8 * i));
}

/* ---- Digests ---- */

static inline uint32_t right(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* The first 32 bits of the fraction of a prime's square or cube root. */
static inline uint32_t root_fraction(uint64_t prime, int is_cube)
{
    /* 2^32 times the root, by bisection; its cube takes 105 bits. */
    unsigned __int128 low = 0, high = (unsigned __int128)1 << 36;
    while (high - low > 1) {
        unsigned __int128 middle = (low + high) / 2, power = middle * middle;
        if (is_cube)
            power *= middle;
        if (power > (unsigned __int128)prime << (is_cube ? 96 : 64))
            high = middle;
        else
            low = middle;
    }
    return (uint32_t)low;
}

static inline void model_sha256(const uint8_t *bytes, size_t count, uint8_t digest_p[32])
{
    static uint32_t k[64], initial[8];
    if (k[0] == 0) {
        int found = 0;
        for (uint64_t n = 2; found < 64; n++) {
            int is_prime = 1;
            for (uint64_t d = 2; d * d <= n; d++)
                is_prime &= n % d != 0;
            if (!is_prime)
                continue;
            if (found < 8)
                initial[found] = root_fraction(n, 0);
            k[found++] = root_fraction(n, 1);
        }
    }
    uint32_t h[8];
    memcpy(h, initial, sizeof h);
    size_t chunk_count = (count + 9 + 63) / 64;
    for (size_t chunk = 0; chunk < chunk_count; chunk++) {
        uint32_t w[64] = {0};
        for (size_t i = 0; i < 64; i++) {
            size_t at = 64 * chunk + i;
            uint32_t byte = at < count ? bytes[at] : at == count ? 0x80 : 0;
            if (at >= 64 * chunk_count - 8)
                byte = (uint8_t)((uint64_t)count * 8 >> 8 * (64 * chunk_count - 1 - at));
            w[i / 4] |= byte << 8 * (3 - i % 4);
        }
        for (int i = 16; i < 64; i++)
            w[i] = w[i - 16] + w[i - 7] +
                   (right(w[i - 15], 7) ^ right(w[i - 15], 18) ^ w[i - 15] >> 3) +
                   (right(w[i - 2], 17) ^ right(w[i - 2], 19) ^ w[i - 2] >> 10);
        uint32_t v[8];
        memcpy(v, h, sizeof v);
        for (int i = 0; i < 64; i++) {
            uint32_t t1 = v[7] + (right(v[4], 6) ^ right(v[4], 11) ^ right(v[4], 25)) +
                          ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
            uint32_t t2 = (right(v[0], 2) ^ right(v[0], 13) ^ right(v[0], 22)) +
                          ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            memmove(v + 1, v, 7 * sizeof *v);
            v[0] = t1 + t2;
            v[4] += t1;
        }
        for (int i = 0; i < 8; i++)
            h[i] += v[i];
    }
    for (int i = 0; i < 32; i++)
        digest_p[i] = (uint8_t)(h[i / 4] >> 8 * (3 - i % 4));
}

static inline uint64_t model_fnv(const uint8_t *bytes, size_t count)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

static inline void model_xxh3(const uint8_t *bytes, size_t count, uint8_t digest_p[16])
{
    XXH128_hash_t hash = XXH3_128bits(bytes, count);
    for (int i = 0; i < 8; i++) {
        digest_p[i] = (uint8_t)(hash.high64 >> 8 * (7 - i));
        digest_p[8 + i] = (uint8_t)(hash.low64 >> 8 * (7 - i));
    }
}

/* ---- Keys ---- */

static inline void put_pickled_int(message *m, uint32_t value)
{
    int width = value < 256 ? 1 : value < 65536 ? 2 : value < 0x80000000 ? 4 : 5;
    put_byte(m, width == 1 ? 'K' : width == 2 ? 'M' : width == 4 ? 'J' : 0x8a);
    if (width == 5)
        put_byte(m, 5);
    for (int i = 0; i < width; i++)
        put_byte(m, (uint64_t)value >> 8 * i);
}

static inline void put_pickle(message *m, const uint8_t *parent, size_t parent_bytes,
                              const uint32_t *tokens, size_t count, ch_bytes extra)
{
    static message body;
    body.count = 0;
    put_byte(&body, 'C');
    put_byte(&body, parent_bytes);
    put_bytes(&body, parent, parent_bytes);
    put_byte(&body, 0x94);
    if (count > 3)
        put_byte(&body, '(');
    for (size_t i = 0; i < count; i++)
        put_pickled_int(&body, tokens[i]);
    put_byte(&body, count > 3 ? 't' : 0x84 + count);
    put_byte(&body, 0x94);
    if (extra.bytes == NULL)
        put_byte(&body, 'N');
    put_bytes(&body, extra.bytes, extra.count);
    put_bytes(&body, "\x87\x94.", 3);
    put_bytes(m, "\x80\x05\x95", 3);
    for (int i = 0; i < 8; i++)
        put_byte(m, (uint64_t)body.count >> 8 * i);
    put_bytes(m, body.bytes, body.count);
}

static inline void put_cbor_block(message *m, const uint32_t *tokens, size_t count, ch_bytes extra)
{
    put_head(m, 4, count);
    for (size_t i = 0; i < count; i++)
        put_head(m, 0, tokens[i]);
    if (extra.bytes == NULL)
        put_byte(m, 0xf6);
    put_bytes(m, extra.bytes, extra.count);
}

/* The key of a block; parent is NULL for a first page of SGLang's. */
static inline void model_key(ch_algorithm algorithm, const void *parent, const uint32_t *tokens,
                             size_t count, ch_bytes extra, uint8_t *key_p)
{
    static message m;
    m.count = 0;
    size_t key_bytes = ch_key_bytes(algorithm);
    uint64_t word = 0;
    switch (algorithm) {
    case CH_SHA256_CBOR:
    case CH_XXHASH_CBOR:
        put_head(&m, 4, 3);
        put_head(&m, 2, key_bytes);
        put_bytes(&m, parent, key_bytes);
        put_cbor_block(&m, tokens, count, extra);
        break;
    case CH_SHA256:
    case CH_XXHASH:
        put_pickle(&m, parent, key_bytes, tokens, count, extra);
        break;
    case CH_SGLANG:
        put_bytes(&m, parent, parent == NULL ? 0 : key_bytes);
        put_bytes(&m, tokens, 4 * count);
        put_bytes(&m, extra.bytes, extra.count);
        break;
    case CH_CBOR_FNV:
        memcpy(&word, parent, sizeof word);
        put_head(&m, 4, 3);
        put_head(&m, 0, word);
        put_cbor_block(&m, tokens, count, extra);
        break;
    case CH_XXH64:
        put_bytes(&m, parent, 8);
        put_bytes(&m, tokens, 4 * count);
        put_bytes(&m, extra.bytes, extra.count);
        break;
    case CH_APPROXIMATE:
        word = XXH64(tokens, 4 * count, 0);
        put_bytes(&m, &word, 8);
        put_bytes(&m, parent, 8);
        break;
    }
    if (key_bytes == 32) {
        model_sha256(m.bytes, m.count, key_p);
    } else if (key_bytes == 16) {
        model_xxh3(m.bytes, m.count, key_p);
    } else {
        word = algorithm == CH_CBOR_FNV ? model_fnv(m.bytes, m.count) : XXH64(m.bytes, m.count, 0);
        memcpy(key_p, &word, sizeof word);
    }
}

#endif
