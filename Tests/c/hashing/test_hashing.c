/* Every algorithm with every kernel against a slow model. Buffers have their exact size, so that
 * the sanitizers see any step past an end. Takes the seed of the random cases as its argument. */
#include <pthread.h>
#include <time.h>

#include "model.h"

/* Tokens of one chain with their extra keys. */
typedef struct prompt {
    ch_algorithm algorithm;
    size_t block_size, token_count, block_count;
    uint32_t *tokens;
    ch_bytes *extra_keys;
    size_t extra_key_count;
    ch_bytes rest; /* the extra keys of all other blocks */
    int has_parent;
    uint8_t parent[32];
    uint8_t *expected;
} prompt;

/* At least one byte of memory, so that it never looks like none. */
static void *allocate(size_t count)
{
    void *memory = malloc(count > 0 ? count : 1);
    CHECK(memory != NULL, "no memory");
    return memory;
}

static prompt make_prompt(ch_algorithm algorithm, size_t block_size, size_t token_count,
                          size_t extra_key_count, size_t extra_bytes)
{
    prompt p = {.algorithm = algorithm, .block_size = block_size, .token_count = token_count};
    p.block_count = token_count / block_size;
    p.tokens = allocate(token_count * sizeof *p.tokens);
    for (size_t i = 0; i < token_count; i++)
        p.tokens[i] = random_token();
    p.has_parent = algorithm != CH_SGLANG || random_below(2);
    fill_random(p.parent, sizeof p.parent);
    p.extra_key_count = algorithm == CH_APPROXIMATE ? 0 : extra_key_count;
    p.extra_keys = allocate(p.extra_key_count * sizeof *p.extra_keys);
    for (size_t i = 0; i < p.extra_key_count; i++) {
        p.extra_keys[i] = (ch_bytes){NULL, 0};
        if (i > 0 && random_below(4) == 0)
            continue;
        uint8_t *bytes = allocate(extra_bytes);
        fill_random(bytes, extra_bytes);
        p.extra_keys[i] = (ch_bytes){bytes, extra_bytes};
    }
    if (p.extra_key_count > 1 && random_below(2))
        p.rest = p.extra_keys[0];

    size_t key_bytes = ch_key_bytes(algorithm);
    p.expected = allocate(p.block_count * key_bytes);
    const uint8_t *parent = p.has_parent ? p.parent : NULL;
    for (size_t i = 0; i < p.block_count; i++) {
        ch_bytes extra = i < p.extra_key_count ? p.extra_keys[i] : p.rest;
        model_key(algorithm, parent, p.tokens + i * block_size, block_size, extra,
                  p.expected + i * key_bytes);
        parent = p.expected + i * key_bytes;
    }
    return p;
}

static void free_prompt(prompt *p)
{
    for (size_t i = 0; i < p->extra_key_count; i++)
        free((void *)p->extra_keys[i].bytes);
    free(p->extra_keys);
    free(p->tokens);
    free(p->expected);
}

static ch_chain start(const prompt *p)
{
    ch_chain chain;
    CHECK(ch_chain_init(&chain, p->algorithm, p->has_parent ? p->parent : NULL, p->block_size) ==
              CH_OK,
          "init of %s, block size %zu", ch_algorithm_name(p->algorithm), p->block_size);
    return chain;
}

static void check_keys(const prompt *p, const uint8_t *keys, const char *how)
{
    size_t key_bytes = ch_key_bytes(p->algorithm);
    for (size_t i = 0; i < p->block_count; i++)
        CHECK(memcmp(keys + i * key_bytes, p->expected + i * key_bytes, key_bytes) == 0,
              "%s, kernel %s, %s, block size %zu, block %zu of %zu",
              ch_algorithm_name(p->algorithm), ch_kernel_name(), how, p->block_size, i,
              p->block_count);
}

/* All prompts in one call. */
static void check_together(const prompt *prompts, size_t count)
{
    ch_chain *chains = allocate(count * sizeof *chains);
    ch_job *jobs = allocate(count * sizeof *jobs);
    for (size_t i = 0; i < count; i++) {
        const prompt *p = &prompts[i];
        chains[i] = start(p);
        jobs[i] = (ch_job){.chain = &chains[i],
                           .tokens = p->tokens,
                           .token_count = p->token_count,
                           .first_extra_keys = p->extra_keys,
                           .first_extra_key_count = p->extra_key_count,
                           .extra_keys = p->rest,
                           .keys_p = allocate(p->block_count * ch_key_bytes(p->algorithm))};
    }
    ch_hash(jobs, count);
    for (size_t i = 0; i < count; i++) {
        check_keys(&prompts[i], jobs[i].keys_p, "together");
        free(jobs[i].keys_p);
    }
    free(chains);
    free(jobs);
}

