/* Any text: the same outcome however it is fed; what is accepted can be read to the end. */
#include "json_feeding.h"

static void read_all(const struct scan *scan, const uint8_t *text)
{
    const cs_json_token *tokens = scan->tape.tokens;
    for (uint32_t i = 0; i < scan->tape.count; i++) {
        cs_json_token token = tokens[i];
        uint32_t size = token.end_bytes - token.start_bytes, bad = 0;
        uint32_t next = cs_json_next_of(tokens, i);
        CHECK(token.end_bytes > token.start_bytes && next > i && next <= scan->tape.count,
              "token %u", i);
        cs_json_kind kind = cs_json_kind_of(token);
        if (kind == CS_JSON_STRING || kind == CS_JSON_ESCAPED_STRING) {
            uint8_t *out = malloc(size);
            CHECK(out != NULL, "no memory");
            size_t length = cs_json_unescape(token, text, out);
            CHECK(length <= size - 2, "token %u", i);
            CHECK(cs_json_equals(token, text, out, length), "token %u is not itself", i);
            free(out);
        } else if (kind == CS_JSON_ARRAY) {
            uint32_t count = cs_json_element_count(tokens, i);
            uint32_t *ids = malloc((count + 1) * sizeof *ids);
            CHECK(ids != NULL, "no memory");
            if (cs_json_token_ids(tokens, text, i, ids, &bad) != CS_OK)
                CHECK(bad >= token.start_bytes && bad < token.end_bytes, "token %u", i);
            free(ids);
        } else if (kind == CS_JSON_INTEGERS) {
            uint32_t count = 0, at = token.start_bytes;
            cs_json_token integer;
            for (; cs_json_next_integer(token, text, &at, &integer); count++)
                CHECK(integer.end_bytes > integer.start_bytes && integer.end_bytes <= at,
                      "token %u", i);
            CHECK(count == cs_json_run_count(token), "%u of token %u", count, i);
            CHECK(i + 1 == scan->tape.count || cs_json_kind_of(tokens[i + 1]) != kind ||
                      memchr(text + token.end_bytes, '[',
                             tokens[i + 1].start_bytes - token.end_bytes) != NULL ||
                      memchr(text + token.end_bytes, ']',
                             tokens[i + 1].start_bytes - token.end_bytes) != NULL,
                  "token %u goes on", i);
        } else if (kind == CS_JSON_OBJECT && next > i + 1) {
            const uint8_t *key = text + tokens[i + 1].start_bytes + 1;
            size_t key_bytes = tokens[i + 1].end_bytes - tokens[i + 1].start_bytes - 2;
            if (cs_json_kind_of(tokens[i + 1]) == CS_JSON_STRING)
                CHECK(cs_json_find(tokens, text, i, key, key_bytes) != CS_JSON_NONE, "token %u", i);
        } else if (kind == CS_JSON_INTEGER || kind == CS_JSON_REAL) {
            int64_t integer;
            double number;
            cs_json_integer(token, text, &integer);
            if (cs_decimal(text + token.start_bytes, size, &number)) {
                char *copy = strndup((const char *)text + token.start_bytes, size);
                CHECK(copy != NULL && strtod(copy, NULL) == number, "%s", copy);
                free(copy);
            }
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const uint8_t *text = data + 2;
    size -= 2;
    struct scan whole = scan_whole(text, size);
    struct scan split = scan_split(text, size, size == 0 ? 0 : data[0] * size / 255);
    struct scan steps = scan_steps(text, size, 1 + data[1] % 16);
    check_same(&whole, &split);
    check_same(&whole, &steps);
    if (whole.status == CS_OK) {
        read_all(&whole, text);
        check_run(&whole, text);
        check_run(&split, text);
        check_run(&steps, text);
    }
    cs_json_tape_free(&whole.tape);
    cs_json_tape_free(&split.tape);
    cs_json_tape_free(&steps.tape);
    return 0;
}
