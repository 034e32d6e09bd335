#include "message.h"

static const uint64_t fnv_basis = 0xcbf29ce484222325, fnv_prime = 0x100000001b3;

void ch_message_begin(ch_message *message, ch_digest digest, const ch_kernel *kernel)
{
    message->kernel = kernel;
    message->digest = digest;
    message->fill_bytes = 0;
    message->flushed_bytes = 0;
    if (digest == CH_DIGEST_SHA256)
        memcpy(message->state.sha256, ch_sha256_initial_state, sizeof message->state.sha256);
    else if (digest == CH_DIGEST_FNV)
        message->state.fnv = fnv_basis;
}

void ch_message_flush(ch_message *message)
{
    size_t count = message->fill_bytes;
    switch (message->digest) {
    case CH_DIGEST_SHA256:
        message->kernel->compress(message->state.sha256, message->buffer, count / 64);
        count = count / 64 * 64;
        break;
    case CH_DIGEST_XXH3:
        if (message->flushed_bytes == 0)
            XXH3_128bits_reset(&message->state.xxh3);
        XXH3_128bits_update(&message->state.xxh3, message->buffer, count);
        break;
    case CH_DIGEST_XXH64:
        if (message->flushed_bytes == 0)
            XXH64_reset(&message->state.xxh64, 0);
        XXH64_update(&message->state.xxh64, message->buffer, count);
        break;
    case CH_DIGEST_FNV:
        for (size_t i = 0; i < count; i++)
            message->state.fnv = (message->state.fnv ^ message->buffer[i]) * fnv_prime;
        break;
    }
    message->flushed_bytes += count;
    message->fill_bytes -= count;
    memcpy(message->buffer, message->buffer + count, message->fill_bytes);
}

void ch_message_append(ch_message *message, const void *bytes, size_t count)
{
    for (const uint8_t *next = bytes; count > 0;) {
        size_t part = count < CH_RESERVE_BYTES ? count : CH_RESERVE_BYTES;
        memcpy(ch_message_reserve(message), next, part);
        message->fill_bytes += part;
        next += part;
        count -= part;
    }
}

static void finish_sha256(ch_message *message, uint8_t *digest_p)
{
    uint64_t bits = __builtin_bswap64(8 * (message->flushed_bytes + message->fill_bytes));
    uint8_t *end = ch_message_reserve(message);
    memset(end, 0, 64 + sizeof bits);
    *end = 0x80;
    size_t block_count = (message->fill_bytes + 1 + sizeof bits + 63) / 64;
    memcpy(message->buffer + 64 * block_count - sizeof bits, &bits, sizeof bits);
    message->kernel->compress(message->state.sha256, message->buffer, block_count);
    for (int i = 0; i < 8; i++) {
        uint32_t word = __builtin_bswap32(message->state.sha256[i]);
        memcpy(digest_p + 4 * i, &word, sizeof word);
    }
}

void ch_message_finish(ch_message *message, void *digest_p)
{
    int is_whole = message->flushed_bytes == 0;
    uint64_t hash = 0;
    switch (message->digest) {
    case CH_DIGEST_SHA256:
        finish_sha256(message, digest_p);
        return;
    case CH_DIGEST_XXH3:
        if (!is_whole)
            ch_message_flush(message);
        XXH128_canonicalFromHash(digest_p,
                                 is_whole ? XXH3_128bits(message->buffer, message->fill_bytes)
                                          : XXH3_128bits_digest(&message->state.xxh3));
        return;
    case CH_DIGEST_XXH64:
        if (!is_whole)
            ch_message_flush(message);
        hash = is_whole ? XXH64(message->buffer, message->fill_bytes, 0)
                        : XXH64_digest(&message->state.xxh64);
        break;
    case CH_DIGEST_FNV:
        ch_message_flush(message);
        hash = message->state.fnv;
        break;
    }
    memcpy(digest_p, &hash, sizeof hash);
}