/* One prompt as its tokens come, in memory of their own. */
static void check_in_pieces(const prompt *p)
{
    ch_chain chain = start(p);
    size_t key_bytes = ch_key_bytes(p->algorithm), done = 0, known = 0;
    uint8_t *keys = allocate(p->block_count * key_bytes);
    while (known < p->token_count) {
        known += 1 + random_below((uint32_t)(p->token_count - known));
        size_t count = known - done * p->block_size, filled = count / p->block_size;
        uint32_t *piece = allocate(count * sizeof *piece);
        memcpy(piece, p->tokens + done * p->block_size, count * sizeof *piece);
        uint8_t *new_keys = allocate(filled * key_bytes);
        int has_extra = done < p->extra_key_count;
        ch_hash(&(ch_job){.chain = &chain,
                          .tokens = piece,
                          .token_count = count,
                          .first_extra_keys = has_extra ? p->extra_keys + done : NULL,
                          .first_extra_key_count = has_extra ? p->extra_key_count - done : 0,
                          .extra_keys = p->rest,
                          .keys_p = new_keys},
                1);
        memcpy(keys + done * key_bytes, new_keys, filled * key_bytes);
        done += filled;
        free(new_keys);
        free(piece);
    }
    CHECK(done == p->block_count, "%zu blocks, not %zu", done, p->block_count);
    check_keys(p, keys, "in pieces");
    free(keys);
}

static void check_prompts(prompt *prompts, size_t count)
{
    for (size_t i = 0; i < KERNEL_COUNT; i++) {
        if (ch_kernel_select(kernel_names[i]) != CH_OK)
            continue;
        check_together(prompts, count);
        for (size_t j = 0; j < count; j++)
            check_in_pieces(&prompts[j]);
    }
    CHECK(ch_kernel_select(NULL) == CH_OK, "no kernel at all");
    for (size_t i = 0; i < count; i++)
        free_prompt(&prompts[i]);
}

static void test_message_lengths(void)
{
    for (ch_algorithm algorithm = 0; algorithm < ALGORITHM_COUNT; algorithm++) {
        for (size_t extra_bytes = 0; extra_bytes <= 140; extra_bytes++)
            check_prompts((prompt[]){make_prompt(algorithm, 16, 48, 2, extra_bytes)}, 1);
        for (size_t block_size = 1; block_size <= 300; block_size += 1 + block_size / 32)
            check_prompts((prompt[]){make_prompt(algorithm, block_size, 2 * block_size, 0, 0)}, 1);
    }
}

/* Around the sizes from which a message is hashed in parts, and leaves the lanes. */
static void test_long_messages(void)
{
    static const size_t extra_bytes[] = {440, 511, 512, 513, 900, 1024, 1700, 1824, 1830,
                                         1840, 1850, 1912, 2048, 3000, 20000};
    for (ch_algorithm algorithm = 0; algorithm < ALGORITHM_COUNT; algorithm++)
        for (size_t i = 0; i < sizeof extra_bytes / sizeof *extra_bytes; i++)
            check_prompts((prompt[]){make_prompt(algorithm, 16, 40, 2, extra_bytes[i])}, 1);
    for (size_t block_size = 350; block_size <= 410; block_size++)
        check_prompts(
            (prompt[]){make_prompt(CH_SHA256_CBOR, block_size, 2 * block_size, 1, block_size / 4)},
            1);
    check_prompts((prompt[]){make_prompt(CH_SHA256, 4096, 8192, 1, 20000)}, 1);
}

