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
    uint32_t found = CS_JSON_NONE, end = cs_json_next_of(tokens, object);
    for (uint32_t i = object + 1; i < end; i = cs_json_next_of(tokens, i + 1))
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

bool cs_json_next_integer(
    cs_json_token run, const uint8_t *body, uint32_t *at_p, cs_json_token *integer_p)
{
    uint32_t at = *at_p;
    while (at < run.end_bytes && !cs_is_digit(body[at]) && body[at] != '-')
        at++;
    if (at == run.end_bytes)
        return false;
    integer_p->start_bytes = at;
    do
        at++;
    while (at < run.end_bytes && cs_is_digit(body[at]));
    integer_p->end_bytes = *at_p = at;
    integer_p->kind_next = (uint32_t)CS_JSON_INTEGER << 28;
    return true;
}

uint32_t cs_json_element_count(const cs_json_token *tokens, uint32_t array)
{
    if (cs_json_kind_of(tokens[array]) != CS_JSON_ARRAY)
        return 0;
    uint32_t count = 0, end = cs_json_next_of(tokens, array);
    for (uint32_t i = array + 1; i < end; i = cs_json_next_of(tokens, i))
        count += cs_json_kind_of(tokens[i]) == CS_JSON_INTEGERS ? cs_json_run_count(tokens[i]) : 1;
    return count;
}

/* The value of the `count` digits, 1 to 8, before `end`; 8 bytes before it can be read. */
static uint32_t few_digits(const uint8_t *end, unsigned count)
{
    uint64_t digits = (cs_load8(end - 8) ^ 0x3030303030303030) & ~0ull << 8 * (8 - count);
    /* Each pair of digits becomes one number below 100, then four of those are weighed. */
    digits = digits * 10 + (digits >> 8);
    uint64_t odd = digits & 0x000000ff000000ff, even = digits >> 16 & 0x000000ff000000ff;
    return (uint32_t)((odd * (100 + (1000000ull << 32)) + even * (1 + (10000ull << 32))) >> 32);
}

/* The token id that the digits before `end` are; false if they are none. */
static bool read_id(const uint8_t *body, const uint8_t *start, const uint8_t *end, uint32_t *id_p)
{
    if (end - start <= 8 && end - body >= 8) {
        *id_p = few_digits(end, (unsigned)(end - start));
        return true;
    }
    uint64_t value = 0;
    /* 10 digits hold every token id and cannot overflow. */
    if (end - start > 10)
        return false;
    for (const uint8_t *p = start; p < end; p++)
        value = value * 10 + (*p - '0');
    *id_p = (uint32_t)value;
    return value <= UINT32_MAX;
}

/* The ids of a run from `*at_p`, which moves behind them: `*count_p`, all if there is room. False
 * at one that is none, whose place is `*at_p` then. */
static bool read_run(
    cs_json_token run, const uint8_t *body, uint32_t *at_p, uint32_t *ids, size_t room,
    size_t *count_p)
{
    enum { BLOCK_BYTES = 4 * CS_LIST_BYTES };
    const uint8_t *p = body + *at_p, *end = body + run.end_bytes, *start = p;
    uint32_t *out = ids;
    bool is_inside = false; /* a number that starts at `start` goes on at `p` */
    bool is_full = false;
    for (; end - p >= BLOCK_BYTES; p += BLOCK_BYTES) {
        is_full = room - (size_t)(out - ids) < BLOCK_BYTES / 2;
        if (is_full)
            break;
        uint64_t digits = 0, others = 0;
        for (int i = 0; i < 4; i++) {
            cs_list_masks masks = cs_list_masks_of(p + i * CS_LIST_BYTES);
            digits |= (uint64_t)masks.digits << i * CS_LIST_BYTES;
            others |= (uint64_t)(masks.commas | masks.spaces) << i * CS_LIST_BYTES;
        }
        if (~(digits | others) != 0)
            break;
        uint64_t behind_digits = digits << 1 | is_inside;
        uint64_t starts = digits & ~behind_digits, ends = behind_digits & ~digits;
        if (!is_inside && starts != 0) {
            start = p + __builtin_ctzll(starts);
            starts &= starts - 1;
        }
        for (; ends != 0; ends &= ends - 1) {
            if (!read_id(body, start, p + __builtin_ctzll(ends), out++)) {
                *at_p = (uint32_t)(start - body);
                return false;
            }
            if (starts != 0)
                start = p + __builtin_ctzll(starts);
            starts &= starts - 1;
        }
        is_inside = digits >> (BLOCK_BYTES - 1) != 0;
    }
    cs_json_token integer;
    uint32_t at = (uint32_t)((is_inside ? start : p) - body);
    while (!is_full && cs_json_next_integer(run, body, &at, &integer)) {
        is_full = (size_t)(out - ids) == room;
        if (is_full) {
            at = integer.start_bytes;
            break;
        }
        const uint8_t *digits = body + integer.start_bytes;
        if (*digits == '-' || !read_id(body, digits, body + integer.end_bytes, out++)) {
            *at_p = integer.start_bytes;
            return false;
        }
    }
    *at_p = is_full ? at : run.end_bytes;
    *count_p = (size_t)(out - ids);
    return true;
}

cs_status cs_json_token_ids(
    const cs_json_token *tokens, const uint8_t *body, uint32_t array, uint32_t *out,
    uint32_t *bad_at_p)
{
    *bad_at_p = tokens[array].start_bytes;
    if (cs_json_kind_of(tokens[array]) != CS_JSON_ARRAY)
        return CS_KIND;
    uint32_t end = cs_json_next_of(tokens, array);
    for (uint32_t i = array + 1; i < end; i++) {
        size_t count;
        *bad_at_p = tokens[i].start_bytes;
        if (cs_json_kind_of(tokens[i]) != CS_JSON_INTEGERS ||
            !read_run(tokens[i], body, bad_at_p, out, SIZE_MAX, &count))
            return CS_TOKEN_ID;
        out += count;
    }
    return CS_OK;
}

cs_status cs_json_more_token_ids(
    cs_json_token run, const uint8_t *body, uint32_t *at_p, uint32_t *out, size_t room,
    size_t *count_p)
{
    *count_p = 0;
    return read_run(run, body, at_p, out, room, count_p) ? CS_OK : CS_TOKEN_ID;
}

size_t cs_json_plain_bytes(const uint8_t *text, size_t text_bytes)
{
    return (size_t)(cs_find_special(text, text + text_bytes, false) - text);
}
