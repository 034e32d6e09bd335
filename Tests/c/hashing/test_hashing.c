/* Every kernel and both chains against a slow model: CBOR written byte by byte, SHA-256 of OpenSSL,
 * XXH64 of whole messages. Buffers have their exact size, so that the sanitizers see any step past
 * an end. Takes the seed of the random cases as its argument. */
#include <openssl/sha.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
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

static uint64_t random_state;

static uint32_t random_below(uint32_t bound)
{
    random_state += 0x9e3779b97f4a7c15;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (uint32_t)((z ^ z >> 31) % bound);
}

/* Of every width in CBOR, the edges often. */
static uint32_t random_token(void)
{
    static const uint32_t edges[] = {0,      1,      22,      23,      24,         25,
                                     255,    256,    257,     65535,   65536,      65537,
                                     128255, 151935, 16777215, 16777216, 0x7fffffff, 0xffffffff};
    switch (random_below(5)) {
    case 0: return random_below(24);
    case 1: return random_below(256);
    case 2: return random_below(65536);
    case 3: return random_below(0xffffffff);
    default: return edges[random_below(sizeof edges / sizeof edges[0])];
    }
}

/* ---- The model ---- */

typedef struct message {
    uint8_t bytes[8192];
    size_t count;
} message;

static void put_byte(message *m, uint64_t byte)
{
    CHECK(m->count < sizeof m->bytes, "a message of the model is too long");
    m->bytes[m->count++] = (uint8_t)byte;
}

static void put_bytes(message *m, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        put_byte(m, ((const uint8_t *)bytes)[i]);
}

static void put_head(message *m, unsigned major, uint64_t value)
{
    int width = value < 24 ? 0 : value < 0x100 ? 1 : value < 0x10000 ? 2 : value >> 32 ? 8 : 4;
    int code = width == 0 ? (int)value : width == 1 ? 24 : width == 2 ? 25 : width == 4 ? 26 : 27;
    put_byte(m, major << 5 | (unsigned)code);
    for (int i = width - 1; i >= 0; i--)
        put_byte(m, value >> (8 * i));
}

static void put_cbor_block(message *m, const uint32_t *tokens, size_t block_size,
                           const uint8_t *extra, size_t extra_bytes)
{
    put_head(m, 4, block_size);
    for (size_t i = 0; i < block_size; i++)
        put_head(m, 0, tokens[i]);
    if (extra == NULL)
        put_byte(m, 0xf6);
    put_bytes(m, extra, extra_bytes);
}

static void model_block_hash(const uint8_t *parent, const uint32_t *tokens, size_t block_size,
                             const uint8_t *extra, size_t extra_bytes, uint8_t *hash_p)
{
    message m = {.count = 0};
    put_head(&m, 4, 3);
    put_head(&m, 2, 32);
    put_bytes(&m, parent, 32);
    put_cbor_block(&m, tokens, block_size, extra, extra_bytes);
    SHA256(m.bytes, m.count, hash_p);
}

static uint64_t fnv(const uint8_t *bytes, size_t count)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

static uint64_t model_key(ch_request_algorithm algorithm, uint64_t parent, const uint32_t *tokens,
                          size_t block_size, const uint8_t *extra, size_t extra_bytes)
{
    message m = {.count = 0};
    if (algorithm == CH_REQUEST_XXH64) {
        put_bytes(&m, &parent, 8);
        put_bytes(&m, tokens, 4 * block_size);
        put_bytes(&m, extra, extra_bytes);
        return XXH64(m.bytes, m.count, 0);
    }
    put_head(&m, 4, 3);
    put_head(&m, 0, parent);
    put_cbor_block(&m, tokens, block_size, extra, extra_bytes);
    return fnv(m.bytes, m.count);
}

/* ---- Tests ---- */

typedef struct prompt {
    size_t block_size, token_count, block_count;
    uint32_t *tokens;
    uint8_t *extra;
    size_t extra_bytes;
} prompt;

static void *copy_exactly(const void *bytes, size_t count)
{
    void *copy = malloc(count);
    CHECK(copy != NULL || count == 0, "no memory");
    if (count > 0)
        memcpy(copy, bytes, count);
    return copy;
}

