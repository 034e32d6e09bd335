/* The resumable scanner: one state per place in the grammar, so that it can stop at any byte. */
#include "CScan.h"
#include "text.h"

#include <stdlib.h>

enum state {
    VALUE, /* also the start of the document */
    FIRST_ELEMENT,
    FIRST_KEY,
    KEY,
    COLON,
    AFTER_VALUE,
    IN_KEY,
    IN_STRING,
    IN_NUMBER
};

/* The part of a number that was read last. */
enum number_state { MINUS, ZERO, INTEGER, POINT, FRACTION, E, E_SIGN, EXPONENT };

static bool push(cs_json_tape *tape, size_t start_bytes, cs_json_kind kind)
{
    if (tape->count == tape->capacity) {
        uint32_t capacity = tape->capacity == 0 ? 64 : tape->capacity * 2;
        cs_json_token *tokens = realloc(tape->tokens, capacity * sizeof *tokens);
        if (tokens == NULL)
            return false;
        tape->tokens = tokens;
        tape->capacity = capacity;
    }
    tape->tokens[tape->count++] =
        (cs_json_token){(uint32_t)start_bytes, 0, (uint32_t)kind << 28};
    return true;
}

/* Ends the token at `index`; everything after it on the tape lies inside it. */
static void end_token(cs_json_tape *tape, uint32_t index, size_t end_bytes, cs_json_kind kind)
{
    tape->tokens[index].end_bytes = (uint32_t)end_bytes;
    tape->tokens[index].kind_next = (uint32_t)kind << 28 | tape->count;
}

static bool is_array(const cs_json_tape *tape, uint32_t index)
{
    return cs_json_kind_of(tape->tokens[index]) == CS_JSON_ARRAY;
}

