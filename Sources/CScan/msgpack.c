#include "CScan.h"
#include "text.h"

/* `count` bytes, big-endian. */
static uint64_t big_endian(const uint8_t *p, unsigned count)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < count; i++)
        value = value << 8 | p[i];
    return value;
}

static double float_value(uint64_t bits, unsigned size)
{
    uint32_t half = (uint32_t)bits;
    float single;
    double wide;
    memcpy(&single, &half, sizeof single);
    memcpy(&wide, &bits, sizeof wide);
    return size == 4 ? (double)single : wide;
}

static void set_signed(cs_mp_item *item, int64_t value)
{
    item->kind = value < 0 ? CS_MP_INT : CS_MP_UINT;
    item->signed_value = value;
}

/* What a first byte from 0xc0 to 0xdf says: the kind, and the bytes of its number or length. */
static const struct {
    uint8_t kind, size;
} formats[32] = {
    [0x00] = {CS_MP_NIL, 0},       [0x02] = {CS_MP_FALSE, 0},     [0x03] = {CS_MP_TRUE, 0},
    [0x04] = {CS_MP_BINARY, 1},    [0x05] = {CS_MP_BINARY, 2},    [0x06] = {CS_MP_BINARY, 4},
    [0x07] = {CS_MP_EXTENSION, 1}, [0x08] = {CS_MP_EXTENSION, 2}, [0x09] = {CS_MP_EXTENSION, 4},
    [0x0a] = {CS_MP_FLOAT, 4},     [0x0b] = {CS_MP_FLOAT, 8},     [0x0c] = {CS_MP_UINT, 1},
    [0x0d] = {CS_MP_UINT, 2},      [0x0e] = {CS_MP_UINT, 4},      [0x0f] = {CS_MP_UINT, 8},
    [0x10] = {CS_MP_INT, 1},       [0x11] = {CS_MP_INT, 2},       [0x12] = {CS_MP_INT, 4},
    [0x13] = {CS_MP_INT, 8},       [0x14] = {CS_MP_EXTENSION, 0}, [0x15] = {CS_MP_EXTENSION, 0},
    [0x16] = {CS_MP_EXTENSION, 0}, [0x17] = {CS_MP_EXTENSION, 0}, [0x18] = {CS_MP_EXTENSION, 0},
    [0x19] = {CS_MP_STRING, 1},    [0x1a] = {CS_MP_STRING, 2},    [0x1b] = {CS_MP_STRING, 4},
    [0x1c] = {CS_MP_ARRAY, 2},     [0x1d] = {CS_MP_ARRAY, 4},     [0x1e] = {CS_MP_MAP, 2},
    [0x1f] = {CS_MP_MAP, 4},
};

/* The value or header at `p`; `*end_p` is where it ends, without the bytes that follow it. */
static cs_status read_head(
    const uint8_t *p, size_t left_bytes, cs_mp_item *item, const uint8_t **end_p)
{
    if (left_bytes == 0)
        return CS_TRUNCATED;
    uint8_t first = *p++;
    *end_p = p;
    *item = (cs_mp_item){.kind = CS_MP_NIL};
    if (first < 0x80 || first >= 0xe0) {
        set_signed(item, (int8_t)first);
        return CS_OK;
    }
    if (first < 0xc0) {
        item->kind = first < 0x90 ? CS_MP_MAP : first < 0xa0 ? CS_MP_ARRAY : CS_MP_STRING;
        item->count = first & (first < 0xa0 ? 0x0f : 0x1f);
        return CS_OK;
    }
    if (first == 0xc1)
        return CS_FORMAT_BYTE;
    unsigned size = formats[first & 0x1f].size;
    item->kind = (cs_mp_kind)formats[first & 0x1f].kind;
    bool extension = item->kind == CS_MP_EXTENSION;
    if (left_bytes - 1 < size + extension)
        return CS_TRUNCATED;
    uint64_t number = big_endian(p, size);
    p += size;
    if (extension)
        item->extension_type = (int8_t)*p++;
    *end_p = p;
    switch (item->kind) {
    case CS_MP_UINT:
        item->unsigned_value = number;
        break;
    case CS_MP_INT:
        set_signed(item, (int64_t)(number << (64 - 8 * size)) >> (64 - 8 * size));
        break;
    case CS_MP_FLOAT:
        item->float_value = float_value(number, size);
        break;
    case CS_MP_EXTENSION: /* 0xd4 to 0xd8 hold 1, 2, 4, 8, 16 bytes */
        item->count = size == 0 ? 1u << (first - 0xd4) : (uint32_t)number;
        break;
    default:
        item->count = (uint32_t)number;
    }
    return CS_OK;
}

