/* x86 with the SHA extensions, SSE4.1 and SSSE3. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "cbor.h"
#include "cbor_pairs.h"
#include "impl.h"

#define SHANI __attribute__((target("sha,sse4.1,ssse3")))
#define INLINE SHANI static inline __attribute__((always_inline))

/* ---- Compression ---- */

/* The instructions hold the state as (a, b, e, f) and (c, d, g, h), highest word first. */
typedef struct state {
    __m128i abef, cdgh;
} state;

INLINE __m128i byte_swap(__m128i words)
{
    return _mm_shuffle_epi8(words, _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));
}

INLINE __m128i load(const void *bytes)
{
    return _mm_loadu_si128((const __m128i *)bytes);
}

INLINE void store(void *bytes, __m128i vector)
{
    _mm_storeu_si128((__m128i *)bytes, vector);
}

INLINE void load_words(__m128i words[4], const uint8_t *chunk)
{
#pragma clang loop unroll(full)
    for (int i = 0; i < 4; i++)
        words[i] = byte_swap(load(chunk + 16 * i));
}

/* One compression for each of `lane_count` states, interleaved: a lone one waits for its own
 * results most of the time. `words` holds the last 16 message words in a ring. */
INLINE void compress_lanes(int lane_count, state states[], __m128i words[][4])
{
    state before[2];
#pragma clang loop unroll(full)
    for (int lane = 0; lane < lane_count; lane++)
        before[lane] = states[lane];
#pragma clang loop unroll(full)
    for (int group = 0; group < 16; group++) {
        __m128i constants = load(ch_sha256_constants + 4 * group);
#pragma clang loop unroll(full)
        for (int lane = 0; lane < lane_count; lane++) {
            __m128i *w = words[lane];
            if (group >= 4) {
                /* The four oldest words make way for the next four. */
                __m128i newest = w[(group + 3) & 3], before_newest = w[(group + 2) & 3];
                __m128i next = _mm_sha256msg1_epu32(w[group & 3], w[(group + 1) & 3]);
                next = _mm_add_epi32(next, _mm_alignr_epi8(newest, before_newest, 4));
                w[group & 3] = _mm_sha256msg2_epu32(next, newest);
            }
            state *s = &states[lane];
            __m128i wk = _mm_add_epi32(w[group & 3], constants);
            s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, wk);
            s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, _mm_shuffle_epi32(wk, 0x0e));
        }
    }
#pragma clang loop unroll(full)
    for (int lane = 0; lane < lane_count; lane++) {
        states[lane].abef = _mm_add_epi32(states[lane].abef, before[lane].abef);
        states[lane].cdgh = _mm_add_epi32(states[lane].cdgh, before[lane].cdgh);
    }
}

SHANI static void compress(uint32_t words[8], const uint8_t *blocks, size_t block_count)
{
    __m128i cdab = _mm_shuffle_epi32(load(words), 0xb1);
    __m128i efgh = _mm_shuffle_epi32(load(words + 4), 0x1b);
    state s = {_mm_alignr_epi8(cdab, efgh, 8), _mm_blend_epi16(efgh, cdab, 0xf0)};
    for (; block_count > 0; block_count--, blocks += 64) {
        __m128i message[1][4];
        load_words(message[0], blocks);
        compress_lanes(1, &s, message);
    }
    __m128i feba = _mm_shuffle_epi32(s.abef, 0x1b);
    __m128i dchg = _mm_shuffle_epi32(s.cdgh, 0xb1);
    store(words, _mm_blend_epi16(feba, dchg, 0xf0));
    store(words + 4, _mm_alignr_epi8(dchg, feba, 8));
}

/* ---- Tokens in CBOR ---- */

INLINE uint8_t *put_pair(uint8_t *out, __m128i tokens, unsigned classes)
{
    __m128i bytes = _mm_shuffle_epi8(tokens, load(cbor_pairs[classes].shuffle));
    store(out, _mm_or_si128(bytes, load(cbor_pairs[classes].heads)));
    return out + cbor_pairs[classes].byte_count;
}

/* All ones where token >= least. */
INLINE __m128i at_least(__m128i tokens, int least)
{
    return _mm_cmpeq_epi32(_mm_max_epu32(tokens, _mm_set1_epi32(least)), tokens);
}

