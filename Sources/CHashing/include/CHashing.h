/*
 * Prefix-hash chains over token ids: one key per full block, each naming everything before it.
 *
 *   Status      ch_status, ch_status_message
 *   Algorithms  ch_algorithm, ch_algorithm_name, ch_key_bytes
 *   Chains      ch_root, ch_chain_init, ch_hash, ch_sha256
 *   In two steps  ch_approximate_content, ch_approximate_keys
 *   Extra keys  ch_extra_keys_encode: what a block's key covers beside tokens
 *   Kernel      ch_kernel_name, ch_kernel_select: the code for this CPU
 *
 * Nothing here allocates or locks, and ch_hash cannot fail. A chain belongs to one thread at a
 * time and may be copied by assignment. All other functions may be called from any thread.
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
    XX(BLOCK_SIZE, -1, "the algorithm cannot hash blocks of so many tokens")                       \
    XX(KERNEL, -2, "no such kernel, or this CPU cannot run it")                                    \
    XX(ALGORITHM, -3, "the algorithm has no such thing")                                           \
    XX(EXTRA_KEY, -4, "the algorithm or the release has no place for such an extra key")           \
    XX(IDENTITY, -5, "equal strings in one block: their pickle depends on Python's objects")       \
    XX(TOO_LONG, -6, "the extra keys of one block are too long to be pickled in one frame")

typedef enum ch_status {
#define XX(name, value, message) CH_##name = value,
    CH_STATUS_MAP(XX)
#undef XX
} ch_status;

/* Static text. */
const char *ch_status_message(ch_status status);

/* ---- Algorithms ---- */

/* Name, value, bytes of a key, what a block's key is. Keys of 8 bytes are a uint64_t each. */
#define CH_ALGORITHM_MAP(XX)                                                                       \
    XX(SHA256_CBOR, 0, 32, "sha256_cbor") /* vLLM: canonical CBOR [parent, [tokens], extra] */     \
    XX(XXHASH_CBOR, 1, 16, "xxhash_cbor") /* vLLM: XXH3-128 of the same */                         \
    XX(SHA256, 2, 32, "sha256")           /* vLLM: pickle of (parent, (tokens), extra) */          \
    XX(XXHASH, 3, 16, "xxhash")           /* vLLM: XXH3-128 of the same */                         \
    XX(SGLANG, 4, 32, "sglang")           /* SGLang: SHA-256 of parent, tokens u32LE */            \
    XX(CBOR_FNV, 5, 8, "cbor-fnv")        /* llm-d: FNV-1a-64 of CBOR like vLLM's */               \
    XX(XXH64, 6, 8, "xxh64")              /* llm-d: XXH64 of parent u64LE, tokens u32LE, extra */  \
    XX(APPROXIMATE, 7, 8, "approximate")  /* llm-d: XXH64 of (XXH64 of tokens u32LE), parent */

typedef enum ch_algorithm {
#define XX(name, value, key_bytes, text) CH_##name = value,
    CH_ALGORITHM_MAP(XX)
#undef XX
} ch_algorithm;

enum { CH_KEY_BYTES_MAX = 32 };

const char *ch_algorithm_name(ch_algorithm algorithm);
size_t ch_key_bytes(ch_algorithm algorithm);

/* ---- Chains ---- */

/* Bytes of the caller's; none where `bytes` is NULL. */
typedef struct ch_bytes {
    const void *bytes;
    size_t count;
} ch_bytes;

typedef struct ch_chain {
    ch_algorithm algorithm;
    uint32_t block_size;
    uint8_t has_parent;
    uint8_t key[CH_KEY_BYTES_MAX]; /* of the last block */
} ch_chain;

/* The parent of a first block, ch_key_bytes long.
 *   vLLM       its NONE_HASH; seed: PYTHONHASHSEED, or "vllm-none-hash" where that is unset
 *   SGLang     with a cache salt, which is the seed; without one, a chain starts at NULL
 *   llm-d keys seed: `hashSeed`; model: its name, or that of the LoRA adapter
 *   approximate  seed: the cache salt or nothing; model: the target model */
void ch_root(ch_algorithm algorithm, ch_bytes seed, ch_bytes model, void *key_p);

/* Starts a chain after the block, or root, `parent`; NULL only for SGLang. */
ch_status ch_chain_init(ch_chain *chain, ch_algorithm algorithm, const void *parent,
                        size_t block_size);

/* Tokens that go on where a chain ends. */
typedef struct ch_job {
    ch_chain *chain;
    const uint32_t *tokens;
    size_t token_count;
    const ch_bytes *first_extra_keys; /* encoded, of the first blocks of these tokens in order */
    size_t first_extra_key_count;
    ch_bytes extra_keys; /* of each block beyond */
    void *keys_p;        /* room for token_count / block_size keys */
} ch_job;

/* Writes the keys of all full blocks and moves the chains behind them. Tokens that fill no block
 * are not taken: give them again, with those that follow. Two `sha256_cbor` jobs, of different
 * chains, cost little more than one. */
void ch_hash(const ch_job *jobs, size_t job_count);

/* CH_APPROXIMATE in two steps, of which the first needs no root. The content of a block is the
 * XXH64 of its tokens, u32LE; at a prompt's end there may be fewer of them than in other blocks. */
uint64_t ch_approximate_content(ch_bytes tokens);

/* The keys of blocks in a row after the root, or block, `parent`. `keys_p` may be `contents`. */
void ch_approximate_keys(uint64_t parent, const uint64_t *contents, size_t count,
                         uint64_t *keys_p);

void ch_sha256(ch_bytes message, uint8_t digest_p[32]);

/* ---- Extra keys ---- */

/* How vLLM writes them, by the first release that does so. */
typedef enum ch_extra_style {
    CH_STYLE_0_9,  /* LoRA by its number */
    CH_STYLE_0_14, /* LoRA by its name; prompt embeddings as tensor bytes, from 0.18 as SHA-256 */
    CH_STYLE_0_23, /* multimodal items with their offset */
    CH_STYLE_0_33, /* everything tagged with its kind; LoRA with its path */
} ch_extra_style;

typedef enum ch_extra_kind {
    CH_EXTRA_LORA,
    CH_EXTRA_MULTIMODAL,
    CH_EXTRA_CACHE_SALT,
    CH_EXTRA_PROMPT_EMBEDS,
} ch_extra_kind;

typedef struct ch_extra_key {
    ch_extra_kind kind;
    ch_bytes value; /* name, identifier, salt: UTF-8; embeddings: as the style says */
    ch_bytes path;  /* of a LoRA adapter */
    int64_t number; /* LoRA: its id; multimodal: the item's first token from the block's */
} ch_extra_key;

/* Encodes the keys of one block, sorted by kind as vLLM sorts them. `style` matters for vLLM only;
 * llm-d's keys know multimodal items and cache salt, the others none. lookahead: the tokens behind
 * the block that a speculating engine's key covers. Where *length_p exceeds the capacity, nothing
 * useful was written and a buffer of that size is needed. */
ch_status ch_extra_keys_encode(ch_algorithm algorithm, ch_extra_style style,
                               const ch_extra_key *keys, size_t key_count,
                               const uint32_t *lookahead, size_t lookahead_count, uint8_t *bytes,
                               size_t capacity_bytes, size_t *length_p);

/* ---- Kernel: chosen at the first call ---- */

/* The one in use: "sha-ni", "armv8", "openssl" or "portable". */
const char *ch_kernel_name(void);

/* For tests and measurements: the kernel of that name, or the best one for NULL. */
ch_status ch_kernel_select(const char *name);

#ifdef __cplusplus
}
#endif

#endif
