/* Blocks as messages, one after the other. */
#include "message.h"
#include "pickle.h"

static const struct {
    const char *name;
    size_t key_bytes;
} algorithms[] = {
#define XX(name, value, key_bytes, text) [CH_##name] = {text, key_bytes},
    CH_ALGORITHM_MAP(XX)
#undef XX
};

const char *ch_algorithm_name(ch_algorithm algorithm)
{
    return algorithms[algorithm].name;
}

size_t ch_key_bytes(ch_algorithm algorithm)
{
    return algorithms[algorithm].key_bytes;
}

static ch_digest digest_of(ch_algorithm algorithm)
{
    switch (algorithm) {
    case CH_SHA256_CBOR:
    case CH_SHA256:
    case CH_SGLANG:
        return CH_DIGEST_SHA256;
    case CH_XXHASH_CBOR:
    case CH_XXHASH:
        return CH_DIGEST_XXH3;
    case CH_CBOR_FNV:
        return CH_DIGEST_FNV;
    case CH_XXH64:
    case CH_APPROXIMATE:
        return CH_DIGEST_XXH64;
    }
    return CH_DIGEST_SHA256;
}

/* ---- Serialisations ---- */

static const uint8_t cbor_null = CBOR_NULL, pickle_none = PICKLE_NONE;

static ch_bytes extra_or(ch_bytes extra, const uint8_t *nothing)
{
    return extra.bytes != NULL ? extra : (ch_bytes){nothing, 1};
}

static void put_cbor_tokens(ch_message *message, const uint32_t *tokens, size_t count)
{
    ch_message_put_head(message, CBOR_ARRAY, count);
    while (count > 0) {
        size_t run = count < CH_RUN_TOKENS ? count : CH_RUN_TOKENS;
        uint8_t *out = ch_message_reserve(message);
        ch_message_advance(message, message->kernel->put_tokens(out, tokens, run));
        tokens += run;
        count -= run;
    }
}

/* [parent, [tokens], extra]: `parent` is behind the head of its item. */
static void put_cbor(ch_message *message, uint8_t parent_major, uint64_t parent_value,
                     ch_bytes parent, const uint32_t *tokens, size_t count, ch_bytes extra)
{
    ch_message_put_head(message, CBOR_ARRAY, 3);
    ch_message_put_head(message, parent_major, parent_value);
    ch_message_append(message, parent.bytes, parent.count);
    put_cbor_tokens(message, tokens, count);
    extra = extra_or(extra, &cbor_null);
    ch_message_append(message, extra.bytes, extra.count);
}

static void put_pickle_start(ch_message *message, uint64_t body_bytes)
{
    ch_message_append(message, pickle_start, sizeof pickle_start);
    ch_message_append(message, &body_bytes, sizeof body_bytes);
}

/* (parent, (tokens), extra), all of it in one frame. */
static void put_pickle(ch_message *message, ch_bytes parent, const uint32_t *tokens, size_t count,
                       ch_bytes extra)
{
    extra = extra_or(extra, &pickle_none);
    int is_marked = count > 3;
    size_t tokens_bytes = 0;
    for (size_t i = 0; i < count; i++)
        tokens_bytes += pickle_token_bytes(tokens[i]);
    put_pickle_start(message, 3 + parent.count + (size_t)is_marked + tokens_bytes + 2 +
                                  extra.count + 3);
    const uint8_t parent_head[2] = {PICKLE_SHORT_BYTES, (uint8_t)parent.count};
    ch_message_append(message, parent_head, sizeof parent_head);
    ch_message_append(message, parent.bytes, parent.count);
    ch_message_put_byte(message, PICKLE_MEMOIZE);
    if (is_marked)
        ch_message_put_byte(message, PICKLE_MARK);
    for (size_t done = 0; done < count;) {
        size_t end = count - done < CH_RUN_TOKENS ? count : done + CH_RUN_TOKENS;
        uint8_t *out = ch_message_reserve(message);
        for (; done < end; done++)
            out = pickle_put_int(out, tokens[done]);
        ch_message_advance(message, out);
    }
    ch_message_advance(message, pickle_put_tuple_end(ch_message_reserve(message), count));
    ch_message_append(message, extra.bytes, extra.count);
    ch_message_advance(message, pickle_put_tuple_end(ch_message_reserve(message), 3));
    ch_message_put_byte(message, PICKLE_STOP);
}

