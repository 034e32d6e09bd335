#include "bytes.h"

#include <stdlib.h>
#include <string.h>

uint8_t *cn_bytes_reserve(cn_bytes *bytes, size_t count)
{
    if (bytes->failed)
        return NULL;
    if (bytes->capacity - bytes->end >= count && bytes->data != NULL)
        return bytes->data + bytes->end;
    size_t held = cn_bytes_count(bytes);
    if (bytes->begin > 0 && bytes->capacity - held >= count && bytes->begin >= held) {
        memcpy(bytes->data, bytes->data + bytes->begin, held);
    } else {
        size_t capacity = bytes->capacity * 2;
        if (capacity < held + count)
            capacity = held + count;
        if (capacity < 256)
            capacity = 256;
        uint8_t *data = malloc(capacity);
        if (data == NULL) {
            bytes->failed = true;
            return NULL;
        }
        if (held > 0)
            memcpy(data, bytes->data + bytes->begin, held);
        free(bytes->data);
        bytes->data = data;
        bytes->capacity = capacity;
    }
    bytes->begin = 0;
    bytes->end = held;
    return bytes->data + bytes->end;
}

void cn_bytes_append(cn_bytes *bytes, const void *data, size_t count)
{
    if (count == 0)
        return;
    uint8_t *room = cn_bytes_reserve(bytes, count);
    if (room == NULL)
        return;
    memcpy(room, data, count);
    bytes->end += count;
}

void cn_bytes_append_text(cn_bytes *bytes, const char *text)
{
    cn_bytes_append(bytes, text, strlen(text));
}

void cn_bytes_consume(cn_bytes *bytes, size_t count)
{
    bytes->begin += count;
    if (bytes->begin == bytes->end)
        bytes->begin = bytes->end = 0;
}

void cn_bytes_free(cn_bytes *bytes)
{
    free(bytes->data);
    *bytes = (cn_bytes){.failed = bytes->failed};
}