static prompt make_prompt(size_t block_size, size_t token_count, size_t extra_bytes)
{
    prompt p = {.block_size = block_size, .token_count = token_count};
    p.block_count = token_count / block_size;
    p.tokens = malloc(token_count * sizeof *p.tokens);
    for (size_t i = 0; i < token_count; i++)
        p.tokens[i] = random_token();
    p.extra_bytes = extra_bytes;
    p.extra = extra_bytes > 0 ? malloc(extra_bytes) : NULL;
    for (size_t i = 0; i < extra_bytes; i++)
        p.extra[i] = (uint8_t)random_below(256);
    return p;
}

static void free_prompt(prompt p)
{
    free(p.tokens);
    free(p.extra);
}

/* The next piece of a prompt that has `left` tokens, in memory of its own. */
static uint32_t *take_piece(const prompt *p, size_t left, size_t *count_p)
{
    size_t largest = random_below(2) ? left : 1 + left / 4;
    *count_p = random_below((uint32_t)largest + 1);
    return copy_exactly(p->tokens + (p->token_count - left), *count_p * sizeof *p->tokens);
}

static void check_block_hashes(const prompt *p, const uint8_t root[32])
{
    uint8_t *hashes = malloc(32 * p->block_count);
    ch_block_chain chain;
    CHECK(ch_block_chain_init(&chain, root, p->block_size) == CH_OK, "init");
    size_t filled = 0;
    for (size_t left = p->token_count; left > 0;) {
        size_t count;
        uint32_t *piece = take_piece(p, left, &count);
        filled += ch_block_chain_update(&chain, piece, count, p->extra, p->extra_bytes,
                                        hashes + 32 * filled);
        free(piece);
        left -= count;
    }
    CHECK(filled == p->block_count, "%zu blocks, not %zu", filled, p->block_count);

    const uint8_t *parent = root;
    for (size_t i = 0; i < p->block_count; i++) {
        uint8_t expected[32];
        model_block_hash(parent, p->tokens + i * p->block_size, p->block_size, p->extra,
                         p->extra_bytes, expected);
        parent = hashes + 32 * i;
        CHECK(memcmp(parent, expected, 32) == 0,
              "kernel %s, block size %zu, %zu bytes of extra keys: hash of block %zu",
              ch_kernel_name(), p->block_size, p->extra_bytes, i);
    }
    if (p->extra == NULL) {
        uint8_t *whole = malloc(32 * p->block_count);
        CHECK(ch_block_hashes(root, p->block_size, p->tokens, p->token_count, whole) == CH_OK,
              "whole");
        CHECK(p->block_count == 0 || memcmp(whole, hashes, 32 * p->block_count) == 0,
              "the whole prompt and its pieces differ");
        free(whole);
    }
    free(hashes);
}

static void check_request_keys(const prompt *p, ch_request_algorithm algorithm, uint64_t root)
{
    uint64_t *keys = malloc(p->block_count * sizeof *keys);
    ch_request_chain chain;
    CHECK(ch_request_chain_init(&chain, algorithm, root, p->block_size) == CH_OK, "init");
    size_t filled = 0;
    for (size_t left = p->token_count; left > 0;) {
        size_t count;
        uint32_t *piece = take_piece(p, left, &count);
        filled += ch_request_chain_update(&chain, piece, count, p->extra, p->extra_bytes,
                                          keys + filled);
        free(piece);
        left -= count;
    }
    CHECK(filled == p->block_count, "%zu blocks, not %zu", filled, p->block_count);

    uint64_t parent = root;
    for (size_t i = 0; i < p->block_count; i++) {
        uint64_t expected = model_key(algorithm, parent, p->tokens + i * p->block_size,
                                      p->block_size, p->extra, p->extra_bytes);
        CHECK(keys[i] == expected, "algorithm %d, block size %zu: key of block %zu", algorithm,
              p->block_size, i);
        parent = keys[i];
    }
    if (p->extra == NULL) {
        uint64_t *whole = malloc(p->block_count * sizeof *whole);
        CHECK(ch_request_keys(algorithm, root, p->block_size, p->tokens, p->token_count, whole) ==
                  CH_OK,
              "whole");
        CHECK(p->block_count == 0 || memcmp(whole, keys, p->block_count * sizeof *keys) == 0,
              "the whole prompt and its pieces differ");
        free(whole);
    }
    free(keys);
}

