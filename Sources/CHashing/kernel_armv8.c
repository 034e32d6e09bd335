/* ARMv8 with the SHA-2 instructions of its cryptographic extension. */
#if defined(__aarch64__)
#include <arm_neon.h>

#include "cbor_pairs.h"
#include "impl.h"

#define SHA2 __attribute__((target("sha2")))

SHA2 static void compress(uint32_t state[8], const uint8_t *blocks, size_t block_count)
{
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
    for (; block_count > 0; block_count--, blocks += 64) {
        uint32x4_t abcd_before = abcd, efgh_before = efgh;
        /* The last 16 message words, in a ring. */
        uint32x4_t w[4];
#pragma clang loop unroll(full)
        for (int group = 0; group < 16; group++) {
            if (group < 4)
                w[group] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks + 16 * group)));
            else
                w[group & 3] = vsha256su1q_u32(
                    vsha256su0q_u32(w[group & 3], w[(group + 1) & 3]), w[(group + 2) & 3],
                    w[(group + 3) & 3]);
            uint32x4_t wk = vaddq_u32(w[group & 3], vld1q_u32(ch_sha256_constants + 4 * group));
            uint32x4_t abcd_then = abcd;
            abcd = vsha256hq_u32(abcd, efgh, wk);
            efgh = vsha256h2q_u32(efgh, abcd_then, wk);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

static inline uint8_t *put_pair(uint8_t *out, uint8x16_t tokens, unsigned classes)
{
    uint8x16_t bytes = vqtbl1q_u8(tokens, vld1q_u8(cbor_pairs[classes].shuffle));
    vst1q_u8(out, vorrq_u8(bytes, vld1q_u8(cbor_pairs[classes].heads)));
    return out + cbor_pairs[classes].byte_count;
}

static uint8_t *put_tokens(uint8_t *out, const uint32_t *tokens, size_t token_count)
{
    for (; token_count >= 4; token_count -= 4, tokens += 4) {
        uint32x4_t four = vld1q_u32(tokens);
        /* All ones are -1: the class, negated. */
        uint32x4_t minus_class =
            vaddq_u32(vcgeq_u32(four, vdupq_n_u32(24)),
                      vaddq_u32(vcgeq_u32(four, vdupq_n_u32(256)),
                                vcgeq_u32(four, vdupq_n_u32(65536))));
        uint64x2_t class = vreinterpretq_u64_s32(vnegq_s32(vreinterpretq_s32_u32(minus_class)));
        /* In each half: class of its first token + 4 * class of its second. */
        uint64x2_t classes = vaddq_u64(class, vshrq_n_u64(class, 30));
        uint8x16_t bytes = vreinterpretq_u8_u32(four);
        out = put_pair(out, bytes, (unsigned)vgetq_lane_u64(classes, 0));
        out = put_pair(out, vextq_u8(bytes, bytes, 8), (unsigned)vgetq_lane_u64(classes, 1));
    }
    return ch_put_tokens(out, tokens, token_count);
}

const ch_kernel ch_kernel_armv8 = {
    .name = "armv8", .compress = compress, .put_tokens = put_tokens};
#endif
