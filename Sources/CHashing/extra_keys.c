/* What a hash covers beside the parent and the tokens. */
#include "cbor.h"
#include "impl.h"

static void put(ch_writer *writer, const void *bytes, size_t count)
{
    if (writer->length_bytes <= writer->capacity_bytes &&
        count <= writer->capacity_bytes - writer->length_bytes && count > 0)
        memcpy(writer->bytes + writer->length_bytes, bytes, count);
    writer->length_bytes += count;
}

static void put_head(ch_writer *writer, uint8_t major, uint64_t value)
{
    uint8_t head[CBOR_HEAD_BYTES];
    put(writer, head, (size_t)(cbor_put_head(head, major, value) - head));
}

static void put_text(ch_writer *writer, const char *text, size_t text_bytes)
{
    put_head(writer, CBOR_TEXT, text_bytes);
    put(writer, text, text_bytes);
}

static void put_tag(ch_writer *writer, size_t item_count, const char *tag)
{
    put_head(writer, CBOR_ARRAY, item_count);
    put_text(writer, tag, strlen(tag));
}

void ch_extra_keys_begin(ch_writer *writer, size_t key_count)
{
    put_head(writer, CBOR_ARRAY, key_count);
}

void ch_extra_key_lora(ch_writer *writer, const char *name, size_t name_bytes, const char *path,
                       size_t path_bytes)
{
    put_tag(writer, 3, "lora");
    put_text(writer, name, name_bytes);
    put_text(writer, path, path_bytes);
}

void ch_extra_key_multimodal(ch_writer *writer, const char *identifier, size_t identifier_bytes,
                             int64_t offset)
{
    put_tag(writer, 3, "mm");
    put_text(writer, identifier, identifier_bytes);
    /* CBOR has -1 - n for negative integers: the complement's bits. */
    if (offset < 0)
        put_head(writer, CBOR_NEGATIVE, ~(uint64_t)offset);
    else
        put_head(writer, CBOR_UNSIGNED, (uint64_t)offset);
}

void ch_extra_key_cache_salt(ch_writer *writer, const char *salt, size_t salt_bytes)
{
    put_tag(writer, 2, "cache_salt");
    put_text(writer, salt, salt_bytes);
}

void ch_extra_key_prompt_embeds(ch_writer *writer, const uint8_t digest[CH_HASH_BYTES])
{
    put_tag(writer, 2, "prompt_embeds");
    put_head(writer, CBOR_BYTES, CH_HASH_BYTES);
    put(writer, digest, CH_HASH_BYTES);
}

void ch_request_extra_keys_begin(ch_writer *writer, ch_request_algorithm algorithm,
                                 size_t key_count)
{
    if (algorithm == CH_REQUEST_CBOR_FNV)
        put_head(writer, CBOR_ARRAY, key_count);
}

void ch_request_extra_key(ch_writer *writer, ch_request_algorithm algorithm, const char *key,
                          size_t key_bytes)
{
    switch (algorithm) {
    case CH_REQUEST_XXH64: {
        uint64_t length = key_bytes;
        put(writer, &length, sizeof length);
        put(writer, key, key_bytes);
        break;
    }
    case CH_REQUEST_CBOR_FNV:
        /* The field name of the Go struct that llm-d encodes. */
        put_head(writer, CBOR_MAP, 1);
        put_text(writer, "Hash", strlen("Hash"));
        put_text(writer, key, key_bytes);
        break;
    }
}
