/* Bytes and UTF-8: what the three scanners share. */
#ifndef CSCAN_TEXT_H
#define CSCAN_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) && !defined(CS_PORTABLE)
#include <emmintrin.h>
#endif

static inline bool cs_is_digit(uint8_t c)
{
    return (uint8_t)(c - '0') < 10;
}

/* The 8 bytes at `p`, the first in the low bits; one load where that is how bytes lie. */
static inline uint64_t cs_load8(const uint8_t *p)
{
    uint64_t text = 0;
    for (int i = 0; i < 8; i++)
        text |= (uint64_t)p[i] << 8 * i;
    return text;
}

/* What the bytes of a piece of a list of integers are, byte 0 in bit 0. */
typedef struct cs_list_masks {
    uint32_t digits, zeros, commas, spaces;
} cs_list_masks;

enum { CS_LIST_BYTES = 16 };

static inline cs_list_masks cs_list_masks_of(const uint8_t *p)
{
    cs_list_masks masks = {0};
#if defined(__SSE2__) && !defined(CS_PORTABLE)
    __m128i text = _mm_loadu_si128((const __m128i *)p);
    __m128i value = _mm_sub_epi8(text, _mm_set1_epi8('0'));
    __m128i is_digit = _mm_cmpeq_epi8(_mm_min_epu8(value, _mm_set1_epi8(9)), value);
    masks.digits = (uint32_t)_mm_movemask_epi8(is_digit);
    masks.zeros = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8('0')));
    masks.commas = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8(',')));
    masks.spaces = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8(' ')));
#else
    for (int i = 0; i < CS_LIST_BYTES; i++) {
        masks.digits |= (uint32_t)cs_is_digit(p[i]) << i;
        masks.zeros |= (uint32_t)(p[i] == '0') << i;
        masks.commas |= (uint32_t)(p[i] == ',') << i;
        masks.spaces |= (uint32_t)(p[i] == ' ') << i;
    }
#endif
    return masks;
}

/*
 * The first byte of a string's text that does not simply stand for itself: a control character,
 * quote, backslash, or, where `ascii` is asked for, a byte of a longer UTF-8 sequence.
 */
static inline const uint8_t *cs_find_special(const uint8_t *p, const uint8_t *end, bool ascii)
{
#if defined(__SSE2__) && !defined(CS_PORTABLE)
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\');
    const __m128i space = _mm_set1_epi8(0x20), last_control = _mm_set1_epi8(0x1f);
    while (end - p >= 16) {
        __m128i text = _mm_loadu_si128((const __m128i *)p);
        /* As signed bytes, those from 0x80 are below the space as well. */
        __m128i low = ascii ? _mm_cmplt_epi8(text, space)
                            : _mm_cmpeq_epi8(_mm_min_epu8(text, last_control), text);
        __m128i special = _mm_or_si128(
            low, _mm_or_si128(_mm_cmpeq_epi8(text, quote), _mm_cmpeq_epi8(text, backslash)));
        unsigned mask = (unsigned)_mm_movemask_epi8(special);
        if (mask != 0)
            return p + __builtin_ctz(mask);
        p += 16;
    }
#else
    const uint64_t ones = 0x0101010101010101u, highs = 0x8080808080808080u;
    while (end - p >= 8) {
        uint64_t text;
        memcpy(&text, p, 8);
        /* The high bit of each byte that is below 0x20, or equal to one of the two. A borrow can
         * also mark the byte above a marked one: the loop below looks again. */
        uint64_t quote = text ^ ones * '"', backslash = text ^ ones * '\\';
        uint64_t special = ((text - ones * 0x20) & ~text) | ((quote - ones) & ~quote) |
                           ((backslash - ones) & ~backslash) | (ascii ? text : 0);
        if ((special & highs) != 0)
            break;
        p += 8;
    }
#endif
    while (p < end && *p >= 0x20 && *p != '"' && *p != '\\' && !(ascii && *p >= 0x80))
        p++;
    return p;
}

/* The length of the UTF-8 sequence at `p`, whose first byte is 0x80 or more: 2 to 4; 0 if more
 * bytes are needed to tell; -1 if it is malformed (Unicode table 3-7). */
static inline int cs_utf8_sequence(const uint8_t *p, const uint8_t *end)
{
    if (end - p >= 3) { /* the common lengths without a branch per byte */
        uint32_t bytes = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16, high = bytes & 0x200f;
        if ((bytes & 0xc0c0f0) == 0x8080e0 && high != 0 && high != 0x200d)
            return 3;
        if ((bytes & 0xc0e0) == 0x80c0 && (bytes & 0x1e) != 0)
            return 2;
    }
    uint8_t first = p[0];
    int length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first < 0xc2 || first > 0xf4)
        return -1;
    if (end - p < 2)
        return 0;
    uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < low || p[1] > high)
        return -1;
    for (int i = 2; i < length; i++) {
        if (end - p <= i)
            return 0;
        if ((p[i] & 0xc0) != 0x80)
            return -1;
    }
    return length;
}

#endif