/* The most bytes that tokens can take. */
static void test_widest_tokens(void)
{
    for (size_t block_size = 1; block_size <= 400; block_size += 3) {
        uint32_t *tokens = allocate(block_size * sizeof *tokens);
        memset(tokens, 0xff, block_size * sizeof *tokens);
        for (ch_algorithm algorithm = 0; algorithm < ALGORITHM_COUNT; algorithm++) {
            uint8_t parent[32] = {7}, expected[32], key[32];
            model_key(algorithm, parent, tokens, block_size, (ch_bytes){NULL, 0}, expected);
            ch_chain chain;
            CHECK(ch_chain_init(&chain, algorithm, parent, block_size) == CH_OK, "init");
            ch_hash(&(ch_job){.chain = &chain,
                              .tokens = tokens,
                              .token_count = block_size,
                              .keys_p = key},
                    1);
            CHECK(memcmp(key, expected, ch_key_bytes(algorithm)) == 0, "%s, block size %zu",
                  ch_algorithm_name(algorithm), block_size);
        }
        free(tokens);
    }
}

/* Around the longest message that fits a lane. */
static void test_lane_bounds(void)
{
    static uint8_t extra[2100];
    uint32_t tokens[3 * 16];
    uint8_t parent[32] = {7}, key[2][3 * 32], expected[3 * 32];
    memset(tokens, 0xff, sizeof tokens);
    fill_random(extra, sizeof extra);
    for (size_t extra_bytes = 1700; extra_bytes < sizeof extra; extra_bytes++) {
        ch_chain chains[2];
        ch_job jobs[2];
        for (int i = 0; i < 2; i++) {
            CHECK(ch_chain_init(&chains[i], CH_SHA256_CBOR, parent, 16) == CH_OK, "init");
            jobs[i] = (ch_job){.chain = &chains[i],
                               .tokens = tokens,
                               .token_count = 3 * 16,
                               .extra_keys = {extra, extra_bytes},
                               .keys_p = key[i]};
        }
        ch_hash(jobs, 2);
        for (size_t i = 0; i < 3; i++)
            model_key(CH_SHA256_CBOR, i == 0 ? parent : expected + 32 * (i - 1), tokens, 16,
                      (ch_bytes){extra, extra_bytes}, expected + 32 * i);
        for (int i = 0; i < 2; i++)
            CHECK(memcmp(key[i], expected, sizeof expected) == 0, "%zu bytes of extra keys",
                  extra_bytes);
    }
}

/* Several prompts of all kinds at once: lanes take turns, end at different times and meet jobs
 * that are not for them. */
static void test_batches(void)
{
    for (int round = 0; round < 150; round++) {
        prompt prompts[7];
        size_t count = 1 + random_below(7);
        for (size_t i = 0; i < count; i++) {
            ch_algorithm algorithm = random_below(3) ? CH_SHA256_CBOR : random_below(8);
            size_t block_size = 1 + random_below(random_below(4) ? 33 : 420);
            size_t token_count = random_below((uint32_t)(6 * block_size + 1));
            prompts[i] = make_prompt(algorithm, block_size, token_count, random_below(4),
                                     random_below(random_below(8) ? 40 : 2500));
        }
        check_prompts(prompts, count);
    }
}

static void test_roots(void)
{
    static message m;
    for (size_t length = 0; length <= 600; length++) {
        char *text = allocate(length);
        for (size_t i = 0; i < length; i++)
            text[i] = (char)('a' + random_below(26));
        ch_bytes name = {text, length};
        uint8_t key[32], expected[32];
        uint64_t word;
        for (ch_algorithm algorithm = 0; algorithm < ALGORITHM_COUNT; algorithm++) {
            ch_root(algorithm, name, name, key);
            m.count = 0;
            switch (algorithm) {
            case CH_SHA256_CBOR:
            case CH_XXHASH_CBOR:
                put_head(&m, 3, length);
                put_bytes(&m, text, length);
                break;
            case CH_SHA256:
            case CH_XXHASH: {
                size_t width = length < 256 ? 1 : 4;
                put_bytes(&m, "\x80\x05\x95", 3);
                put_bytes(&m, &(uint64_t){1 + width + length + 2}, 8);
                put_byte(&m, width == 1 ? 0x8c : 'X');
                put_bytes(&m, &length, width);
                put_bytes(&m, text, length);
                put_bytes(&m, "\x94.", 2);
                break;
            }
            case CH_SGLANG:
                put_bytes(&m, "sglang-cache-salt-v1", 21);
                put_bytes(&m, text, length);
                break;
            case CH_CBOR_FNV:
                put_head(&m, 4, 3);
                put_head(&m, 0, model_fnv((const uint8_t *)text, length));
                put_byte(&m, 0xf6);
                put_head(&m, 3, length);
                put_bytes(&m, text, length);
                break;
            case CH_XXH64:
                put_bytes(&m, (uint64_t[]){XXH64(text, length, 0), length}, 16);
                put_bytes(&m, text, length);
                break;
            case CH_APPROXIMATE:
                put_bytes(&m, text, length);
                put_bytes(&m, text, length);
                break;
            }
            if (ch_key_bytes(algorithm) == 32) {
                model_sha256(m.bytes, m.count, expected);
            } else if (ch_key_bytes(algorithm) == 16) {
                model_xxh3(m.bytes, m.count, expected);
            } else {
                word = algorithm == CH_CBOR_FNV ? model_fnv(m.bytes, m.count)
                                                : XXH64(m.bytes, m.count, 0);
                memcpy(expected, &word, sizeof word);
            }
            CHECK(memcmp(key, expected, ch_key_bytes(algorithm)) == 0, "%s, names of %zu bytes",
                  ch_algorithm_name(algorithm), length);
        }
        ch_sha256(name, key);
        model_sha256((const uint8_t *)text, length, expected);
        CHECK(memcmp(key, expected, 32) == 0, "%zu bytes", length);
        free(text);
    }
}

