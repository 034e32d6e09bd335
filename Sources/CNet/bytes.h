/* A queue of bytes: appended at the end, consumed at the front. */
#ifndef CN_BYTES_H
#define CN_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* All zero is an empty queue. */
typedef struct cn_bytes {
    uint8_t *data;
    size_t begin;
    size_t end;
    size_t capacity;
    bool failed; /* out of memory once: what was appended since is lost. Sticky. */
} cn_bytes;

static inline size_t cn_bytes_count(const cn_bytes *bytes)
{
    return bytes->end - bytes->begin;
}

static inline const uint8_t *cn_bytes_front(const cn_bytes *bytes)
{
    return bytes->data + bytes->begin;
}

/* Room for `count` bytes at the end, to be filled and then added to `end`; NULL on failure. */
uint8_t *cn_bytes_reserve(cn_bytes *bytes, size_t count);
void cn_bytes_append(cn_bytes *bytes, const void *data, size_t count);
void cn_bytes_append_text(cn_bytes *bytes, const char *text);
void cn_bytes_consume(cn_bytes *bytes, size_t count);
/* Drops contents and memory. */
void cn_bytes_free(cn_bytes *bytes);

#pragma GCC visibility pop

#endif
