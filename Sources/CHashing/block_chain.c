/* vLLM's `sha256_cbor` block hashes. A block's CBOR is written straight into the buffer that is
 * compressed, which need not hold all of it: the block size has no bound. */
#include "cbor.h"
#include "impl.h"

enum { COMPRESSION_BYTES = 64, BUFFER_BYTES = sizeof((ch_sha256 *)0)->buffer };

/* What padding a message may write, its 8 bytes of length included. */
enum { PADDING_BYTES = COMPRESSION_BYTES + 8 };

/* Tokens encoded between two looks at the room left, and the room they need. */
enum { RUN_TOKENS = 64, RUN_BYTES = RUN_TOKENS * CBOR_TOKEN_BYTES + CH_SLACK_BYTES };

static_assert(BUFFER_BYTES % COMPRESSION_BYTES == 0 && RUN_BYTES > PADDING_BYTES &&
                  COMPRESSION_BYTES - 1 + RUN_BYTES <= BUFFER_BYTES,
              "a run of tokens fits behind an incomplete compression block");

static void start(ch_sha256 *message)
{
    static const uint32_t initial_state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                              0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(message->state, initial_state, sizeof message->state);
    message->compressed_bytes = 0;
    message->fill_bytes = 0;
}

/* Where the message goes on, with room for `bytes`, at most RUN_BYTES. */
static uint8_t *reserve(ch_sha256 *message, const ch_kernel *kernel, size_t bytes)
{
    if (message->fill_bytes + bytes > BUFFER_BYTES) {
        size_t full_bytes = message->fill_bytes / COMPRESSION_BYTES * COMPRESSION_BYTES;
        kernel->compress(message->state, message->buffer, full_bytes / COMPRESSION_BYTES);
        message->compressed_bytes += full_bytes;
        message->fill_bytes -= full_bytes;
        memcpy(message->buffer, message->buffer + full_bytes, message->fill_bytes);
    }
    return message->buffer + message->fill_bytes;
}

static void advance(ch_sha256 *message, const uint8_t *end)
{
    message->fill_bytes = (size_t)(end - message->buffer);
}

static void append(ch_sha256 *message, const ch_kernel *kernel, const uint8_t *bytes, size_t count)
{
    while (count > 0) {
        size_t part = count < RUN_BYTES ? count : RUN_BYTES;
        memcpy(reserve(message, kernel, part), bytes, part);
        message->fill_bytes += part;
        bytes += part;
        count -= part;
    }
}

static void finish(ch_sha256 *message, const ch_kernel *kernel, uint8_t hash_p[CH_HASH_BYTES])
{
    uint8_t *end = reserve(message, kernel, PADDING_BYTES);
    memset(end, 0, PADDING_BYTES);
    *end = 0x80;
    size_t block_count = (message->fill_bytes + PADDING_BYTES) / COMPRESSION_BYTES;
    uint64_t bits = __builtin_bswap64(8 * (message->compressed_bytes + message->fill_bytes));
    memcpy(message->buffer + block_count * COMPRESSION_BYTES - sizeof bits, &bits, sizeof bits);
    kernel->compress(message->state, message->buffer, block_count);
    for (int i = 0; i < 8; i++) {
        uint32_t word = __builtin_bswap32(message->state[i]);
        memcpy(hash_p + 4 * i, &word, sizeof word);
    }
}

static void open_block(ch_block_chain *chain, const uint8_t parent[CH_HASH_BYTES])
{
    start(&chain->message);
    uint8_t *end = cbor_put_head(chain->message.buffer, CBOR_ARRAY, 3);
    end = cbor_put_head(end, CBOR_BYTES, CH_HASH_BYTES);
    memcpy(end, parent, CH_HASH_BYTES);
    end = cbor_put_head(end + CH_HASH_BYTES, CBOR_ARRAY, chain->block_size);
    advance(&chain->message, end);
    chain->open_tokens = 0;
}

static void close_block(ch_block_chain *chain, const ch_kernel *kernel, const uint8_t *extra,
                        size_t extra_bytes, uint8_t hash_p[CH_HASH_BYTES])
{
    static const uint8_t null = CBOR_NULL;
    if (extra == NULL)
        append(&chain->message, kernel, &null, sizeof null);
    else
        append(&chain->message, kernel, extra, extra_bytes);
    finish(&chain->message, kernel, hash_p);
    open_block(chain, hash_p);
}

void ch_none_hash(const char *seed, size_t seed_bytes, uint8_t hash_p[CH_HASH_BYTES])
{
    const ch_kernel *kernel = ch_selected_kernel();
    ch_sha256 message;
    start(&message);
    advance(&message, cbor_put_head(message.buffer, CBOR_TEXT, seed_bytes));
    append(&message, kernel, (const uint8_t *)seed, seed_bytes);
    finish(&message, kernel, hash_p);
}

ch_status ch_block_chain_init(ch_block_chain *chain, const uint8_t parent[CH_HASH_BYTES],
                              size_t block_size)
{
    if (block_size == 0 || block_size > UINT32_MAX)
        return CH_BLOCK_SIZE;
    chain->block_size = (uint32_t)block_size;
    open_block(chain, parent);
    return CH_OK;
}

size_t ch_block_chain_update(ch_block_chain *chain, const uint32_t *tokens, size_t token_count,
                             const uint8_t *extra, size_t extra_bytes, uint8_t *hashes_p)
{
    const ch_kernel *kernel = ch_selected_kernel();
    size_t filled = 0;
    while (token_count > 0) {
        size_t run = chain->block_size - chain->open_tokens;
        run = run < token_count ? run : token_count;
        run = run < RUN_TOKENS ? run : RUN_TOKENS;
        uint8_t *out = reserve(&chain->message, kernel, RUN_BYTES);
        advance(&chain->message, kernel->put_tokens(out, tokens, run));
        tokens += run;
        token_count -= run;
        chain->open_tokens += (uint32_t)run;
        if (chain->open_tokens == chain->block_size)
            close_block(chain, kernel, extra, extra_bytes, hashes_p + CH_HASH_BYTES * filled++);
    }
    return filled;
}

ch_status ch_block_hashes(const uint8_t parent[CH_HASH_BYTES], size_t block_size,
                          const uint32_t *tokens, size_t token_count, uint8_t *hashes_p)
{
    ch_block_chain chain;
    ch_status status = ch_block_chain_init(&chain, parent, block_size);
    if (status == CH_OK)
        ch_block_chain_update(&chain, tokens, token_count / block_size * block_size, NULL, 0,
                              hashes_p);
    return status;
}