/* FIPS 180-4's own example, so that model and code do not err together. */
static void test_known_digest(void)
{
    static const uint8_t expected[32] = {
        0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22,
        0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00,
        0x15, 0xad};
    uint8_t digest[32];
    ch_sha256((ch_bytes){"abc", 3}, digest);
    CHECK(memcmp(digest, expected, 32) == 0, "SHA-256 of abc");
    model_sha256((const uint8_t *)"abc", 3, digest);
    CHECK(memcmp(digest, expected, 32) == 0, "the model's SHA-256 of abc");
}

/* The last block may be shorter than the others. */
static void test_approximate_keys(void)
{
    enum { BLOCKS = 5 };
    for (size_t count = 1; count <= 64; count++) {
        uint64_t root = random_state, parent = root, keys[BLOCKS], expected[BLOCKS];
        for (size_t i = 0; i < BLOCKS; i++) {
            size_t size = i + 1 == BLOCKS ? count : 64;
            uint32_t *tokens = allocate(size * sizeof *tokens);
            fill_random(tokens, size * sizeof *tokens);
            keys[i] = ch_approximate_content((ch_bytes){tokens, size * sizeof *tokens});
            model_key(CH_APPROXIMATE, &parent, tokens, size, (ch_bytes){NULL, 0},
                      (uint8_t *)&expected[i]);
            parent = expected[i];
            free(tokens);
        }
        ch_approximate_keys(root, keys, BLOCKS, keys);
        CHECK(memcmp(keys, expected, sizeof keys) == 0, "%zu tokens", count);
    }
}

/* ---- Extra keys ---- */

#define TEXT(literal) {literal, sizeof literal - 1}

static size_t encode(ch_algorithm algorithm, ch_extra_style style, const ch_extra_key *keys,
                     size_t key_count, uint8_t *bytes, size_t capacity)
{
    size_t length = 0;
    ch_status status = ch_extra_keys_encode(algorithm, style, keys, key_count, NULL, 0, bytes,
                                            capacity, &length);
    CHECK(status == CH_OK, "%s: %s", ch_algorithm_name(algorithm), ch_status_message(status));
    return length;
}