cs_status cs_mp_next(const uint8_t *bytes, size_t bytes_count, size_t *at_p, cs_mp_item *item_p)
{
    cs_mp_item item;
    const uint8_t *end;
    cs_status status = read_head(bytes + *at_p, bytes_count - *at_p, &item, &end);
    if (status != CS_OK)
        return status;
    size_t at = (size_t)(end - bytes), left_bytes = bytes_count - at;
    /* An element takes at least a byte, a pair two. */
    if ((uint64_t)item.count * (item.kind == CS_MP_MAP ? 2 : 1) > left_bytes)
        return CS_TRUNCATED;
    if (item.kind == CS_MP_STRING || item.kind == CS_MP_BINARY || item.kind == CS_MP_EXTENSION) {
        item.start_bytes = at;
        at += item.count;
    }
    *at_p = at;
    *item_p = item;
    return CS_OK;
}

cs_status cs_mp_skip(const uint8_t *bytes, size_t bytes_count, size_t *at_p)
{
    size_t at = *at_p;
    for (uint64_t pending = 1; pending > 0; pending--) {
        cs_mp_item item;
        cs_status status = cs_mp_next(bytes, bytes_count, &at, &item);
        if (status != CS_OK)
            return status;
        if (item.kind == CS_MP_ARRAY || item.kind == CS_MP_MAP)
            pending += (uint64_t)item.count * (item.kind == CS_MP_MAP ? 2 : 1);
    }
    *at_p = at;
    return CS_OK;
}

/* The bytes of the longest integer, first byte included. */
enum { INTEGER_BYTES = 9 };

/* How many bytes a token id has that begins with each of these: a fixint, or 1, 2 or 4 bytes behind
 * 0xcc to 0xce. 0 where none of these begins. */
static void token_id_sizes(const uint8_t *bytes, unsigned count, uint8_t *sizes)
{
    for (unsigned i = 0; i < count; i++) {
        uint8_t first = bytes[i];
        sizes[i] = (uint8_t)((first < 0x80 ? 1 : 0) | (first == 0xcc ? 2 : 0)
                             | (first == 0xcd ? 3 : 0) | (first == 0xce ? 5 : 0));
    }
}

cs_status cs_mp_token_ids(
    const uint8_t *bytes, size_t bytes_count, size_t *at_p, uint32_t count, uint32_t *out)
{
    /* Where a token id begins is known only from the one before. To make these steps short, sizes
     * are found for all bytes of a window at once, as vectors. */
    enum { WINDOW_BYTES = 512 };
    uint8_t sizes[WINDOW_BYTES];
    size_t at = *at_p;
    uint32_t i = 0;
    while (i < count) {
        size_t left_bytes = bytes_count - at;
        if (left_bytes >= INTEGER_BYTES) {
            const uint8_t *window = bytes + at;
            unsigned usable = left_bytes - INTEGER_BYTES + 1 < WINDOW_BYTES
                                  ? (unsigned)(left_bytes - INTEGER_BYTES + 1)
                                  : WINDOW_BYTES;
            if (usable > 5 * (count - i))
                usable = 5 * (count - i);
            token_id_sizes(window, usable, sizes);
            unsigned place = 0, size = 0;
            for (; i < count && place < usable && (size = sizes[place]) != 0; i++, place += size) {
                uint64_t behind = big_endian(window + place + 1, 8);
                out[i] = (uint32_t)(behind >> 1 >> (71 - 8 * size))
                         | (size == 1 ? window[place] : 0u);
            }
            at += place;
            if (i == count || (place > 0 && size != 0))
                continue;
        }
        cs_mp_item item;
        cs_status status = cs_mp_next(bytes, bytes_count, &at, &item);
        if (status != CS_OK)
            return status;
        if (item.kind != CS_MP_UINT || item.unsigned_value > UINT32_MAX)
            return CS_TOKEN_ID;
        out[i++] = (uint32_t)item.unsigned_value;
    }
    *at_p = at;
    return CS_OK;
}

cs_status cs_mp_words(
    const uint8_t *bytes, size_t bytes_count, size_t *at_p, uint32_t count, uint64_t *out)
{
    size_t at = *at_p;
    for (uint32_t i = 0; i < count; i++) {
        if (bytes_count - at >= INTEGER_BYTES && (bytes[at] == 0xcf || bytes[at] == 0xd3)) {
            out[i] = big_endian(bytes + at + 1, 8);
            at += INTEGER_BYTES;
            continue;
        }
        cs_mp_item item;
        cs_status status = cs_mp_next(bytes, bytes_count, &at, &item);
        if (status != CS_OK)
            return status;
        if (item.kind == CS_MP_BINARY && item.count > 0) {
            unsigned size = item.count < 8 ? item.count : 8;
            out[i] = big_endian(bytes + item.start_bytes + item.count - size, size);
        } else if (item.kind == CS_MP_UINT || item.kind == CS_MP_INT) {
            out[i] = item.unsigned_value;
        } else {
            return CS_KIND;
        }
    }
    *at_p = at;
    return CS_OK;
}
