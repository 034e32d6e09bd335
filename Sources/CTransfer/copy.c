#include "copy.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static void copy_avx2(
    void *target, const void *source, size_t bytes) {
    uint8_t *to = target;
    const uint8_t *from = source;
    // Streaming stores need an aligned target; the source may lie anywhere.
    size_t head = -(uintptr_t)to & 31;
    if (head > bytes) {
        head = bytes;
    }
    memcpy(to, from, head);
    to += head;
    from += head;
    bytes -= head;
    for (; bytes >= 64; bytes -= 64, to += 64, from += 64) {
        __m256i a = _mm256_loadu_si256((const __m256i *)from);
        __m256i b = _mm256_loadu_si256((const __m256i *)(from + 32));
        _mm256_stream_si256((__m256i *)to, a);
        _mm256_stream_si256((__m256i *)(to + 32), b);
    }
    memcpy(to, from, bytes);
    _mm_sfence();
}
#endif

static void copy_portable(void *target, const void *source, size_t bytes) {
    memcpy(target, source, bytes);
}

ct_copy_function ct_copy_streaming(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        return copy_avx2;
    }
#endif
    return copy_portable;
}