/* A buffer of any size receives a prefix of the encoding, and never a byte more. */
static void test_extra_key_bounds(void)
{
    static const ch_extra_key keys[] = {
        {.kind = CH_EXTRA_CACHE_SALT, .value = TEXT("salt")},
        {.kind = CH_EXTRA_MULTIMODAL, .value = TEXT("image-1"), .number = -1},
        {.kind = CH_EXTRA_MULTIMODAL, .value = TEXT("image-2"), .number = INT64_MIN},
        {.kind = CH_EXTRA_MULTIMODAL, .value = TEXT("image-3"), .number = INT64_MAX},
        {.kind = CH_EXTRA_LORA, .value = TEXT("name"), .path = TEXT("/path"), .number = 70000},
        {.kind = CH_EXTRA_PROMPT_EMBEDS, .value = TEXT("digest")},
    };
    for (ch_algorithm algorithm = CH_SHA256_CBOR; algorithm <= CH_XXHASH; algorithm++) {
        for (ch_extra_style style = CH_STYLE_0_9; style <= CH_STYLE_0_33; style++) {
            size_t key_count = style == CH_STYLE_0_9 ? 5 : 6;
            size_t length = encode(algorithm, style, keys, key_count, NULL, 0);
            for (size_t capacity = 0; capacity <= length; capacity++) {
                uint8_t *bytes = allocate(capacity);
                CHECK(encode(algorithm, style, keys, key_count, bytes, capacity) == length,
                      "capacity %zu", capacity);
                free(bytes);
            }
        }
    }

    uint8_t bytes[200];
    static message m;
    m.count = 0;
    put_head(&m, 4, 2);
    put_head(&m, 4, 3);
    put_head(&m, 3, 2);
    put_bytes(&m, "mm", 2);
    put_head(&m, 3, 7);
    put_bytes(&m, "image-1", 7);
    put_head(&m, 1, 0);
    put_head(&m, 4, 2);
    put_head(&m, 3, 10);
    put_bytes(&m, "cache_salt", 10);
    put_head(&m, 3, 4);
    put_bytes(&m, "salt", 4);
    size_t length = encode(CH_SHA256_CBOR, CH_STYLE_0_33, keys, 2, bytes, sizeof bytes);
    CHECK(length == m.count && memcmp(bytes, m.bytes, length) == 0, "sorted by kind");
}

/* Enough items that the memo of a pickle outgrows one byte: 300 tuples of 2 objects each. */
static void test_long_memo(void)
{
    enum { COUNT = 300 };
    static char names[COUNT][8];
    static ch_extra_key keys[COUNT];
    for (int i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i], "i%d", i);
        keys[i] = (ch_extra_key){.kind = CH_EXTRA_MULTIMODAL,
                                 .value = {names[i], strlen(names[i])}};
    }
    static message m;
    m.count = 0;
    put_byte(&m, '(');
    for (int i = 0; i < COUNT; i++) {
        if (i == 0)
            put_bytes(&m, "\x8c\x02mm\x94", 5);
        else
            put_bytes(&m, "h\x02", 2);
        put_byte(&m, 0x8c);
        put_byte(&m, strlen(names[i]));
        put_bytes(&m, names[i], strlen(names[i]));
        put_bytes(&m, "\x94K\0\x87\x94", 5);
    }
    put_bytes(&m, "t\x94", 2);
    static uint8_t bytes[1 << 16];
    size_t length = encode(CH_SHA256, CH_STYLE_0_33, keys, COUNT, bytes, sizeof bytes);
    CHECK(length == m.count && memcmp(bytes, m.bytes, length) == 0, "300 items");
}

static ch_status encode_one(ch_algorithm algorithm, ch_extra_style style, const ch_extra_key *keys,
                            size_t key_count, size_t lookahead_count)
{
    static const uint32_t lookahead[1] = {1};
    size_t length;
    return ch_extra_keys_encode(algorithm, style, keys, key_count, lookahead, lookahead_count, NULL,
                                0, &length);
}

