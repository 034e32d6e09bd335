#include "copy.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define LINE_BYTES 64u
#define PAGE_BYTES 4096u
#define PAGES 4u
// Below this the CPU's prefetchers have hardly begun when a copy is over, and four pages at a time
// keep more loads under way; above it one line after the other is faster.
#define CT_PAGEWISE_MAX_BYTES (128u << 10)

__attribute__((target("avx2"), always_inline)) static inline void copy_line(
    uint8_t *to, const uint8_t *from) {
    __m256i a = _mm256_loadu_si256((const __m256i *)from);
    __m256i b = _mm256_loadu_si256((const __m256i *)(from + 32));
    _mm256_stream_si256((__m256i *)to, a);
    _mm256_stream_si256((__m256i *)(to + 32), b);
}

// Copies PAGES * PAGE_BYTES.
__attribute__((target("avx2"))) static void copy_pages(uint8_t *to, const uint8_t *from) {
    for (size_t i = 0; i < PAGE_BYTES; i += LINE_BYTES) {
        for (size_t page = 0; page < PAGES; page++) {
            copy_line(to + page * PAGE_BYTES + i, from + page * PAGE_BYTES + i);
        }
    }
}

__attribute__((target("avx2"))) static void copy_avx2(
    void *target, const void *source, size_t bytes) {
    uint8_t *to = target;
    const uint8_t *from = source;
    // Streaming stores fill whole lines of the target; the source may lie anywhere.
    size_t head = -(uintptr_t)to & (LINE_BYTES - 1);
    if (head > bytes) {
        head = bytes;
    }
    memcpy(to, from, head);
    to += head;
    from += head;
    bytes -= head;
    if (bytes < CT_PAGEWISE_MAX_BYTES) {
        size_t step = PAGES * PAGE_BYTES;
        for (; bytes >= step; bytes -= step, to += step, from += step) {
            copy_pages(to, from);
        }
    }
    for (; bytes >= LINE_BYTES; bytes -= LINE_BYTES, to += LINE_BYTES, from += LINE_BYTES) {
        copy_line(to, from);
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
