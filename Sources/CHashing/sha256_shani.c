/* SHA-256 with the SHA extensions of x86. */
#if defined(__x86_64__)
#include <immintrin.h>

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

SHANI void ch_compress_shani(uint32_t state[8], const uint8_t *blocks, size_t block_count)
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
#endif
