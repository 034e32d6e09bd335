/* What a key covers beside the parent and the tokens. */
#include "cbor.h"
#include "impl.h"
#include "pickle.h"

/* The longest pickle of one block's extra keys: with the tokens it stays within a frame. */
enum { PICKLED_EXTRA_BYTES_MAX = PICKLE_FRAME_BYTES / 2 };

typedef enum format {
    FORMAT_NONE,
    FORMAT_CBOR,
    FORMAT_PICKLE,
    FORMAT_HASH_MAPS,
    FORMAT_LENGTHS,
} format;

typedef struct writer {
    format format;
    uint8_t *bytes;
    size_t capacity_bytes, length_bytes;
    /* Of a pickle: objects memoised so far, and where each tag is among them; 0 for not yet. */
    uint32_t memo_count;
    uint32_t tag_memo[4];
} writer;

static const char *const tags[] = {
    [CH_EXTRA_LORA] = "lora",
    [CH_EXTRA_MULTIMODAL] = "mm",
    [CH_EXTRA_CACHE_SALT] = "cache_salt",
    [CH_EXTRA_PROMPT_EMBEDS] = "prompt_embeds",
};

static format format_of(ch_algorithm algorithm)
{
    switch (algorithm) {
    case CH_SHA256_CBOR:
    case CH_XXHASH_CBOR:
        return FORMAT_CBOR;
    case CH_SHA256:
    case CH_XXHASH:
        return FORMAT_PICKLE;
    case CH_CBOR_FNV:
        return FORMAT_HASH_MAPS;
    case CH_XXH64:
        return FORMAT_LENGTHS;
    case CH_SGLANG:
    case CH_APPROXIMATE:
        break;
    }
    return FORMAT_NONE;
}

static void put(writer *w, const void *bytes, size_t count)
{
    if (count > 0 && w->length_bytes <= w->capacity_bytes &&
        count <= w->capacity_bytes - w->length_bytes)
        memcpy(w->bytes + w->length_bytes, bytes, count);
    w->length_bytes += count;
}

static void put_cbor_head(writer *w, uint8_t major, uint64_t value)
{
    uint8_t head[CBOR_HEAD_BYTES];
    put(w, head, (size_t)(cbor_put_head(head, major, value) - head));
}

static void put_opcode(writer *w, uint8_t opcode)
{
    put(w, &opcode, 1);
}

/* The head of bytes or a string: `short_opcode` with a length of one byte where that suffices. */
static void put_pickle_head(writer *w, uint8_t short_opcode, uint8_t opcode, size_t count)
{
    int is_short = count <= UINT8_MAX;
    uint32_t count32 = (uint32_t)count;
    put_opcode(w, is_short ? short_opcode : opcode);
    put(w, &count32, is_short ? 1 : sizeof count32);
}

static void memoize(writer *w)
{
    put_opcode(w, PICKLE_MEMOIZE);
    w->memo_count++;
}

static void put_text(writer *w, ch_bytes text)
{
    if (w->format == FORMAT_PICKLE)
        put_pickle_head(w, PICKLE_SHORT_STRING, PICKLE_STRING, text.count);
    else
        put_cbor_head(w, CBOR_TEXT, text.count);
    put(w, text.bytes, text.count);
    if (w->format == FORMAT_PICKLE)
        memoize(w);
}

static void put_bytes(writer *w, ch_bytes bytes)
{
    if (w->format == FORMAT_PICKLE)
        put_pickle_head(w, PICKLE_SHORT_BYTES, PICKLE_BYTES, bytes.count);
    else
        put_cbor_head(w, CBOR_BYTES, bytes.count);
    put(w, bytes.bytes, bytes.count);
    if (w->format == FORMAT_PICKLE)
        memoize(w);
}

static void put_int(writer *w, int64_t value)
{
    if (w->format == FORMAT_PICKLE) {
        uint8_t bytes[PICKLE_INT_BYTES];
        put(w, bytes, (size_t)(pickle_put_int(bytes, value) - bytes));
    } else if (value < 0) {
        put_cbor_head(w, CBOR_NEGATIVE, ~(uint64_t)value); /* -1 - n: the complement's bits */
    } else {
        put_cbor_head(w, CBOR_UNSIGNED, (uint64_t)value);
    }
}

static void begin_tuple(writer *w, size_t count)
{
    if (w->format != FORMAT_PICKLE)
        put_cbor_head(w, CBOR_ARRAY, count);
    else if (count > 3)
        put_opcode(w, PICKLE_MARK);
}

static void end_tuple(writer *w, size_t count)
{
    if (w->format != FORMAT_PICKLE)
        return;
    uint8_t end[2];
    put(w, end, (size_t)(pickle_put_tuple_end(end, count) - end));
    w->memo_count++;
}

/* The tag is one object in all of vLLM: a pickle names it again by its place in the memo. */
static void put_tag(writer *w, ch_extra_kind kind)
{
    ch_bytes tag = {tags[kind], strlen(tags[kind])};
    if (w->format != FORMAT_PICKLE || w->tag_memo[kind] == 0) {
        w->tag_memo[kind] = w->memo_count;
        put_text(w, tag);
    } else if (w->tag_memo[kind] <= UINT8_MAX) {
        put_opcode(w, PICKLE_MEMO);
        put(w, &w->tag_memo[kind], 1);
    } else {
        put_opcode(w, PICKLE_LONG_MEMO);
        put(w, &w->tag_memo[kind], sizeof w->tag_memo[kind]);
    }
}

