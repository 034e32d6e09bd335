/* Reading the values of a scanned body. The scanner has checked all that is relied on here. */
#include "CScan.h"
#include "text.h"

static unsigned hex_value(uint8_t c)
{
    return cs_is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10u;
}

static uint32_t code_unit(const uint8_t *digits)
{
    return hex_value(digits[0]) << 12 | hex_value(digits[1]) << 8 | hex_value(digits[2]) << 4 |
           hex_value(digits[3]);
}

static size_t write_utf8(uint32_t scalar, uint8_t out[4])
{
    if (scalar < 0x80) {
        out[0] = (uint8_t)scalar;
        return 1;
    }
    size_t length = scalar < 0x800 ? 2 : scalar < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, scalar >>= 6)
        out[i] = 0x80 | (scalar & 0x3f);
    out[0] = (uint8_t)(0xf00 >> length | scalar);
    return length;
}

/* The text of the escape at `*p`, which moves behind it; returns its length. */
static size_t read_escape(const uint8_t **p, uint8_t out[4])
{
    uint8_t c = (*p)[1];
    if (c != 'u') {
        static const char names[] = "bfnrt", values[] = "\b\f\n\r\t";
        const char *name = strchr(names, c);
        out[0] = name == NULL ? c : (uint8_t)values[name - names];
        *p += 2;
        return 1;
    }
    uint32_t scalar = code_unit(*p + 2);
    *p += 6;
    if ((scalar & 0xfc00) == 0xd800) {
        scalar = 0x10000 + ((scalar & 0x3ff) << 10 | (code_unit(*p + 2) & 0x3ff));
        *p += 6;
    }
    return write_utf8(scalar, out);
}

size_t cs_json_unescape(cs_json_token string, const uint8_t *body, uint8_t *out)
{
    const uint8_t *p = body + string.start_bytes + 1, *end = body + string.end_bytes - 1;
    uint8_t *start = out;
    while (p < end) {
        const uint8_t *escape = cs_find_special(p, end, false);
        memcpy(out, p, (size_t)(escape - p));
        out += escape - p;
        p = escape;
        if (p < end)
            out += read_escape(&p, out);
    }
    return (size_t)(out - start);
}

bool cs_json_equals(
    cs_json_token string, const uint8_t *body, const uint8_t *text, size_t text_bytes)
{
    const uint8_t *p = body + string.start_bytes + 1, *end = body + string.end_bytes - 1;
    if (cs_json_kind_of(string) == CS_JSON_STRING)
        return (size_t)(end - p) == text_bytes && memcmp(p, text, text_bytes) == 0;
    const uint8_t *text_end = text + text_bytes;
    while (p < end) {
        uint8_t piece[4] = {*p};
        size_t length = 1;
        if (*p == '\\')
            length = read_escape(&p, piece);
        else
            p++;
        if ((size_t)(text_end - text) < length || memcmp(text, piece, length) != 0)
            return false;
        text += length;
    }
    return text == text_end;
}

uint32_t cs_json_find(
    const cs_json_token *tokens, const uint8_t *body, uint32_t object, const uint8_t *key,
    size_t key_bytes)
{
    uint32_t found = CS_JSON_NONE, end = cs_json_next_of(tokens[object]);
    for (uint32_t i = object + 1; i < end; i = cs_json_next_of(tokens[i + 1]))
        if (cs_json_equals(tokens[i], body, key, key_bytes))
            found = i + 1;
    return found;
}

bool cs_json_integer(cs_json_token token, const uint8_t *body, int64_t *value_p)
{
    if (cs_json_kind_of(token) != CS_JSON_INTEGER)
        return false;
    const uint8_t *p = body + token.start_bytes, *end = body + token.end_bytes;
    bool negative = *p == '-';
    int64_t value = 0;
    /* Towards the negative side, where there is one more. */
    for (p += negative; p < end; p++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_sub_overflow(value, *p - '0', &value))
            return false;
    if (!negative && __builtin_sub_overflow(0, value, &value))
        return false;
    *value_p = value;
    return true;
}

/* The value of the `count` digits, 1 to 8, before `end`; 8 bytes before it can be read. */
static uint32_t few_digits(const uint8_t *end, unsigned count)
{
    uint64_t digits = 0;
    for (int i = 0; i < 8; i++) /* one load */
        digits |= (uint64_t)end[i - 8] << 8 * i;
    digits = (digits ^ 0x3030303030303030) & ~0ull << 8 * (8 - count);
    /* Each pair of digits becomes one number below 100, then four of those are weighed. */
    digits = digits * 10 + (digits >> 8);
    uint64_t odd = digits & 0x000000ff000000ff, even = digits >> 16 & 0x000000ff000000ff;
    return (uint32_t)((odd * (100 + (1000000ull << 32)) + even * (1 + (10000ull << 32))) >> 32);
}

cs_status cs_json_token_ids(
    const cs_json_token *tokens, const uint8_t *body, uint32_t array, uint32_t *out,
    uint32_t *bad_p)
{
    if (cs_json_kind_of(tokens[array]) != CS_JSON_ARRAY) {
        *bad_p = array;
        return CS_KIND;
    }
    uint32_t end = cs_json_next_of(tokens[array]);
    for (uint32_t i = array + 1; i < end; i++) {
        const uint8_t *p = body + tokens[i].start_bytes, *stop = body + tokens[i].end_bytes;
        uint64_t value = 0;
        /* 10 digits hold every token id and cannot overflow. */
        bool fits = cs_json_kind_of(tokens[i]) == CS_JSON_INTEGER && *p != '-' && stop - p <= 10;
        if (fits && stop - p <= 8 && stop - body >= 8)
            value = few_digits(stop, (unsigned)(stop - p));
        else
            for (; fits && p < stop; p++)
                value = value * 10 + (*p - '0');
        if (!fits || value > UINT32_MAX) {
            *bad_p = i;
            return CS_TOKEN_ID;
        }
        out[i - array - 1] = (uint32_t)value;
    }
    return CS_OK;
}

size_t cs_json_plain_bytes(const uint8_t *text, size_t text_bytes)
{
    return (size_t)(cs_find_special(text, text + text_bytes, false) - text);
}
