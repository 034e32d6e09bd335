/* Canonical CBOR (RFC 7049 section 3.9): integers and lengths in their shortest form. */
#ifndef CHASHING_CBOR_H
#define CHASHING_CBOR_H

#include <stdint.h>
#include <string.h>

enum {
    CBOR_UNSIGNED = 0x00,
    CBOR_NEGATIVE = 0x20,
    CBOR_BYTES = 0x40,
    CBOR_TEXT = 0x60,
    CBOR_ARRAY = 0x80,
    CBOR_MAP = 0xa0,
    CBOR_NULL = 0xf6,
};

/* The longest head, and the longest token. */
enum { CBOR_HEAD_BYTES = 9, CBOR_TOKEN_BYTES = 5 };

/* Writes the head of an item of type `major`, at most CBOR_HEAD_BYTES; returns its end. */
static inline uint8_t *cbor_put_head(uint8_t *out, uint8_t major, uint64_t value)
{
    if (value < 24) {
        *out++ = major | (uint8_t)value;
        return out;
    }
    int log2_bytes = (value > UINT8_MAX) + (value > UINT16_MAX) + (value > UINT32_MAX);
    int value_bytes = 1 << log2_bytes;
    *out++ = major | (uint8_t)(24 + log2_bytes);
    uint64_t big_endian = __builtin_bswap64(value) >> (64 - 8 * value_bytes);
    memcpy(out, &big_endian, (size_t)value_bytes);
    return out + value_bytes;
}

#endif