static void test_refusals(void)
{
    uint8_t parent[32] = {0};
    ch_chain chain;
    CHECK(ch_chain_init(&chain, CH_SHA256_CBOR, parent, 0) == CH_BLOCK_SIZE, "0 tokens");
    CHECK(ch_chain_init(&chain, CH_XXH64, parent, (size_t)UINT32_MAX + 1) == CH_BLOCK_SIZE, "2^32");
    CHECK(ch_chain_init(&chain, CH_SHA256, parent, 4097) == CH_BLOCK_SIZE, "a long pickle");
    CHECK(ch_chain_init(&chain, CH_SHA256_CBOR, NULL, 16) == CH_ALGORITHM, "no parent");
    CHECK(ch_chain_init(&chain, CH_XXH64, parent, 16) == CH_OK, "init");

    static const ch_extra_key lora = {
        .kind = CH_EXTRA_LORA, .value = TEXT("a"), .path = TEXT("b")};
    static const ch_extra_key twin = {
        .kind = CH_EXTRA_LORA, .value = TEXT("a"), .path = TEXT("a")};
    static const ch_extra_key tag = {.kind = CH_EXTRA_MULTIMODAL, .value = TEXT("mm")};
    static const ch_extra_key twins[] = {{.kind = CH_EXTRA_MULTIMODAL, .value = TEXT("image")},
                                         {.kind = CH_EXTRA_CACHE_SALT, .value = TEXT("image")}};
    static const ch_extra_key embeds = {.kind = CH_EXTRA_PROMPT_EMBEDS, .value = TEXT("d")};
    static char long_salt[40000];
    const ch_extra_key salt = {.kind = CH_EXTRA_CACHE_SALT,
                               .value = {long_salt, sizeof long_salt}};
    CHECK(encode_one(CH_SHA256_CBOR, CH_STYLE_0_33, NULL, 0, 0) == CH_EXTRA_KEY, "no keys");
    CHECK(encode_one(CH_SGLANG, CH_STYLE_0_33, &lora, 1, 0) == CH_EXTRA_KEY, "SGLang");
    CHECK(encode_one(CH_APPROXIMATE, CH_STYLE_0_33, &lora, 1, 0) == CH_EXTRA_KEY, "approximate");
    CHECK(encode_one(CH_XXH64, CH_STYLE_0_33, &lora, 1, 0) == CH_EXTRA_KEY, "LoRA of llm-d");
    CHECK(encode_one(CH_CBOR_FNV, CH_STYLE_0_33, twins, 2, 1) == CH_EXTRA_KEY, "llm-d looks ahead");
    CHECK(encode_one(CH_SHA256_CBOR, CH_STYLE_0_23, twins, 2, 1) == CH_EXTRA_KEY, "0.23 does");
    CHECK(encode_one(CH_SHA256_CBOR, CH_STYLE_0_9, &embeds, 1, 0) == CH_EXTRA_KEY, "0.9 embeds");
    CHECK(encode_one(CH_SHA256, CH_STYLE_0_33, &twin, 1, 0) == CH_IDENTITY, "name is path");
    CHECK(encode_one(CH_XXHASH, CH_STYLE_0_33, &tag, 1, 0) == CH_IDENTITY, "an item like a tag");
    CHECK(encode_one(CH_SHA256, CH_STYLE_0_33, twins, 2, 0) == CH_IDENTITY, "equal items");
    CHECK(encode_one(CH_SHA256_CBOR, CH_STYLE_0_33, twins, 2, 0) == CH_OK, "in CBOR");
    CHECK(encode_one(CH_SHA256, CH_STYLE_0_33, &salt, 1, 0) == CH_TOO_LONG, "a long salt");
    CHECK(ch_kernel_select("abacus") == CH_KERNEL, "an unknown kernel");
    CHECK(strcmp(ch_status_message(CH_OK), "success") == 0, "message");
    CHECK(strlen(ch_status_message(CH_KERNEL)) > 0, "message");
}

static void *hash_once(void *key_p)
{
    uint8_t root[32] = {0};
    uint32_t tokens[16] = {0};
    ch_chain chain;
    CHECK(ch_chain_init(&chain, CH_SHA256_CBOR, root, 16) == CH_OK, "init");
    ch_hash(&(ch_job){.chain = &chain, .tokens = tokens, .token_count = 16, .keys_p = key_p}, 1);
    return NULL;
}

/* The first calls of a process choose the kernel; run before anything else has. */
static void test_first_calls_race(void)
{
    pthread_t threads[4];
    uint8_t keys[4][32];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, hash_once, keys[i]) == 0, "pthread_create");
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 1; i < 4; i++)
        CHECK(memcmp(keys[0], keys[i], 32) == 0, "thread %d", i);
}

int main(int argc, char **argv)
{
    random_state = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)random_state);
    test_first_calls_race();
    printf("kernels:");
    for (size_t i = 0; i < KERNEL_COUNT; i++)
        if (ch_kernel_select(kernel_names[i]) == CH_OK)
            printf(" %s", ch_kernel_name());
    CHECK(ch_kernel_select(NULL) == CH_OK, "no kernel at all");
    printf("; in use: %s\n", ch_kernel_name());
    test_known_digest();
    test_refusals();
    test_roots();
    test_approximate_keys();
    test_extra_key_bounds();
    test_long_memo();
    test_widest_tokens();
    test_message_lengths();
    test_long_messages();
    test_lane_bounds();
    test_batches();
    puts("ok");
}
