/* Tokens in CBOR two at a time and without a branch, for CPUs that shuffle the bytes of a vector.
 *
 * A token's class is its width: 0 for less than 24, 1 for a byte, 2 for two bytes, 3 for four. A
 * pair is written as one vector: its bytes moved by `shuffle`, whose 0x80 gives a zero, joined with
 * the bytes that begin each token. */
#ifndef CHASHING_CBOR_PAIRS_H
#define CHASHING_CBOR_PAIRS_H

#include <stddef.h>
#include <stdint.h>

#define CBOR_SHUFFLE_0(at) at
#define CBOR_SHUFFLE_1(at) 0x80, at
#define CBOR_SHUFFLE_2(at) 0x80, at + 1, at
#define CBOR_SHUFFLE_3(at) 0x80, at + 3, at + 2, at + 1, at
#define CBOR_HEAD_0 0
#define CBOR_HEAD_1 0x18, 0
#define CBOR_HEAD_2 0x19, 0, 0
#define CBOR_HEAD_3 0x1a, 0, 0, 0, 0
#define CBOR_PAIR(a, b)                                                                            \
    {{CBOR_SHUFFLE_##a(0), CBOR_SHUFFLE_##b(4)}, {CBOR_HEAD_##a, CBOR_HEAD_##b},                   \
     sizeof((uint8_t[]){CBOR_HEAD_##a, CBOR_HEAD_##b})}
#define CBOR_PAIRS(b) CBOR_PAIR(0, b), CBOR_PAIR(1, b), CBOR_PAIR(2, b), CBOR_PAIR(3, b)

/* By class of the first + 4 * class of the second. */
static const struct {
    uint8_t shuffle[16], heads[16];
    size_t byte_count;
} cbor_pairs[16] = {CBOR_PAIRS(0), CBOR_PAIRS(1), CBOR_PAIRS(2), CBOR_PAIRS(3)};

#endif