/* Hashes the block after `parent`; key_p may be parent.bytes. */
static void hash_block(ch_algorithm algorithm, const ch_kernel *kernel, ch_bytes parent,
                       const uint32_t *tokens, size_t count, ch_bytes extra, void *key_p)
{
    ch_message message;
    ch_message_begin(&message, digest_of(algorithm), kernel);
    switch (algorithm) {
    case CH_SHA256_CBOR:
    case CH_XXHASH_CBOR:
        put_cbor(&message, CBOR_BYTES, parent.count, parent, tokens, count, extra);
        break;
    case CH_SHA256:
    case CH_XXHASH:
        put_pickle(&message, parent, tokens, count, extra);
        break;
    case CH_CBOR_FNV: {
        uint64_t value;
        memcpy(&value, parent.bytes, sizeof value);
        put_cbor(&message, CBOR_UNSIGNED, value, (ch_bytes){NULL, 0}, tokens, count, extra);
        break;
    }
    case CH_SGLANG:
    case CH_XXH64:
        ch_message_append(&message, parent.bytes, parent.count);
        ch_message_append(&message, tokens, count * sizeof *tokens);
        ch_message_append(&message, extra.bytes, extra.count);
        break;
    case CH_APPROXIMATE: {
        uint64_t block = XXH64(tokens, count * sizeof *tokens, 0);
        ch_message_append(&message, &block, sizeof block);
        ch_message_append(&message, parent.bytes, parent.count);
        break;
    }
    }
    ch_message_finish(&message, key_p);
}

/* ---- Chains ---- */

/* Bounds the pickle of a block to one frame, together with CH_PICKLED_EXTRA_BYTES. */
enum { PICKLED_TOKENS_MAX = 4096 };

ch_status ch_chain_init(ch_chain *chain, ch_algorithm algorithm, const void *parent,
                        size_t block_size)
{
    int is_pickled = algorithm == CH_SHA256 || algorithm == CH_XXHASH;
    if (block_size == 0 || block_size > (is_pickled ? PICKLED_TOKENS_MAX : UINT32_MAX))
        return CH_BLOCK_SIZE;
    if (parent == NULL && algorithm != CH_SGLANG)
        return CH_ALGORITHM;
    *chain = (ch_chain){.algorithm = algorithm, .block_size = (uint32_t)block_size};
    if (parent != NULL) {
        chain->has_parent = 1;
        memcpy(chain->key, parent, ch_key_bytes(algorithm));
    }
    return CH_OK;
}

static ch_bytes parent_of(const ch_chain *chain)
{
    return (ch_bytes){chain->key, chain->has_parent ? ch_key_bytes(chain->algorithm) : 0};
}

static void hash_job(const ch_job *job, const ch_kernel *kernel)
{
    ch_chain *chain = job->chain;
    size_t key_bytes = ch_key_bytes(chain->algorithm);
    size_t block_count = job->token_count / chain->block_size;
    uint8_t *keys = job->keys_p;
    for (size_t i = 0; i < block_count; i++) {
        hash_block(chain->algorithm, kernel, parent_of(chain),
                   job->tokens + i * chain->block_size, chain->block_size, ch_extra_of(job, i),
                   chain->key);
        chain->has_parent = 1;
        memcpy(keys + i * key_bytes, chain->key, key_bytes);
    }
}

/* Whether the messages of all blocks fit a lane, with padding and what a kernel writes beyond. */
static int fits_lane(const ch_job *job)
{
    enum { PREFIX_BYTES = 3 + 32 + 5, PADDING_BYTES = 72 + CH_SLACK_BYTES };
    const ch_chain *chain = job->chain;
    size_t room = CH_LANE_BYTES - PREFIX_BYTES - PADDING_BYTES;
    if (chain->algorithm != CH_SHA256_CBOR || chain->block_size > room / CBOR_TOKEN_BYTES)
        return 0;
    room -= chain->block_size * CBOR_TOKEN_BYTES;
    for (size_t i = 0; i < job->first_extra_key_count; i++)
        if (job->first_extra_keys[i].count > room)
            return 0;
    return job->extra_keys.count <= room;
}

