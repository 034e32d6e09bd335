/* llm-d's request keys. Both algorithms hash a stream, so an open block is kept as the state of
 * its hash. */
#include "cbor.h"
#include "impl.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

typedef union {
    uint64_t fnv;
    XXH64_state_t xxh64;
} open_key;

static_assert(sizeof(open_key) <= sizeof((ch_request_chain *)0)->open_key,
              "the public header reserves the room of libxxhash's state");

static uint64_t fnv_bytes(uint64_t hash, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3;
    return hash;
}

static uint64_t fnv_head(uint64_t hash, uint8_t major, uint64_t value)
{
    uint8_t head[CBOR_HEAD_BYTES];
    return fnv_bytes(hash, head, (size_t)(cbor_put_head(head, major, value) - head));
}

static const uint64_t fnv_basis = 0xcbf29ce484222325;

static uint64_t fnv_tokens(uint64_t hash, const uint32_t *tokens, size_t token_count)
{
    enum { RUN_TOKENS = 64 };
    uint8_t encoded[RUN_TOKENS * CBOR_TOKEN_BYTES + CH_SLACK_BYTES];
    const ch_kernel *kernel = ch_selected_kernel();
    while (token_count > 0) {
        size_t run = token_count < RUN_TOKENS ? token_count : RUN_TOKENS;
        uint8_t *end = kernel->put_tokens(encoded, tokens, run);
        hash = fnv_bytes(hash, encoded, (size_t)(end - encoded));
        tokens += run;
        token_count -= run;
    }
    return hash;
}

static void open_block(open_key *key, const ch_request_chain *chain, uint64_t parent)
{
    switch (chain->algorithm) {
    case CH_REQUEST_XXH64:
        XXH64_reset(&key->xxh64, 0);
        XXH64_update(&key->xxh64, &parent, sizeof parent);
        break;
    case CH_REQUEST_CBOR_FNV:
        key->fnv = fnv_head(fnv_basis, CBOR_ARRAY, 3);
        key->fnv = fnv_head(key->fnv, CBOR_UNSIGNED, parent);
        key->fnv = fnv_head(key->fnv, CBOR_ARRAY, chain->block_size);
        break;
    }
}

static void put_tokens(open_key *key, const ch_request_chain *chain, const uint32_t *tokens,
                       size_t token_count)
{
    switch (chain->algorithm) {
    case CH_REQUEST_XXH64:
        XXH64_update(&key->xxh64, tokens, token_count * sizeof *tokens);
        break;
    case CH_REQUEST_CBOR_FNV:
        key->fnv = fnv_tokens(key->fnv, tokens, token_count);
        break;
    }
}

static uint64_t close_block(open_key *key, const ch_request_chain *chain, const uint8_t *extra,
                            size_t extra_bytes)
{
    static const uint8_t null = CBOR_NULL;
    switch (chain->algorithm) {
    case CH_REQUEST_XXH64:
        if (extra != NULL)
            XXH64_update(&key->xxh64, extra, extra_bytes);
        return XXH64_digest(&key->xxh64);
    case CH_REQUEST_CBOR_FNV:
        if (extra == NULL)
            return fnv_bytes(key->fnv, &null, sizeof null);
        return fnv_bytes(key->fnv, extra, extra_bytes);
    }
    return 0;
}

uint64_t ch_request_root(ch_request_algorithm algorithm, const char *seed, size_t seed_bytes,
                         const char *model, size_t model_bytes)
{
    if (algorithm == CH_REQUEST_XXH64) {
        uint64_t seed_and_length[2] = {XXH64(seed, seed_bytes, 0), model_bytes};
        XXH64_state_t state;
        XXH64_reset(&state, 0);
        XXH64_update(&state, seed_and_length, sizeof seed_and_length);
        XXH64_update(&state, model, model_bytes);
        return XXH64_digest(&state);
    }
    static const uint8_t null = CBOR_NULL;
    uint64_t root = fnv_head(fnv_basis, CBOR_ARRAY, 3);
    root = fnv_head(root, CBOR_UNSIGNED, fnv_bytes(fnv_basis, seed, seed_bytes));
    root = fnv_bytes(root, &null, sizeof null);
    root = fnv_head(root, CBOR_TEXT, model_bytes);
    return fnv_bytes(root, model, model_bytes);
}

ch_status ch_request_chain_init(ch_request_chain *chain, ch_request_algorithm algorithm,
                                uint64_t parent, size_t block_size)
{
    if (block_size == 0 || block_size > UINT32_MAX)
        return CH_BLOCK_SIZE;
    chain->algorithm = algorithm;
    chain->block_size = (uint32_t)block_size;
    chain->open_tokens = 0;
    open_key key;
    open_block(&key, chain, parent);
    memcpy(chain->open_key, &key, sizeof key);
    return CH_OK;
}

size_t ch_request_chain_update(ch_request_chain *chain, const uint32_t *tokens, size_t token_count,
                               const uint8_t *extra, size_t extra_bytes, uint64_t *keys_p)
{
    open_key key;
    memcpy(&key, chain->open_key, sizeof key);
    size_t filled = 0;
    while (token_count > 0) {
        size_t run = chain->block_size - chain->open_tokens;
        run = run < token_count ? run : token_count;
        put_tokens(&key, chain, tokens, run);
        tokens += run;
        token_count -= run;
        chain->open_tokens += (uint32_t)run;
        if (chain->open_tokens == chain->block_size) {
            keys_p[filled] = close_block(&key, chain, extra, extra_bytes);
            open_block(&key, chain, keys_p[filled++]);
            chain->open_tokens = 0;
        }
    }
    memcpy(chain->open_key, &key, sizeof key);
    return filled;
}

ch_status ch_request_keys(ch_request_algorithm algorithm, uint64_t parent, size_t block_size,
                          const uint32_t *tokens, size_t token_count, uint64_t *keys_p)
{
    ch_request_chain chain;
    ch_status status = ch_request_chain_init(&chain, algorithm, parent, block_size);
    if (status == CH_OK)
        ch_request_chain_update(&chain, tokens, token_count / block_size * block_size, NULL, 0,
                                keys_p);
    return status;
}