INLINE uint8_t *put_tokens_inline(uint8_t *out, const uint32_t *tokens, size_t token_count)
{
    for (; token_count >= 4; token_count -= 4, tokens += 4) {
        __m128i four = load(tokens);
        __m128i minus_class = _mm_add_epi32(
            at_least(four, 24), _mm_add_epi32(at_least(four, 256), at_least(four, 65536)));
        __m128i class = _mm_sub_epi32(_mm_setzero_si128(), minus_class);
        /* In each half: class of its first token + 4 * class of its second. */
        __m128i classes = _mm_add_epi32(class, _mm_srli_epi64(class, 30));
        out = put_pair(out, four, (unsigned)_mm_cvtsi128_si32(classes));
        out = put_pair(out, _mm_srli_si128(four, 8), (unsigned)_mm_extract_epi32(classes, 2));
    }
    /* Block sizes are multiples of four: without the call, all registers keep their place. */
    if (__builtin_expect(token_count > 0, 0))
        out = ch_put_tokens(out, tokens, token_count);
    return out;
}

SHANI static uint8_t *put_tokens(uint8_t *out, const uint32_t *tokens, size_t token_count)
{
    return put_tokens_inline(out, tokens, token_count);
}

/* ---- Chains of `sha256_cbor`, two at a time ---- */

/* A message is 83 58 20, the parent, then what lanes encode: tokens, extra keys and padding. */
enum { HEAD_BYTES = 3, REST_AT = HEAD_BYTES + 32 };

/* A chain on its way. While a block is hashed, the next one is encoded: its stores have long ended
 * when its loads begin, and the work fills gaps that the hash leaves. An early lane encodes it
 * when a block begins and others after the first chunk, so that it is never both lanes' turn, which
 * would fill the processor's window and keep the next compression out. */
typedef struct lane {
    const ch_job *job;
    size_t block, block_count;
    const uint8_t *chunk; /* being hashed */
    size_t chunks_left;
    uint8_t *next; /* the next block, encoded as soon as `next_chunks` is not 0 */
    size_t next_chunks;
    uint8_t *keys;
    uint8_t buffers[2][CH_LANE_BYTES];
} lane;

/* Encodes a block behind the place of its parent; returns its chunks of 64 bytes. */
INLINE size_t encode(uint8_t *message, const ch_job *job, size_t block)
{
    size_t block_size = job->chain->block_size;
    memset(message + 32, 0, REST_AT - 32);
    uint8_t *end = cbor_put_head(message + REST_AT, CBOR_ARRAY, block_size);
    end = put_tokens_inline(end, job->tokens + block * block_size, block_size);
    ch_bytes extra = ch_extra_of(job, block);
    if (__builtin_expect(extra.bytes == NULL, 1)) {
        *end++ = CBOR_NULL;
    } else {
        memcpy(end, extra.bytes, extra.count);
        end += extra.count;
    }
    size_t length_bytes = (size_t)(end - message);
    store(end, _mm_cvtsi32_si128(0x80));
#pragma clang loop unroll(full)
    for (int i = 16; i < 64; i += 16)
        store(end + i, _mm_setzero_si128());
    size_t chunk_count = (length_bytes + 1 + 8 + 63) / 64;
    uint64_t bits = __builtin_bswap64(8 * length_bytes);
    memcpy(message + 64 * chunk_count - sizeof bits, &bits, sizeof bits);
    return chunk_count;
}

/* A digest as two vectors (b, a, d, c) and (f, e, h, g), lowest word first. */
INLINE __m128i swap_halves(__m128i bytes)
{
    return _mm_shuffle_epi8(bytes, _mm_set_epi64x(0x08090a0b0c0d0e0f, 0x0001020304050607));
}

/* Goes on with the encoded block, whose parent is (badc, fehg): the words of its first chunk are
 * those of the digest moved by three bytes, taken straight from the registers. */
