// As much of protobuf and of gRPC's framing as both ends need.
#ifndef CXE_PROTOBUF_H
#define CXE_PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct cxe_span {
    const uint8_t *data;
    size_t count;
} cxe_span;

// Bytes that grow at the end and are taken from the front. Without memory the process ends.
typedef struct cxe_bytes {
    uint8_t *data;
    size_t count, taken, capacity;
} cxe_bytes;

void cxe_append(cxe_bytes *bytes, const void *data, size_t count);
void cxe_clear(cxe_bytes *bytes);
void cxe_free(cxe_bytes *bytes);

// Takes the next whole gRPC message from the front, if there is one.
bool cxe_take_message(cxe_bytes *bytes, cxe_span *message_p);

typedef struct cxe_field {
    uint32_t number;
    uint64_t varint;  // 0 for a length-delimited field
    cxe_span content; // empty for a varint
} cxe_field;

// Takes the next field from the front of a message.
bool cxe_take_field(cxe_span *message, cxe_field *field_p);

// The last length-delimited field of this number in a message; empty if there is none.
cxe_span cxe_find(cxe_span message, uint32_t number);

// `count` bytes as a length-delimited field take so many.
size_t cxe_field_bytes(size_t count);

// Writes the head of a length-delimited field, the field, or a bool field.
void cxe_put_head(cxe_bytes *bytes, uint32_t number, size_t count);
void cxe_put(cxe_bytes *bytes, uint32_t number, cxe_span content);
void cxe_put_true(cxe_bytes *bytes, uint32_t number);

// Writes gRPC's five bytes before a message of `count` bytes.
void cxe_put_prefix(cxe_bytes *bytes, size_t count);

cxe_span cxe_text(const char *text);
cxe_span cxe_rest(const cxe_bytes *bytes);

#endif