static void put_tagged(writer *w, const ch_extra_key *key)
{
    size_t count = key->kind == CH_EXTRA_LORA || key->kind == CH_EXTRA_MULTIMODAL ? 3 : 2;
    begin_tuple(w, count);
    put_tag(w, key->kind);
    if (key->kind == CH_EXTRA_PROMPT_EMBEDS)
        put_bytes(w, key->value);
    else
        put_text(w, key->value);
    if (key->kind == CH_EXTRA_LORA)
        put_text(w, key->path);
    else if (key->kind == CH_EXTRA_MULTIMODAL)
        put_int(w, key->number);
    end_tuple(w, count);
}

static ch_status put_untagged(writer *w, ch_extra_style style, const ch_extra_key *key)
{
    switch (key->kind) {
    case CH_EXTRA_LORA:
        if (style == CH_STYLE_0_9)
            put_int(w, key->number);
        else
            put_text(w, key->value);
        return CH_OK;
    case CH_EXTRA_MULTIMODAL:
        if (style == CH_STYLE_0_23)
            begin_tuple(w, 2);
        put_text(w, key->value);
        if (style == CH_STYLE_0_23) {
            put_int(w, key->number);
            end_tuple(w, 2);
        }
        return CH_OK;
    case CH_EXTRA_CACHE_SALT:
        put_text(w, key->value);
        return CH_OK;
    case CH_EXTRA_PROMPT_EMBEDS:
        if (style == CH_STYLE_0_9)
            return CH_EXTRA_KEY;
        put_bytes(w, key->value);
        return CH_OK;
    }
    return CH_EXTRA_KEY;
}

/* A key of llm-d's: a map with the field name of its Go struct, or its length and itself. */
static ch_status put_request_key(writer *w, const ch_extra_key *key)
{
    static const ch_bytes field = {"Hash", 4};
    if (key->kind != CH_EXTRA_MULTIMODAL && key->kind != CH_EXTRA_CACHE_SALT)
        return CH_EXTRA_KEY;
    if (w->format == FORMAT_HASH_MAPS) {
        put_cbor_head(w, CBOR_MAP, 1);
        put_text(w, field);
        put_text(w, key->value);
    } else {
        uint64_t length = key->value.count;
        put(w, &length, sizeof length);
        put(w, key->value.bytes, key->value.count);
    }
    return CH_OK;
}

static int are_equal(ch_bytes a, ch_bytes b)
{
    return a.count == b.count && (a.count == 0 || memcmp(a.bytes, b.bytes, a.count) == 0);
}

/* Whether two strings of a block are equal: if they are one object in Python, a pickle writes it
 * once, and nothing here can know. */
static int has_equal_strings(const ch_extra_key *keys, size_t key_count)
{
    for (size_t i = 0; i < key_count; i++) {
        if (keys[i].kind == CH_EXTRA_LORA && are_equal(keys[i].value, keys[i].path))
            return 1;
        for (size_t kind = 0; kind < sizeof tags / sizeof *tags; kind++)
            if (are_equal(keys[i].value, (ch_bytes){tags[kind], strlen(tags[kind])}))
                return 1;
        for (size_t j = 0; j < i; j++)
            if (are_equal(keys[i].value, keys[j].value) ||
                (keys[j].kind == CH_EXTRA_LORA && are_equal(keys[i].value, keys[j].path)))
                return 1;
    }
    return 0;
}

static ch_status put_keys(writer *w, ch_extra_style style, const ch_extra_key *keys,
                          size_t key_count)
{
    ch_status status = CH_OK;
    int is_request = w->format == FORMAT_HASH_MAPS || w->format == FORMAT_LENGTHS;
    if (w->format != FORMAT_LENGTHS)
        begin_tuple(w, key_count);
    for (ch_extra_kind kind = CH_EXTRA_LORA; kind <= CH_EXTRA_PROMPT_EMBEDS; kind++) {
        for (size_t i = 0; i < key_count && status == CH_OK; i++) {
            if (keys[i].kind != kind)
                continue;
            if (is_request)
                status = put_request_key(w, &keys[i]);
            else if (style == CH_STYLE_0_33)
                put_tagged(w, &keys[i]);
            else
                status = put_untagged(w, style, &keys[i]);
        }
    }
    end_tuple(w, key_count);
    return status;
}

ch_status ch_extra_keys_encode(ch_algorithm algorithm, ch_extra_style style,
                               const ch_extra_key *keys, size_t key_count,
                               const uint32_t *lookahead, size_t lookahead_count, uint8_t *bytes,
                               size_t capacity_bytes, size_t *length_p)
{
    /* The memo of a block's pickle holds the parent and the tokens already. */
    writer w = {.format = format_of(algorithm),
                .bytes = bytes,
                .capacity_bytes = capacity_bytes,
                .memo_count = 2};
    int is_vllm = w.format == FORMAT_CBOR || w.format == FORMAT_PICKLE;
    if (w.format == FORMAT_NONE || key_count + lookahead_count == 0 ||
        (lookahead_count > 0 && (!is_vllm || style != CH_STYLE_0_33)))
        return CH_EXTRA_KEY;
    if (w.format == FORMAT_PICKLE && has_equal_strings(keys, key_count))
        return CH_IDENTITY;

    if (lookahead_count > 0)
        begin_tuple(&w, lookahead_count + 1);
    if (key_count > 0) {
        ch_status status = put_keys(&w, style, keys, key_count);
        if (status != CH_OK)
            return status;
    } else {
        put_opcode(&w, w.format == FORMAT_PICKLE ? PICKLE_NONE : CBOR_NULL);
    }
    for (size_t i = 0; i < lookahead_count; i++)
        put_int(&w, lookahead[i]);
    if (lookahead_count > 0)
        end_tuple(&w, lookahead_count + 1);

    if (w.format == FORMAT_PICKLE && w.length_bytes > PICKLED_EXTRA_BYTES_MAX)
        return CH_TOO_LONG;
    *length_p = w.length_bytes;
    return CH_OK;
}
