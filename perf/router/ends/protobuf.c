#include "protobuf.h"

#include <stdlib.h>
#include <string.h>

void cxe_append(cxe_bytes *bytes, const void *data, size_t count)
{
    if (count == 0)
        return;
    if (bytes->count + count > bytes->capacity) {
        bytes->capacity = 2 * (bytes->count + count);
        bytes->data = realloc(bytes->data, bytes->capacity);
        if (bytes->data == NULL)
            abort();
    }
    memcpy(bytes->data + bytes->count, data, count);
    bytes->count += count;
}

void cxe_clear(cxe_bytes *bytes)
{
    bytes->count = bytes->taken = 0;
}

void cxe_free(cxe_bytes *bytes)
{
    free(bytes->data);
    *bytes = (cxe_bytes){0};
}

cxe_span cxe_text(const char *text)
{
    return (cxe_span){(const uint8_t *)text, strlen(text)};
}

cxe_span cxe_rest(const cxe_bytes *bytes)
{
    return (cxe_span){bytes->data + bytes->taken, bytes->count - bytes->taken};
}

bool cxe_take_message(cxe_bytes *bytes, cxe_span *message_p)
{
    cxe_span rest = cxe_rest(bytes);
    if (rest.count < 5)
        return false;
    const uint8_t *prefix = rest.data;
    size_t count = (size_t)prefix[1] << 24 | (size_t)prefix[2] << 16 | (size_t)prefix[3] << 8 |
                   prefix[4];
    if (rest.count - 5 < count)
        return false;
    *message_p = (cxe_span){rest.data + 5, count};
    bytes->taken += 5 + count;
    return true;
}

static bool take_varint(cxe_span *message, uint64_t *value_p)
{
    uint64_t value = 0;
    for (unsigned shift = 0; message->count > 0 && shift < 64; shift += 7) {
        uint8_t byte = *message->data++;
        message->count--;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value_p = value;
            return true;
        }
    }
    return false;
}

bool cxe_take_field(cxe_span *message, cxe_field *field_p)
{
    uint64_t tag, value;
    if (!take_varint(message, &tag) || !take_varint(message, &value))
        return false;
    *field_p = (cxe_field){.number = (uint32_t)(tag >> 3)};
    if ((tag & 7) == 0) {
        field_p->varint = value;
        return true;
    }
    if ((tag & 7) != 2 || value > message->count)
        return false;
    field_p->content = (cxe_span){message->data, value};
    message->data += value;
    message->count -= value;
    return true;
}

cxe_span cxe_find(cxe_span message, uint32_t number)
{
    cxe_span found = {0};
    cxe_field field;
    while (cxe_take_field(&message, &field)) {
        if (field.number == number)
            found = field.content;
    }
    return found;
}

static void put_varint(cxe_bytes *bytes, uint64_t value)
{
    uint8_t text[10];
    size_t count = 0;
    for (; value >= 0x80; value >>= 7)
        text[count++] = (uint8_t)(value | 0x80);
    text[count++] = (uint8_t)value;
    cxe_append(bytes, text, count);
}

size_t cxe_field_bytes(size_t count)
{
    size_t bytes = 2 + count;
    for (size_t rest = count >> 7; rest > 0; rest >>= 7)
        bytes++;
    return bytes;
}

void cxe_put_head(cxe_bytes *bytes, uint32_t number, size_t count)
{
    put_varint(bytes, number << 3 | 2);
    put_varint(bytes, count);
}

void cxe_put(cxe_bytes *bytes, uint32_t number, cxe_span content)
{
    cxe_put_head(bytes, number, content.count);
    cxe_append(bytes, content.data, content.count);
}

void cxe_put_true(cxe_bytes *bytes, uint32_t number)
{
    put_varint(bytes, number << 3);
    put_varint(bytes, 1);
}

void cxe_put_prefix(cxe_bytes *bytes, size_t count)
{
    const uint8_t prefix[5] = {0, (uint8_t)(count >> 24), (uint8_t)(count >> 16),
                               (uint8_t)(count >> 8), (uint8_t)count};
    cxe_append(bytes, prefix, sizeof prefix);
}
