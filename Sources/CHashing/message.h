/* A message that is hashed while it is written. One that fits the buffer is hashed at once. */
#ifndef CHASHING_MESSAGE_H
#define CHASHING_MESSAGE_H

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cbor.h"
#include "impl.h"

#pragma GCC visibility push(hidden)

typedef enum ch_digest {
    CH_DIGEST_SHA256,
    CH_DIGEST_XXH3,
    CH_DIGEST_XXH64,
    CH_DIGEST_FNV,
} ch_digest;

/* What may be reserved at once; tokens that surely fit it, whatever the serialisation. */
enum { CH_MESSAGE_BYTES = 1024, CH_RESERVE_BYTES = 512, CH_RUN_TOKENS = 64 };

typedef struct ch_message {
    const ch_kernel *kernel;
    ch_digest digest;
    size_t fill_bytes;
    uint64_t flushed_bytes;
    union {
        uint32_t sha256[8];
        XXH3_state_t xxh3;
        XXH64_state_t xxh64;
        uint64_t fnv;
    } state;
    uint8_t buffer[CH_MESSAGE_BYTES + CH_SLACK_BYTES];
} ch_message;

static_assert(CH_RUN_TOKENS * 7 + CH_SLACK_BYTES <= CH_RESERVE_BYTES, "a run fits");

void ch_message_begin(ch_message *message, ch_digest digest, const ch_kernel *kernel);
void ch_message_flush(ch_message *message);
void ch_message_append(ch_message *message, const void *bytes, size_t count);
/* Writes the digest: 32, 16 or 8 bytes. */
void ch_message_finish(ch_message *message, void *digest_p);

/* Where the message goes on, with room for CH_RESERVE_BYTES. */
static inline uint8_t *ch_message_reserve(ch_message *message)
{
    if (message->fill_bytes + CH_RESERVE_BYTES > CH_MESSAGE_BYTES)
        ch_message_flush(message);
    return message->buffer + message->fill_bytes;
}

static inline void ch_message_advance(ch_message *message, const uint8_t *end)
{
    message->fill_bytes = (size_t)(end - message->buffer);
}

static inline void ch_message_put_head(ch_message *message, uint8_t major, uint64_t value)
{
    ch_message_advance(message, cbor_put_head(ch_message_reserve(message), major, value));
}

static inline void ch_message_put_byte(ch_message *message, uint8_t byte)
{
    *ch_message_reserve(message) = byte;
    message->fill_bytes++;
}

#pragma GCC visibility pop

#endif