static void check_prompt(prompt p)
{
    static const char *const kernels[] = {"portable", "sha-ni"};
    uint8_t root[32];
    for (int i = 0; i < 32; i++)
        root[i] = (uint8_t)random_below(256);
    for (int i = 0; i < 2; i++)
        if (ch_kernel_select(kernels[i]) == CH_OK)
            check_block_hashes(&p, root);
    CHECK(ch_kernel_select(NULL) == CH_OK, "no kernel at all");
    uint64_t parent = (uint64_t)random_below(0xffffffff) << random_below(33);
    check_request_keys(&p, CH_REQUEST_XXH64, parent);
    check_request_keys(&p, CH_REQUEST_CBOR_FNV, parent);
    free_prompt(p);
}

static void test_message_lengths(void)
{
    for (size_t extra_bytes = 0; extra_bytes <= 520; extra_bytes++)
        check_prompt(make_prompt(16, 32, extra_bytes));
    for (size_t block_size = 1; block_size <= 300; block_size++)
        check_prompt(make_prompt(block_size, 2 * block_size, 0));
}

/* The most bytes that a run of tokens can take. */
static void test_widest_tokens(void)
{
    for (size_t block_size = 60; block_size <= 200; block_size++) {
        prompt p = make_prompt(block_size, 2 * block_size, 0);
        for (size_t i = 0; i < p.token_count; i++)
            p.tokens[i] = UINT32_MAX;
        check_prompt(p);
    }
}

static void test_random_prompts(void)
{
    for (int i = 0; i < 1000; i++) {
        size_t block_size = 1 + random_below(random_below(2) ? 33 : 400);
        size_t token_count = random_below((uint32_t)(4 * block_size + 1));
        check_prompt(make_prompt(block_size, token_count, random_below(3) ? 0 : random_below(700)));
    }
}

static void test_roots(void)
{
    uint8_t hash[32], expected[32];
    for (size_t length = 0; length <= 600; length++) {
        message m = {.count = 0};
        char *seed = malloc(length);
        for (size_t i = 0; i < length; i++)
            seed[i] = (char)('a' + random_below(26));
        put_head(&m, 3, length);
        put_bytes(&m, seed, length);
        SHA256(m.bytes, m.count, expected);
        ch_none_hash(seed, length, hash);
        CHECK(memcmp(hash, expected, 32) == 0, "seed of %zu bytes", length);

        message root = {.count = 0};
        put_head(&root, 4, 3);
        put_head(&root, 0, fnv((const uint8_t *)seed, length));
        put_byte(&root, 0xf6);
        put_bytes(&root, m.bytes, m.count);
        CHECK(ch_request_root(CH_REQUEST_CBOR_FNV, seed, length, seed, length) ==
                  fnv(root.bytes, root.count),
              "root of cbor-fnv, names of %zu bytes", length);

        message xxh = {.count = 0};
        uint64_t words[2] = {XXH64(seed, length, 0), length};
        put_bytes(&xxh, words, sizeof words);
        put_bytes(&xxh, seed, length);
        CHECK(ch_request_root(CH_REQUEST_XXH64, seed, length, seed, length) ==
                  XXH64(xxh.bytes, xxh.count, 0),
              "root of xxh64, names of %zu bytes", length);
        free(seed);
    }
}

