/* The HTTP/1.1 parser under any input: no fault, and the same events whatever the pieces. */
#include <stdlib.h>
#include <string.h>

#include "h1.h"
#include "words.h"

/* A digest of all events. */
static uint64_t parse(bool is_response, const uint8_t *input, size_t count, size_t step)
{
    static cn_field fields[16];
    cn_h1 h1;
    cn_h1_init(&h1, is_response, 200);
    uint64_t digest = 1469598103934665603u;
#define MIX(value) (digest = (digest ^ (uint64_t)(value)) * 1099511628211u)
    cn_status status = CN_OK;
    for (size_t at = 0; at < count && status == CN_OK; at += step) {
        size_t left = count - at < step ? count - at : step;
        uint8_t *piece = malloc(left);
        memcpy(piece, input + at, left);
        const uint8_t *bytes = piece;
        cn_h1_event event = CN_H1_HEAD;
        while ((event != CN_H1_NEED_MORE || left > 0) && status == CN_OK) {
            status = cn_h1_next(&h1, &bytes, &left, fields, 16, &event);
            if (status != CN_OK)
                break;
            if (event == CN_H1_BODY) {
                for (size_t i = 0; i < h1.body.count; i++)
                    MIX(h1.body.data[i]);
            } else if (event != CN_H1_NEED_MORE) {
                MIX(event);
                for (size_t i = 0; i < h1.head.field_count; i++) {
                    const cn_field *field = &h1.head.fields[i];
                    for (size_t j = 0; j < field->value_count; j++)
                        MIX(h1.head.bytes[field->value_offset + j]);
                }
            }
            if (event == CN_H1_END)
                cn_h1_next_message(&h1);
        }
        free(piece);
    }
    MIX(status != CN_OK);
    cn_h1_free(&h1);
    return digest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t count)
{
    if (count < 1)
        return 0;
    static uint8_t input[8192];
    size_t input_count = expand(data + 1, count - 1, input, sizeof input);
    bool is_response = (data[0] & 1) != 0;
    size_t step = (data[0] >> 1) + 1;
    if (parse(is_response, input, input_count, input_count + 1) !=
        parse(is_response, input, input_count, step))
        abort();
    return 0;
}
