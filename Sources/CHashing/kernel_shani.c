/* x86 with the SHA extensions, SSE4.1 and SSSE3. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "cbor.h"
#include "impl.h"

#define SHANI __attribute__((target("sha,sse4.1,ssse3")))

/* Four rounds, with the message words `w` of those rounds. */
#define ROUNDS(abef, cdgh, w, group)                                                               \
    do {                                                                                           \
        __m128i wk = _mm_add_epi32(                                                                \
            w, _mm_loadu_si128((const __m128i *)(ch_sha256_constants + 4 * (group))));             \
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);                                              \
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));                     \
    } while (0)

SHANI static void compress(uint32_t state[8], const uint8_t *blocks, size_t block_count)
{
    const __m128i byte_swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);

    /* The instructions hold the state as (a, b, e, f) and (c, d, g, h), highest word first. */
    __m128i dcba = _mm_loadu_si128((const __m128i *)state);
    __m128i hgfe = _mm_loadu_si128((const __m128i *)(state + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1);
    __m128i efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
    __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);

    for (; block_count > 0; block_count--, blocks += 64) {
        __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
#pragma clang loop unroll(full)
        for (int group = 0; group < 4; group++) {
            w[group] = _mm_shuffle_epi8(
                _mm_loadu_si128((const __m128i *)(blocks + 16 * group)), byte_swap);
            ROUNDS(abef, cdgh, w[group], group);
        }
        /* w holds the last 16 message words in a ring; each group replaces the oldest four. */
#pragma clang loop unroll(full)
        for (int group = 4; group < 16; group++) {
            __m128i newest = w[(group + 3) & 3], before_newest = w[(group + 2) & 3];
            __m128i next = _mm_sha256msg1_epu32(w[group & 3], w[(group + 1) & 3]);
            next = _mm_add_epi32(next, _mm_alignr_epi8(newest, before_newest, 4));
            next = _mm_sha256msg2_epu32(next, newest);
            w[group & 3] = next;
            ROUNDS(abef, cdgh, next, group);
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }

    __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
    __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* How two tokens are written, given the class of each (by its width in CBOR) and its first byte in
 * the vector: where each byte comes from, the bytes that begin a token, and the length. */
#define SHUFFLE_0(at) at
#define SHUFFLE_1(at) 0x80, at
#define SHUFFLE_2(at) 0x80, at + 1, at
#define SHUFFLE_3(at) 0x80, at + 3, at + 2, at + 1, at
#define HEAD_0 0
#define HEAD_1 0x18, 0
#define HEAD_2 0x19, 0, 0
#define HEAD_3 0x1a, 0, 0, 0, 0
#define PAIR(a, b)                                                                                 \
    {{SHUFFLE_##a(0), SHUFFLE_##b(4)}, {HEAD_##a, HEAD_##b},                                       \
     sizeof((uint8_t[]){HEAD_##a, HEAD_##b})}
#define PAIRS(b) PAIR(0, b), PAIR(1, b), PAIR(2, b), PAIR(3, b)

static const struct {
    uint8_t shuffle[16], heads[16];
    size_t byte_count;
} pairs[16] = {PAIRS(0), PAIRS(1), PAIRS(2), PAIRS(3)};

SHANI static inline uint8_t *put_pair(uint8_t *out, __m128i tokens, unsigned classes)
{
    __m128i shuffle = _mm_loadu_si128((const __m128i *)pairs[classes].shuffle);
    __m128i heads = _mm_loadu_si128((const __m128i *)pairs[classes].heads);
    _mm_storeu_si128((__m128i *)out, _mm_or_si128(_mm_shuffle_epi8(tokens, shuffle), heads));
    return out + pairs[classes].byte_count;
}

/* All ones where token >= least. */
SHANI static inline __m128i at_least(__m128i tokens, int least)
{
    return _mm_cmpeq_epi32(_mm_max_epu32(tokens, _mm_set1_epi32(least)), tokens);
}

SHANI static uint8_t *put_tokens(uint8_t *out, const uint32_t *tokens, size_t token_count)
{
    for (; token_count >= 4; token_count -= 4, tokens += 4) {
        __m128i four = _mm_loadu_si128((const __m128i *)tokens);
        __m128i minus_class = _mm_add_epi32(
            at_least(four, 24), _mm_add_epi32(at_least(four, 256), at_least(four, 65536)));
        __m128i class = _mm_sub_epi32(_mm_setzero_si128(), minus_class);
        /* In each half: class of its first token + 4 * class of its second. */
        __m128i classes = _mm_add_epi32(class, _mm_srli_epi64(class, 30));
        out = put_pair(out, four, (unsigned)_mm_cvtsi128_si32(classes));
        out = put_pair(out, _mm_srli_si128(four, 8), (unsigned)_mm_extract_epi32(classes, 2));
    }
    return ch_put_tokens(out, tokens, token_count);
}

const ch_kernel ch_kernel_shani = {
    .name = "sha-ni", .compress = compress, .put_tokens = put_tokens};
#endif