INLINE void open_block(lane *l, int is_early, __m128i badc, __m128i fehg, state *s,
                       __m128i words[4])
{
    enum { Z = -128 };
    const __m128i head = _mm_set_epi32(0, 0, 0, (int)0x83582000);
    /* Bytes of one vector: the words but for the first one's upper three, and those three. */
    const __m128i moved = _mm_setr_epi8(7, Z, Z, Z, 3, 4, 5, 6, 15, 0, 1, 2, 11, 12, 13, 14);
    const __m128i carried = _mm_setr_epi8(Z, 8, 9, 10, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z, Z);
    l->chunk = l->next;
    l->chunks_left = l->next_chunks;
    words[0] = _mm_or_si128(_mm_shuffle_epi8(badc, moved), head);
    words[1] = _mm_or_si128(_mm_shuffle_epi8(fehg, moved), _mm_shuffle_epi8(badc, carried));
    words[2] = _mm_or_si128(byte_swap(load(l->chunk + 32)), _mm_shuffle_epi8(fehg, carried));
    words[3] = byte_swap(load(l->chunk + 48));
    s->abef = _mm_set_epi32(0x6a09e667, (int)0xbb67ae85, 0x510e527f, (int)0x9b05688c);
    s->cdgh = _mm_set_epi32(0x3c6ef372, (int)0xa54ff53a, 0x1f83d9ab, 0x5be0cd19);
    if (l->block + 1 < l->block_count) {
        l->next = l->buffers[l->chunk == l->buffers[0]];
        l->next_chunks = 0;
        if (is_early || l->chunks_left == 1)
            l->next_chunks = encode(l->next, l->job, l->block + 1);
    }
}

/* Takes the next job that has a full block and encodes that; 0 where there is none. */
SHANI static int take_job(lane *l, const ch_job **next, const ch_job *end)
{
    for (; *next < end; ++*next) {
        const ch_job *job = *next;
        l->block_count = job->token_count / job->chain->block_size;
        if (l->block_count == 0)
            continue;
        ++*next;
        l->job = job;
        l->block = 0;
        l->keys = job->keys_p;
        l->next = l->buffers[0];
        l->next_chunks = encode(l->next, job, 0);
        return 1;
    }
    return 0;
}

INLINE void open_job(lane *l, int is_early, state *s, __m128i words[4])
{
    const uint8_t *parent = l->job->chain->key;
    __m128i badc = swap_halves(load(parent)), fehg = swap_halves(load(parent + 16));
    open_block(l, is_early, badc, fehg, s, words);
}

/* After a compression: 0 where the lane has no more to do. */
INLINE int advance(lane *l, int is_early, const ch_job **next, const ch_job *end, state *s,
                   __m128i words[4])
{
    if (--l->chunks_left > 0) {
        l->chunk += 64;
        load_words(words, l->chunk);
        if (!is_early && l->next_chunks == 0)
            l->next_chunks = encode(l->next, l->job, l->block + 1);
        return 1;
    }
    __m128i badc = _mm_unpackhi_epi64(s->abef, s->cdgh);
    __m128i fehg = _mm_unpacklo_epi64(s->abef, s->cdgh);
    store(l->keys, swap_halves(badc));
    store(l->keys + 16, swap_halves(fehg));
    l->keys += 32;
    if (++l->block == l->block_count) {
        memcpy(l->job->chain->key, l->keys - 32, 32);
        if (!take_job(l, next, end))
            return 0;
        badc = swap_halves(load(l->job->chain->key));
        fehg = swap_halves(load(l->job->chain->key + 16));
    }
    open_block(l, is_early, badc, fehg, s, words);
    return 1;
}

SHANI static void hash_cbor_jobs(const ch_job *jobs, size_t job_count)
{
    const ch_job *next = jobs, *end = jobs + job_count;
    lane lanes[2], *last = &lanes[0];
    state states[2];
    __m128i words[2][4];
    if (!take_job(&lanes[0], &next, end))
        return;
    open_job(&lanes[0], 1, &states[0], words[0]);
    if (take_job(&lanes[1], &next, end)) {
        open_job(&lanes[1], 0, &states[1], words[1]);
        int is_busy[2];
        do {
            compress_lanes(2, states, words);
            is_busy[0] = advance(&lanes[0], 1, &next, end, &states[0], words[0]);
            is_busy[1] = advance(&lanes[1], 0, &next, end, &states[1], words[1]);
        } while (is_busy[0] && is_busy[1]);
        if (!is_busy[0] && !is_busy[1])
            return;
        last = &lanes[is_busy[1]];
    }
    state s = states[last - lanes];
    __m128i w[1][4];
    memcpy(w[0], words[last - lanes], sizeof w[0]);
    do
        compress_lanes(1, &s, w);
    while (advance(last, 0, &next, end, &s, w[0]));
}

const ch_kernel ch_kernel_shani = {.name = "sha-ni",
                                   .compress = compress,
                                   .put_tokens = put_tokens,
                                   .hash_cbor_jobs = hash_cbor_jobs};
#endif
