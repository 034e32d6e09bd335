#include "CHashingPeer.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

enum { PARENT_AT = 3, PARENT_BYTES = 32, MOST_HEAD_BYTES = 5, TOKEN_BYTES = 5, NULL_BYTES = 1 };
enum { PADDING_BYTES = 9 };

static size_t compressions(size_t message_bytes)
{
    return (message_bytes + PADDING_BYTES + 63) / 64;
}

struct chp_messages {
    size_t count, stride_bytes, compression_count;
    uint8_t *bytes;
    size_t *lengths_bytes;
};

static uint8_t *put_head(uint8_t *out, uint8_t major, uint32_t value)
{
    int width = value < 24 ? 0 : value < 1 << 8 ? 1 : value < 1 << 16 ? 2 : 4;
    *out++ = major | (width == 0 ? value : width == 1 ? 24 : width == 2 ? 25 : 26);
    for (int i = width - 1; i >= 0; i--)
        *out++ = (uint8_t)(value >> 8 * i);
    return out;
}

chp_messages *chp_messages_create(const uint32_t *tokens, size_t token_count, size_t block_size)
{
    chp_messages *messages = calloc(1, sizeof *messages);
    if (messages == NULL)
        return NULL;
    messages->count = token_count / block_size;
    messages->stride_bytes = 64 * compressions(PARENT_AT + PARENT_BYTES + MOST_HEAD_BYTES +
                                               block_size * TOKEN_BYTES + NULL_BYTES);
    messages->bytes = calloc(messages->count, messages->stride_bytes);
    messages->lengths_bytes = calloc(messages->count, sizeof *messages->lengths_bytes);
    if (messages->bytes == NULL || messages->lengths_bytes == NULL) {
        chp_messages_destroy(messages);
        return NULL;
    }
    for (size_t i = 0; i < messages->count; i++) {
        uint8_t *message = messages->bytes + i * messages->stride_bytes;
        memcpy(message, "\x83\x58\x20", PARENT_AT);
        uint8_t *end = put_head(message + PARENT_AT + PARENT_BYTES, 0x80, (uint32_t)block_size);
        for (size_t j = 0; j < block_size; j++)
            end = put_head(end, 0, tokens[i * block_size + j]);
        *end++ = 0xf6;
        messages->lengths_bytes[i] = (size_t)(end - message);
        messages->compression_count += compressions(messages->lengths_bytes[i]);
    }
    return messages;
}

void chp_messages_destroy(chp_messages *messages)
{
    if (messages == NULL)
        return;
    free(messages->bytes);
    free(messages->lengths_bytes);
    free(messages);
}

void chp_hash_chain(chp_messages *messages, const uint8_t root[32], uint8_t last_hash_p[32])
{
    memcpy(last_hash_p, root, PARENT_BYTES);
    for (size_t i = 0; i < messages->count; i++) {
        uint8_t *message = messages->bytes + i * messages->stride_bytes;
        memcpy(message + PARENT_AT, last_hash_p, PARENT_BYTES);
        SHA256_CTX context;
        SHA256_Init(&context);
        SHA256_Update(&context, message, messages->lengths_bytes[i]);
        SHA256_Final(last_hash_p, &context);
    }
}

void chp_compress(const chp_messages *messages, uint8_t hash_p[32])
{
    SHA256_CTX context;
    SHA256_Init(&context);
    SHA256_Update(&context, messages->bytes, 64 * messages->compression_count);
    SHA256_Final(hash_p, &context);
}