static void write_extra_keys(ch_writer *writer)
{
    static const uint8_t digest[32] = {1, 2, 3};
    char long_salt[300];
    memset(long_salt, 's', sizeof long_salt);
    ch_extra_keys_begin(writer, 30);
    ch_extra_key_lora(writer, "name", 4, "/path", 5);
    ch_extra_key_multimodal(writer, "image", 5, -1);
    ch_extra_key_multimodal(writer, "image", 5, INT64_MIN);
    ch_extra_key_multimodal(writer, "image", 5, INT64_MAX);
    ch_extra_key_cache_salt(writer, long_salt, sizeof long_salt);
    ch_extra_key_prompt_embeds(writer, digest);
    ch_request_extra_keys_begin(writer, CH_REQUEST_CBOR_FNV, 1);
    ch_request_extra_key(writer, CH_REQUEST_CBOR_FNV, "key", 3);
    ch_request_extra_key(writer, CH_REQUEST_XXH64, "key", 3);
}

/* A buffer of any size receives a prefix of the encoding, and never a byte more. */
static void test_writer_bounds(void)
{
    ch_writer counter = {0};
    write_extra_keys(&counter);
    uint8_t *whole = malloc(counter.length_bytes);
    ch_writer writer = {.bytes = whole, .capacity_bytes = counter.length_bytes};
    write_extra_keys(&writer);
    CHECK(writer.length_bytes == counter.length_bytes, "lengths differ");
    for (size_t capacity = 0; capacity < counter.length_bytes; capacity++) {
        uint8_t *bytes = malloc(capacity);
        ch_writer small = {.bytes = bytes, .capacity_bytes = capacity};
        write_extra_keys(&small);
        CHECK(small.length_bytes == counter.length_bytes, "capacity %zu", capacity);
        free(bytes);
    }

    message m = {.count = 0};
    put_head(&m, 4, 3);
    put_head(&m, 3, 2);
    put_bytes(&m, "mm", 2);
    put_head(&m, 3, 5);
    put_bytes(&m, "image", 5);
    put_head(&m, 1, 0);
    /* After the head of 30 keys (2 bytes) and the adapter (1 + 5 + 5 + 6 bytes). */
    CHECK(memcmp(whole + 19, m.bytes, m.count) == 0, "multimodal item at offset -1");
    free(whole);
}

static void test_refusals(void)
{
    uint8_t root[32] = {0};
    ch_block_chain block_chain;
    ch_request_chain request_chain;
    uint32_t token = 0;
    CHECK(ch_block_chain_init(&block_chain, root, 0) == CH_BLOCK_SIZE, "0 tokens");
    CHECK(ch_block_chain_init(&block_chain, root, (size_t)UINT32_MAX + 1) == CH_BLOCK_SIZE, "2^32");
    CHECK(ch_block_hashes(root, 0, &token, 1, NULL) == CH_BLOCK_SIZE, "0 tokens");
    CHECK(ch_request_chain_init(&request_chain, CH_REQUEST_XXH64, 0, 0) == CH_BLOCK_SIZE, "0");
    CHECK(ch_request_keys(CH_REQUEST_XXH64, 0, 0, &token, 1, NULL) == CH_BLOCK_SIZE, "0 tokens");
    CHECK(ch_kernel_select("abacus") == CH_KERNEL, "an unknown kernel");
    CHECK(strcmp(ch_status_message(CH_OK), "success") == 0, "message");
    CHECK(strlen(ch_status_message(CH_KERNEL)) > 0, "message");
}

static void *hash_once(void *hash_p)
{
    uint8_t root[32] = {0};
    uint32_t tokens[16] = {0};
    ch_block_hashes(root, 16, tokens, 16, hash_p);
    return NULL;
}

/* The first calls of a process choose the kernel; run before anything else has. */
static void test_first_calls_race(void)
{
    pthread_t threads[4];
    uint8_t hashes[4][32];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, hash_once, hashes[i]) == 0, "pthread_create");
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 1; i < 4; i++)
        CHECK(memcmp(hashes[0], hashes[i], 32) == 0, "thread %d", i);
}

int main(int argc, char **argv)
{
    random_state = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)random_state);
    test_first_calls_race();
    printf("kernel %s\n", ch_kernel_name());
    test_refusals();
    test_roots();
    test_writer_bounds();
    test_message_lengths();
    test_widest_tokens();
    test_random_prompts();
    puts("ok");
}
