/*
 * Prefix-hash chains over token ids: one hash per full block, each naming everything before it.
 *
 *   Status         ch_status, ch_status_message
 *   Block hashes   vLLM's `sha256_cbor`: ch_none_hash, ch_block_hashes, ch_block_chain_*
 *   Request keys   llm-d's `xxh64` and `cbor-fnv`: ch_request_root, ch_request_keys,
 *                  ch_request_chain_*
 *   Extra keys     what a hash covers beside tokens: ch_extra_keys_*, ch_request_extra_keys_*
 *   Kernel         ch_kernel_name, ch_kernel_select
 *
 * Nothing here allocates or locks. A chain belongs to one thread at a time and may be copied by
 * assignment; its fields are private. All other functions may be called from any thread.
 *
 * Both chains take tokens as they come. `extra` is the encoding of the extra keys of *every*
 * block that the call fills, or NULL for none; where they differ between blocks, split the call at
 * the block's end. `ch_*_chain_update` writes one hash for each block filled and returns their
 * number, which is (tokens in the open block + token_count) / block_size.
 */
#ifndef CHASHING_H
#define CHASHING_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CH_STATUS_MAP(XX)                                                                          \
    XX(OK, 0, "success")                                                                           \
    XX(BLOCK_SIZE, -1, "the block size is not between 1 and 4294967295 tokens")                    \
    XX(KERNEL, -2, "no such kernel, or this CPU cannot run it")

typedef enum ch_status {
#define XX(name, value, message) CH_##name = value,
    CH_STATUS_MAP(XX)
#undef XX
} ch_status;

/* Static text. */
const char *ch_status_message(ch_status status);

/* ---- Block hashes: SHA-256(canonical CBOR [parent, [tokens], extra keys or null]) ---- */

#define CH_HASH_BYTES 32

typedef struct ch_sha256 {
    uint32_t state[8];
    uint64_t compressed_bytes;
    size_t fill_bytes;
    uint8_t buffer[448];
} ch_sha256;

typedef struct ch_block_chain {
    uint32_t block_size, open_tokens;
    ch_sha256 message;
} ch_block_chain;

/* vLLM's NONE_HASH, the parent of a first block: SHA-256(CBOR text of the seed). The seed is the
 * engine's PYTHONHASHSEED, or "vllm-none-hash" where that is unset (vLLM >= 0.33). */
void ch_none_hash(const char *seed, size_t seed_bytes, uint8_t hash_p[CH_HASH_BYTES]);

/* Starts a chain after the block `parent`. */
ch_status ch_block_chain_init(ch_block_chain *chain, const uint8_t parent[CH_HASH_BYTES],
                              size_t block_size);

/* hashes_p: CH_HASH_BYTES for each block filled. */
size_t ch_block_chain_update(ch_block_chain *chain, const uint32_t *tokens, size_t token_count,
                             const uint8_t *extra, size_t extra_bytes, uint8_t *hashes_p);

/* All full blocks of a prompt without extra keys: token_count / block_size hashes. */
ch_status ch_block_hashes(const uint8_t parent[CH_HASH_BYTES], size_t block_size,
                          const uint32_t *tokens, size_t token_count, uint8_t *hashes_p);

/* ---- Request keys: 64 bits ---- */

typedef enum ch_request_algorithm {
    CH_REQUEST_XXH64 = 0,    /* XXH64, seed 0, of parent u64LE, tokens u32LE, extra keys */
    CH_REQUEST_CBOR_FNV = 1, /* FNV-1a-64 of canonical CBOR [parent, [tokens], extra or null] */
} ch_request_algorithm;

typedef struct ch_request_chain {
    ch_request_algorithm algorithm;
    uint32_t block_size, open_tokens;
    uint64_t open_key[11];
} ch_request_chain;

/* The parent of a first block. `model` is the name of the LoRA adapter where one is used. */
uint64_t ch_request_root(ch_request_algorithm algorithm, const char *seed, size_t seed_bytes,
                         const char *model, size_t model_bytes);

/* Starts a chain after the key `parent`. */
ch_status ch_request_chain_init(ch_request_chain *chain, ch_request_algorithm algorithm,
                                uint64_t parent, size_t block_size);

size_t ch_request_chain_update(ch_request_chain *chain, const uint32_t *tokens, size_t token_count,
                               const uint8_t *extra, size_t extra_bytes, uint64_t *keys_p);

/* All full blocks of a prompt without extra keys: token_count / block_size keys. */
ch_status ch_request_keys(ch_request_algorithm algorithm, uint64_t parent, size_t block_size,
                          const uint32_t *tokens, size_t token_count, uint64_t *keys_p);

/* ---- Extra keys: `_begin` with the number of keys, then that many keys ---- */

/* Bytes past `capacity_bytes` are counted in `length_bytes` but not written: where it ends up
 * larger, the encoding is incomplete and fits a buffer of that size. */
typedef struct ch_writer {
    uint8_t *bytes;
    size_t capacity_bytes;
    size_t length_bytes;
} ch_writer;

/* Of block hashes, in the tagged forms of vLLM 0.33, which orders them as listed here. */
void ch_extra_keys_begin(ch_writer *writer, size_t key_count);
void ch_extra_key_lora(ch_writer *writer, const char *name, size_t name_bytes, const char *path,
                       size_t path_bytes);
/* offset: of the item's first token from the block's, negative for one that began before it. */
void ch_extra_key_multimodal(ch_writer *writer, const char *identifier, size_t identifier_bytes,
                             int64_t offset);
void ch_extra_key_cache_salt(ch_writer *writer, const char *salt, size_t salt_bytes);
/* digest: SHA-256 of the block's prompt embeddings. */
void ch_extra_key_prompt_embeds(ch_writer *writer, const uint8_t digest[CH_HASH_BYTES]);

/* Of request keys: hashes of the block's multimodal items in their order, then the cache salt. */
void ch_request_extra_keys_begin(ch_writer *writer, ch_request_algorithm algorithm,
                                 size_t key_count);
void ch_request_extra_key(ch_writer *writer, ch_request_algorithm algorithm, const char *key,
                          size_t key_bytes);

/* ---- Kernel: the code for this CPU, chosen at the first call ---- */

/* The one in use: "portable" or "sha-ni". */
const char *ch_kernel_name(void);

/* For tests and measurements: the kernel of that name, or the best one for NULL. */
ch_status ch_kernel_select(const char *name);

#ifdef __cplusplus
}
#endif

#endif
