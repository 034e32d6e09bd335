/* Python's pickle, protocol 5, of the few types that vLLM hashes. */
#ifndef CHASHING_PICKLE_H
#define CHASHING_PICKLE_H

#include <stdint.h>
#include <string.h>

enum {
    PICKLE_STOP = 0x2e,
    PICKLE_MARK = 0x28,
    PICKLE_EMPTY_TUPLE = 0x29,
    PICKLE_BYTES = 0x42,
    PICKLE_SHORT_BYTES = 0x43,
    PICKLE_INT32 = 0x4a,
    PICKLE_UINT8 = 0x4b,
    PICKLE_UINT16 = 0x4d,
    PICKLE_NONE = 0x4e,
    PICKLE_STRING = 0x58,
    PICKLE_MEMO = 0x68,
    PICKLE_LONG_MEMO = 0x6a,
    PICKLE_TUPLE = 0x74,
    PICKLE_TUPLE1 = 0x85, /* of one item; the next two of two and three */
    PICKLE_LONG = 0x8a,
    PICKLE_SHORT_STRING = 0x8c,
    PICKLE_MEMOIZE = 0x94,
};

/* PROTO 5 and the opcode of a frame, whose length of 8 bytes follows. */
static const uint8_t pickle_start[3] = {0x80, 5, 0x95};

/* What Python writes in one frame at most, its last object excepted. */
enum { PICKLE_FRAME_BYTES = 64 * 1024, PICKLE_INT_BYTES = 10 };

/* Writes an integer, at most PICKLE_INT_BYTES, in little-endian; returns its end. */
static inline uint8_t *pickle_put_int(uint8_t *out, int64_t value)
{
    int value_bytes;
    if (value >= 0 && value <= UINT8_MAX) {
        *out++ = PICKLE_UINT8;
        value_bytes = 1;
    } else if (value >= 0 && value <= UINT16_MAX) {
        *out++ = PICKLE_UINT16;
        value_bytes = 2;
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
        *out++ = PICKLE_INT32;
        value_bytes = 4;
    } else {
        /* The fewest bytes in two's complement. */
        uint64_t magnitude = (uint64_t)(value < 0 ? ~value : value);
        value_bytes = (64 - __builtin_clzll(magnitude)) / 8 + 1;
        *out++ = PICKLE_LONG;
        *out++ = (uint8_t)value_bytes;
    }
    memcpy(out, &value, (size_t)value_bytes);
    return out + value_bytes;
}

/* The bytes that a token takes. */
static inline size_t pickle_token_bytes(uint32_t token)
{
    return token <= UINT8_MAX ? 2 : token <= UINT16_MAX ? 3 : token <= INT32_MAX ? 5 : 7;
}

/* Writes the opcode that makes a tuple of the last `count` > 0 items, and memoises it. */
static inline uint8_t *pickle_put_tuple_end(uint8_t *out, size_t count)
{
    *out++ = (uint8_t)(count <= 3 ? PICKLE_TUPLE1 + count - 1 : PICKLE_TUPLE);
    *out++ = PICKLE_MEMOIZE;
    return out;
}

#endif