static int hex_digit(uint8_t c)
{
    if (cs_is_digit(c))
        return c - '0';
    uint8_t lower = c | 0x20;
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* `\uXXXX` at `p`: its code unit; -1 if malformed, -2 if the text ends first. */
static int code_unit(const uint8_t *p, const uint8_t *end)
{
    int unit = 0;
    for (int i = 0; i < 6; i++) {
        if (end - p <= i)
            return -2;
        int digit = i < 2 ? 0 : hex_digit(p[i]);
        if (i < 2 ? p[i] != "\\u"[i] : digit < 0)
            return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

/* The escape at `p`: `*length_p` bytes long; CS_END if the text ends inside it. */
static cs_status scan_escape(const uint8_t *p, const uint8_t *end, size_t *length_p)
{
    if (end - p < 2)
        return CS_END;
    if (p[1] != 'u') {
        if (p[1] == 0 || strchr("\"\\/bfnrt", p[1]) == NULL)
            return CS_ESCAPE;
        *length_p = 2;
        return CS_OK;
    }
    int unit = code_unit(p, end);
    if (unit < 0)
        return unit == -1 ? CS_ESCAPE : CS_END;
    if ((unit & 0xf800) != 0xd800) {
        *length_p = 6;
        return CS_OK;
    }
    if (unit >= 0xdc00)
        return CS_SURROGATE;
    int low = code_unit(p + 6, end);
    if (low == -2)
        return CS_END;
    if (low < 0xdc00 || low > 0xdfff)
        return CS_SURROGATE;
    *length_p = 12;
    return CS_OK;
}

/* Moves to the closing quote; CS_END if the text ends first, `*at` being where to go on. */
static cs_status scan_string(const uint8_t **at, const uint8_t *end, bool *escaped)
{
    const uint8_t *p = *at;
    cs_status status = CS_OK;
    while (status == CS_OK) {
        *at = p = cs_find_special(p, end, true);
        if (p == end)
            return CS_END;
        if (*p == '"')
            return CS_OK;
        if (*p < 0x20)
            return CS_CONTROL;
        if (*p == '\\') {
            size_t length = 0;
            *escaped = true;
            status = scan_escape(p, end, &length);
            p += length;
        } else {
            int length = 1;
            while (p < end && *p >= 0x80 && (length = cs_utf8_sequence(p, end)) > 0)
                p += length;
            *at = p;
            if (length <= 0)
                return length == 0 ? CS_END : CS_UTF8;
        }
    }
    return status;
}

static const uint8_t *skip_digits(const uint8_t *p, const uint8_t *end)
{
    while (p < end && cs_is_digit(*p))
        p++;
    return p;
}

/* Moves over what can belong to the number and keeps in `*state` what was read last. */
static const uint8_t *scan_number(const uint8_t *p, const uint8_t *end, uint8_t *state)
{
    while (p < end) {
        uint8_t c = *p, next;
        switch (*state) {
        case MINUS:
            next = c == '0' ? ZERO : INTEGER;
            if (!cs_is_digit(c))
                return p;
            break;
        case INTEGER:
            p = skip_digits(p, end);
            if (p == end)
                return p;
            c = *p;
            /* fall through */
        case ZERO:
            if (c != '.' && (c | 0x20) != 'e')
                return p;
            next = c == '.' ? POINT : E;
            break;
        case POINT:
            next = FRACTION;
            if (!cs_is_digit(c))
                return p;
            break;
        case FRACTION:
            p = skip_digits(p, end);
            if (p == end || (*p | 0x20) != 'e')
                return p;
            next = E;
            break;
        case E:
            next = c == '+' || c == '-' ? E_SIGN : EXPONENT;
            if (next == EXPONENT && !cs_is_digit(c))
                return p;
            break;
        case E_SIGN:
            next = EXPONENT;
            if (!cs_is_digit(c))
                return p;
            break;
        default:
            return skip_digits(p, end);
        }
        *state = next;
        p++;
    }
    return p;
}

/* Makes the run longer by integers that end before `end_bytes`. */
static void extend_run(cs_json_tape *tape, uint32_t run, uint32_t count, size_t end_bytes)
{
    tape->tokens[run].end_bytes = (uint32_t)end_bytes;
    tape->tokens[run].kind_next += count;
}

static bool is_in_array(const cs_json_scanner *s, const cs_json_tape *tape)
{
    return s->depth > 0 && is_array(tape, s->open[s->depth - 1]);
}

/* Ends the number that is the last token, if it may end as it stands. */
static bool end_number(cs_json_scanner *s, cs_json_tape *tape, size_t end_bytes)
{
    uint8_t state = s->number_state;
    bool integer = state == ZERO || state == INTEGER;
    if (!integer && state != FRACTION && state != EXPONENT)
        return false;
    uint32_t index = tape->count - 1;
    if (!integer || !is_in_array(s, tape)) {
        end_token(tape, index, end_bytes, integer ? CS_JSON_INTEGER : CS_JSON_REAL);
        s->run = 0;
        return true;
    }
    if (s->run == 0) {
        s->run = index;
        tape->tokens[index].kind_next = (uint32_t)CS_JSON_INTEGERS << 28;
    } else {
        tape->count--;
    }
    extend_run(tape, s->run, 1, end_bytes);
    return true;
}

/* `true`, `false` or `null` at `p`: CS_END if the text ends inside it. */
static cs_status scan_literal(
    const uint8_t *p, const uint8_t *end, cs_json_kind *kind_p, size_t *length_p)
{
    static const struct {
        const char *text;
        cs_json_kind kind;
    } literals[] = {{"true", CS_JSON_TRUE}, {"false", CS_JSON_FALSE}, {"null", CS_JSON_NULL}};
    for (size_t i = 0; i < 3; i++) {
        size_t length = strlen(literals[i].text), known = (size_t)(end - p);
        if (memcmp(p, literals[i].text, known < length ? known : length) != 0)
            continue;
        *kind_p = literals[i].kind;
        *length_p = length;
        return known < length ? CS_END : CS_OK;
    }
    return CS_EXPECTED_VALUE;
}

/* Integers that are followed by commas, the bulk of a prompt of token ids, many bytes at a time and
 * without a branch per integer. Returns where to go on; `p` if there are none or the tape cannot
 * grow. */
static const uint8_t *scan_integers(
    cs_json_scanner *s, cs_json_tape *tape, const uint8_t *body, const uint8_t *p,
    const uint8_t *end)
{
    const uint8_t *first = p, *last_comma = NULL;
    uint32_t count = 0;
    /* Whether the byte before is a digit, a comma, or the first digit of a number and 0. */
    uint32_t after_digit = 0, after_comma = 0, after_zero = 0;
    for (; end - p >= CS_LIST_BYTES; p += CS_LIST_BYTES) {
        cs_list_masks masks = cs_list_masks_of(p);
        uint32_t behind_digits = masks.digits << 1 | after_digit;
        uint32_t behind_commas = masks.commas << 1 | after_comma;
        uint32_t first_zeros = masks.zeros & ~behind_digits;
        uint32_t wrong = ~(masks.digits | masks.commas | masks.spaces);
        wrong |= masks.commas & ~behind_digits;
        wrong |= masks.spaces & ~behind_commas;
        wrong |= masks.digits & (first_zeros << 1 | after_zero);
        wrong &= (1u << CS_LIST_BYTES) - 1;
        /* What is right up to the first wrong byte still counts. */
        uint32_t commas = wrong == 0 ? masks.commas : masks.commas & ((wrong & -wrong) - 1);
        if (commas != 0) {
            count += (uint32_t)__builtin_popcount(commas);
            last_comma = p + (31 - __builtin_clz(commas));
        }
        if (wrong != 0)
            break;
        after_digit = masks.digits >> (CS_LIST_BYTES - 1);
        after_comma = masks.commas >> (CS_LIST_BYTES - 1);
        after_zero = first_zeros >> (CS_LIST_BYTES - 1);
    }
    if (count == 0)
        return first;
    if (s->run == 0) {
        if (!push(tape, (size_t)(first - body), CS_JSON_INTEGERS))
            return first;
        s->run = tape->count - 1;
    }
    extend_run(tape, s->run, count, (size_t)(last_comma - body));
    return last_comma + 1;
}

/* The first byte of a value at `*p`. */
static cs_status begin_value(
    cs_json_scanner *s, cs_json_tape *tape, const uint8_t *body, const uint8_t **p,
    const uint8_t *end)
{
    if (is_in_array(s, tape)) {
        const uint8_t *rest = scan_integers(s, tape, body, *p, end);
        if (rest != *p) {
            *p = rest;
            s->state = VALUE;
            return CS_OK;
        }
    }
    size_t start = (size_t)(*p - body);
    uint8_t c = **p;
    cs_json_kind kind;
    size_t length = 1;
    if (c == '"') {
        kind = CS_JSON_STRING;
        s->state = IN_STRING;
        s->string_escaped = false;
    } else if (cs_is_digit(c) || c == '-') {
        kind = CS_JSON_INTEGER;
        s->state = IN_NUMBER;
        s->number_state = c == '-' ? MINUS : c == '0' ? ZERO : INTEGER;
    } else if (c == '[' || c == '{') {
        if (s->depth == CS_JSON_MAX_DEPTH)
            return CS_TOO_DEEP;
        kind = c == '[' ? CS_JSON_ARRAY : CS_JSON_OBJECT;
        s->state = c == '[' ? FIRST_ELEMENT : FIRST_KEY;
        s->open[s->depth++] = tape->count;
    } else {
        cs_status status = scan_literal(*p, end, &kind, &length);
        if (status != CS_OK)
            return status;
        s->state = AFTER_VALUE;
    }
    if (!push(tape, start, kind))
        return CS_NO_MEMORY;
    if (s->state != IN_NUMBER)
        s->run = 0;
    if (s->state == AFTER_VALUE)
        end_token(tape, tape->count - 1, start + length, kind);
    *p += length;
    return CS_OK;
}

static void end_container(cs_json_scanner *s, cs_json_tape *tape, size_t end_bytes)
{
    uint32_t index = s->open[--s->depth];
    end_token(tape, index, end_bytes, cs_json_kind_of(tape->tokens[index]));
    s->run = 0;
    s->state = AFTER_VALUE;
}

/* A comma or a closing bracket at `c`. */
static cs_status after_value(cs_json_scanner *s, cs_json_tape *tape, uint8_t c, size_t end_bytes)
{
    if (s->depth == 0)
        return CS_TRAILING;
    bool array = is_array(tape, s->open[s->depth - 1]);
    if (c == ',')
        s->state = array ? VALUE : KEY;
    else if (c == (array ? ']' : '}'))
        end_container(s, tape, end_bytes);
    else
        return CS_EXPECTED_COMMA;
    return CS_OK;
}

/* One token or mark at `*p`; CS_END if the text ends inside it, `*p` being where to go on. */
static cs_status step(
    cs_json_scanner *s, cs_json_tape *tape, const uint8_t *body, const uint8_t **p,
    const uint8_t *end)
{
    cs_status status;
    switch (s->state) {
    case IN_KEY:
    case IN_STRING:
        status = scan_string(p, end, &s->string_escaped);
        if (status != CS_OK)
            return status;
        (*p)++;
        end_token(
            tape, tape->count - 1, (size_t)(*p - body),
            s->string_escaped ? CS_JSON_ESCAPED_STRING : CS_JSON_STRING);
        s->state = s->state == IN_KEY ? COLON : AFTER_VALUE;
        return CS_OK;
    case IN_NUMBER:
        *p = scan_number(*p, end, &s->number_state);
        if (*p == end)
            return CS_END;
        if (!end_number(s, tape, (size_t)(*p - body)))
            return CS_NUMBER;
        s->state = AFTER_VALUE;
        return CS_OK;
    }
    while (*p < end && (**p == ' ' || **p == '\n' || **p == '\r' || **p == '\t'))
        (*p)++;
    if (*p == end)
        return CS_END;
    switch (s->state) {
    case AFTER_VALUE:
        status = after_value(s, tape, **p, (size_t)(*p - body) + 1);
        *p += status == CS_OK;
        return status;
    case COLON:
        if (**p != ':')
            return CS_EXPECTED_COLON;
        (*p)++;
        s->state = VALUE;
        return CS_OK;
    case FIRST_KEY:
        if (**p == '}') {
            end_container(s, tape, (size_t)(++*p - body));
            return CS_OK;
        }
        /* fall through */
    case KEY:
        if (**p != '"')
            return CS_EXPECTED_KEY;
        if (!push(tape, (size_t)(*p - body), CS_JSON_STRING))
            return CS_NO_MEMORY;
        (*p)++;
        s->state = IN_KEY;
        s->string_escaped = false;
        return CS_OK;
    case FIRST_ELEMENT:
        if (**p == ']') {
            end_container(s, tape, (size_t)(++*p - body));
            return CS_OK;
        }
        /* fall through */
    default:
        return begin_value(s, tape, body, p, end);
    }
}

cs_status cs_json_feed(
    cs_json_scanner *scanner, cs_json_tape *tape, const uint8_t *body, size_t known_bytes)
{
    if (scanner->status != CS_OK)
        return scanner->status;
    if (known_bytes > CS_JSON_MAX_BYTES) {
        scanner->at_bytes = CS_JSON_MAX_BYTES;
        return scanner->status = CS_TOO_LONG;
    }
    const uint8_t *p = body + scanner->at_bytes, *end = body + known_bytes;
    cs_status status;
    do
        status = step(scanner, tape, body, &p, end);
    while (status == CS_OK);
    scanner->at_bytes = (uint32_t)(p - body);
    scanner->known_bytes = (uint32_t)known_bytes;
    return scanner->status = status == CS_END ? CS_OK : status;
}

cs_status cs_json_finish(cs_json_scanner *scanner, cs_json_tape *tape)
{
    if (scanner->status != CS_OK)
        return scanner->status;
    scanner->at_bytes = scanner->known_bytes;
    if (scanner->state == IN_NUMBER && scanner->depth == 0 &&
        end_number(scanner, tape, scanner->known_bytes))
        scanner->state = AFTER_VALUE;
    if (scanner->state == AFTER_VALUE && scanner->depth == 0)
        return CS_OK;
    return scanner->status = CS_TRUNCATED;
}

void cs_json_tape_free(cs_json_tape *tape)
{
    free(tape->tokens);
    *tape = (cs_json_tape){NULL, 0, 0};
}