void ch_hash(const ch_job *jobs, size_t job_count)
{
    const ch_kernel *kernel = ch_selected_kernel();
    while (job_count > 0) {
        size_t count = 0;
        if (kernel->hash_cbor_jobs != NULL)
            while (count < job_count && fits_lane(&jobs[count]))
                count++;
        if (count > 0)
            kernel->hash_cbor_jobs(jobs, count);
        else
            hash_job(&jobs[count++], kernel);
        jobs += count;
        job_count -= count;
    }
}

/* ---- Approximate keys in two steps ---- */

uint64_t ch_approximate_content(ch_bytes tokens)
{
    return XXH64(tokens.bytes, tokens.count, 0);
}

void ch_approximate_keys(uint64_t parent, const uint64_t *contents, size_t count,
                         uint64_t *keys_p)
{
    for (size_t i = 0; i < count; i++) {
        const uint64_t content_and_parent[2] = {contents[i], parent};
        parent = keys_p[i] = XXH64(content_and_parent, sizeof content_and_parent, 0);
    }
}

/* ---- Roots ---- */

void ch_sha256(ch_bytes bytes, uint8_t digest_p[32])
{
    ch_message message;
    ch_message_begin(&message, CH_DIGEST_SHA256, ch_selected_kernel());
    ch_message_append(&message, bytes.bytes, bytes.count);
    ch_message_finish(&message, digest_p);
}

static uint64_t short_digest(ch_digest digest, ch_bytes bytes)
{
    ch_message message;
    uint64_t hash;
    ch_message_begin(&message, digest, ch_selected_kernel());
    ch_message_append(&message, bytes.bytes, bytes.count);
    ch_message_finish(&message, &hash);
    return hash;
}

void ch_root(ch_algorithm algorithm, ch_bytes seed, ch_bytes model, void *key_p)
{
    static const char sglang_salt[] = "sglang-cache-salt-v1"; /* its final zero included */
    ch_message message;
    ch_message_begin(&message, digest_of(algorithm), ch_selected_kernel());
    switch (algorithm) {
    case CH_SHA256_CBOR:
    case CH_XXHASH_CBOR:
        ch_message_put_head(&message, CBOR_TEXT, seed.count);
        ch_message_append(&message, seed.bytes, seed.count);
        break;
    case CH_SHA256:
    case CH_XXHASH: {
        int is_short = seed.count <= UINT8_MAX;
        put_pickle_start(&message, (is_short ? 2 : 5) + seed.count + 2);
        ch_message_put_byte(&message, is_short ? PICKLE_SHORT_STRING : PICKLE_STRING);
        ch_message_append(&message, &(uint32_t){(uint32_t)seed.count}, is_short ? 1 : 4);
        ch_message_append(&message, seed.bytes, seed.count);
        ch_message_put_byte(&message, PICKLE_MEMOIZE);
        ch_message_put_byte(&message, PICKLE_STOP);
        break;
    }
    case CH_SGLANG:
        ch_message_append(&message, sglang_salt, sizeof sglang_salt);
        ch_message_append(&message, seed.bytes, seed.count);
        break;
    case CH_CBOR_FNV:
        ch_message_put_head(&message, CBOR_ARRAY, 3);
        ch_message_put_head(&message, CBOR_UNSIGNED, short_digest(CH_DIGEST_FNV, seed));
        ch_message_put_byte(&message, CBOR_NULL);
        ch_message_put_head(&message, CBOR_TEXT, model.count);
        ch_message_append(&message, model.bytes, model.count);
        break;
    case CH_XXH64: {
        uint64_t seed_and_length[2] = {short_digest(CH_DIGEST_XXH64, seed), model.count};
        ch_message_append(&message, seed_and_length, sizeof seed_and_length);
        ch_message_append(&message, model.bytes, model.count);
        break;
    }
    case CH_APPROXIMATE:
        ch_message_append(&message, model.bytes, model.count);
        ch_message_append(&message, seed.bytes, seed.count);
        break;
    }
    ch_message_finish(&message, key_p);
}
