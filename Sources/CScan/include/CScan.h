/*
 * Scanners of the texts that hot paths read: JSON bodies, Prometheus pages, msgpack payloads.
 *
 *   Status       cs_status, cs_status_message
 *   JSON         cs_json_feed, cs_json_finish; the tape they fill; cs_json_tape_free
 *   JSON values  cs_json_find, cs_json_equals, cs_json_unescape, cs_json_integer,
 *                cs_json_next_integer, cs_json_element_count, cs_json_token_ids,
 *                cs_json_more_token_ids,
 *                cs_json_plain_bytes, cs_decimal
 *   Prometheus   cs_prom_next, cs_prom_label; cs_prom_search_*: a few names of a page in pieces
 *   msgpack      cs_mp_next, cs_mp_skip, cs_mp_token_ids
 *
 * Nothing is copied but the lines that a search has to put together: results are offsets into the
 * caller's bytes. Nothing here locks, and nothing allocates but the growth of a JSON tape, the
 * making of a search and the growth of its line. All state is the caller's: a scanner, search,
 * tape or cursor belongs to one thread at a time, a finished tape may be read by many.
 */
#ifndef CSCAN_H
#define CSCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CS_STATUS_MAP(XX)                                                                          \
    XX(OK, 0, "success")                                                                           \
    XX(END, 1, "there is nothing more")                                                            \
    XX(NO_MEMORY, -1, "out of memory")                                                             \
    XX(TOO_LONG, -2, "the text is longer than 268435455 bytes")                                    \
    XX(TRUNCATED, -3, "the text ends too early")                                                   \
    XX(TOO_DEEP, -4, "arrays and objects are nested more than 128 deep")                           \
    XX(EXPECTED_VALUE, -5, "expected a value")                                                     \
    XX(EXPECTED_KEY, -6, "expected a property name in double quotes")                              \
    XX(EXPECTED_COLON, -7, "expected ':'")                                                         \
    XX(EXPECTED_COMMA, -8, "expected ',' or the end of the array or object")                       \
    XX(TRAILING, -9, "there is text after the value")                                              \
    XX(NUMBER, -10, "malformed number")                                                            \
    XX(CONTROL, -11, "control character in a string")                                              \
    XX(ESCAPE, -12, "malformed escape in a string")                                                \
    XX(SURROGATE, -13, "lone surrogate in a string")                                               \
    XX(UTF8, -14, "malformed UTF-8")                                                               \
    XX(TOKEN_ID, -15, "expected an integer between 0 and 4294967295")                              \
    XX(METRIC_NAME, -16, "malformed metric name")                                                  \
    XX(LABELS, -17, "malformed labels")                                                            \
    XX(SAMPLE_VALUE, -18, "malformed sample value")                                                \
    XX(FORMAT_BYTE, -19, "0xc1 starts no msgpack value")                                           \
    XX(KIND, -20, "the value is of another kind")

typedef enum cs_status {
#define XX(name, value, message) CS_##name = value,
    CS_STATUS_MAP(XX)
#undef XX
} cs_status;

/* Static text. */
const char *cs_status_message(cs_status status);

/* ---- JSON (RFC 8259): strict; strings are valid Unicode; duplicate keys are kept ---- */

#define CS_JSON_MAX_DEPTH 128
#define CS_JSON_MAX_BYTES 0x0fffffff
#define CS_JSON_NONE UINT32_MAX

typedef enum cs_json_kind {
    CS_JSON_NULL,
    CS_JSON_FALSE,
    CS_JSON_TRUE,
    CS_JSON_INTEGER,  /* digits with or without '-', of any length */
    CS_JSON_INTEGERS, /* all in a row in an array, commas included; tells their number */
    CS_JSON_REAL,
    CS_JSON_STRING,         /* its bytes are its value */
    CS_JSON_ESCAPED_STRING, /* holds escapes */
    CS_JSON_ARRAY,          /* followed by its elements */
    CS_JSON_OBJECT          /* followed by its members: a string, then a value, each */
} cs_json_kind;

/* One value or key: its text, quotes and brackets included. Token 0 is the whole document. All
 * integers of an array are in runs: a prompt of token ids is two tokens, however long. */
typedef struct cs_json_token {
    uint32_t start_bytes, end_bytes;
    uint32_t kind_next; /* read with the functions below */
} cs_json_token;

static inline cs_json_kind cs_json_kind_of(cs_json_token token)
{
    return (cs_json_kind)(token.kind_next >> 28);
}

/* How many integers there are in a CS_JSON_INTEGERS. */
static inline uint32_t cs_json_run_count(cs_json_token run)
{
    return run.kind_next & CS_JSON_MAX_BYTES;
}

/* The index of the first token that is neither the one at `index` nor inside it. */
static inline uint32_t cs_json_next_of(const cs_json_token *tokens, uint32_t index)
{
    bool is_run = cs_json_kind_of(tokens[index]) == CS_JSON_INTEGERS;
    return is_run ? index + 1 : tokens[index].kind_next & CS_JSON_MAX_BYTES;
}

/* Starts as zeros; may be used again for another document after `count` is set to 0. */
typedef struct cs_json_tape {
    cs_json_token *tokens;
    uint32_t count, capacity;
} cs_json_tape;

void cs_json_tape_free(cs_json_tape *tape);

/* Starts as zeros; the fields are private but for `at_bytes`, the place of an error. */
typedef struct cs_json_scanner {
    uint32_t at_bytes, known_bytes;
    cs_status status;
    uint32_t depth;
    uint8_t state, number_state;
    bool string_escaped;
    uint32_t run; /* the run that the next integer goes on with; 0: there is none */
    uint32_t open[CS_JSON_MAX_DEPTH];
} cs_json_scanner;

/*
 * Scans on. `body` holds the whole text so far, from its first byte; it may move between calls
 * but what was there must not change. CS_OK means: no error up to here. An error stays.
 */
cs_status cs_json_feed(
    cs_json_scanner *scanner, cs_json_tape *tape, const uint8_t *body, size_t known_bytes);

/* The text is at its end: CS_OK if it is one whole value. The tape is complete then. */
cs_status cs_json_finish(cs_json_scanner *scanner, cs_json_tape *tape);

/* ---- JSON values: of a body that was scanned without error, and its tape ---- */

/* The index of the value of `key` in an object, the last of duplicates; CS_JSON_NONE if absent. */
uint32_t cs_json_find(
    const cs_json_token *tokens, const uint8_t *body, uint32_t object, const uint8_t *key,
    size_t key_bytes);

/* Whether a string or key, unescaped, is `text`. */
bool cs_json_equals(
    cs_json_token string, const uint8_t *body, const uint8_t *text, size_t text_bytes);

/* Writes a string without quotes and escapes; `out` has room for the token's length. Returns the
 * length written. */
size_t cs_json_unescape(cs_json_token string, const uint8_t *body, uint8_t *out);

/* False if the token is not a CS_JSON_INTEGER that fits. */
bool cs_json_integer(cs_json_token token, const uint8_t *body, int64_t *value_p);

/* The next CS_JSON_INTEGER of a run from `*at_p`, which starts as the run's `start_bytes` and moves
 * behind it; false after the last. */
bool cs_json_next_integer(
    cs_json_token run, const uint8_t *body, uint32_t *at_p, cs_json_token *integer_p);

/* The number of elements of an array; 0 for any other value. */
uint32_t cs_json_element_count(const cs_json_token *tokens, uint32_t array);

/*
 * The elements of an array of token ids. `out` has room for all elements; after CS_TOKEN_ID
 * `*bad_at_p` is where the one stands that is none, after CS_KIND where the value stands.
 */
cs_status cs_json_token_ids(
    const cs_json_token *tokens, const uint8_t *body, uint32_t array, uint32_t *out,
    uint32_t *bad_at_p);

/*
 * Token ids of a run from `*at_p`, which starts as the run's `start_bytes` and moves behind them:
 * at most `room`, which is at least CS_JSON_LEAST_ROOM. None are left where it is the run's
 * `end_bytes`. The run may be one that the scanner still makes longer: `*at_p` holds for it when it
 * has. After CS_TOKEN_ID `*at_p` is where the integer stands that is none.
 */
#define CS_JSON_LEAST_ROOM 64
cs_status cs_json_more_token_ids(
    cs_json_token run, const uint8_t *body, uint32_t *at_p, uint32_t *out, size_t room,
    size_t *count_p);

/* How many bytes at the start of `text` stand for themselves inside a JSON string. */
size_t cs_json_plain_bytes(const uint8_t *text, size_t text_bytes);

/* A decimal number whose double is exact by two correctly rounded steps (up to 19 digits, small
 * exponent). False for any other text, which is then a matter for a slower reader. */
bool cs_decimal(const uint8_t *text, size_t text_bytes, double *value_p);

/* ---- Prometheus text 0.0.4 and OpenMetrics 1.0 ---- */

/* One sample: offsets into the page. Timestamp and exemplar are not kept. */
typedef struct cs_prom_sample {
    size_t name_start_bytes, name_end_bytes;
    size_t labels_start_bytes, labels_end_bytes; /* inside the braces; empty if there are none */
    size_t value_start_bytes, value_end_bytes;
} cs_prom_sample;

/* The next sample from `*at_p`, which moves behind its line; CS_END after the last. After an
 * error `*at_p` is the start of the line at fault. Comments and empty lines are passed over. */
cs_status cs_prom_next(
    const uint8_t *page, size_t page_bytes, size_t *at_p, cs_prom_sample *sample_p);

/* The text between the quotes of a label, escapes (`\\`, `\"`, `\n`) as they stand. */
bool cs_prom_label(
    const uint8_t *page, const cs_prom_sample *sample, const uint8_t *name, size_t name_bytes,
    size_t *start_bytes_p, size_t *end_bytes_p);

/* A search for the samples of a few names in page after page. */
typedef struct cs_prom_search cs_prom_search;

/* `names` are the names one behind the other, none empty, with their lengths. NULL: no memory. */
cs_prom_search *cs_prom_search_create(
    const uint8_t *names, const size_t *names_bytes, size_t names_count);
void cs_prom_search_free(cs_prom_search *search);

/* Forgets what was read: a new page begins. */
void cs_prom_search_restart(cs_prom_search *search);

/* A sample that was found: its line, valid until the next call, and offsets into the line. */
typedef struct cs_prom_found {
    const uint8_t *line;
    size_t line_bytes;
    uint32_t name_index;
    cs_prom_sample sample;
} cs_prom_found;

/*
 * The next sample of one of the names from `*at_p` in the next piece of the page, which may end
 * anywhere. CS_END: there is none, and the piece has been read; what a line began in it is kept.
 * A line that begins with one of the names and is malformed is an error; the search goes on behind
 * it. Lines of other names are not looked at, so that nothing is said of their form.
 */
cs_status cs_prom_search_next(
    cs_prom_search *search, const uint8_t *piece, size_t piece_bytes, size_t *at_p,
    cs_prom_found *found_p);

/* The sample in the last line of the page, if no newline ends it; CS_END if there is none. */
cs_status cs_prom_search_last(cs_prom_search *search, cs_prom_found *found_p);

/* Where in its page the line stands that was found or is at fault. */
size_t cs_prom_search_line_at(const cs_prom_search *search);

/* ---- msgpack: every format; headers need not be minimal ---- */

typedef enum cs_mp_kind {
    CS_MP_NIL,
    CS_MP_FALSE,
    CS_MP_TRUE,
    CS_MP_UINT,
    CS_MP_INT, /* negative */
    CS_MP_FLOAT,
    CS_MP_STRING,
    CS_MP_BINARY,
    CS_MP_ARRAY,
    CS_MP_MAP,
    CS_MP_EXTENSION
} cs_mp_kind;

typedef struct cs_mp_item {
    cs_mp_kind kind;
    int8_t extension_type;
    uint32_t count; /* bytes of a string, binary or extension; elements; pairs of a map */
    union {
        uint64_t unsigned_value;
        int64_t signed_value;
        double float_value;
        size_t start_bytes; /* of the bytes of a string, binary or extension */
    };
} cs_mp_item;

/*
 * The next value or header from `*at_p`, which moves behind it; on an error it stays. A header
 * that promises more elements than there are bytes left is CS_TRUNCATED.
 */
cs_status cs_mp_next(const uint8_t *bytes, size_t bytes_count, size_t *at_p, cs_mp_item *item_p);

/* Moves behind the next whole value, of any depth; uses no stack for depth. */
cs_status cs_mp_skip(const uint8_t *bytes, size_t bytes_count, size_t *at_p);

/* The `count` elements behind an array header, all token ids. */
cs_status cs_mp_token_ids(
    const uint8_t *bytes, size_t bytes_count, size_t *at_p, uint32_t count, uint32_t *out);

/* The `count` elements behind an array header, all names of 64 bits: integers of either sign, or
 * binaries of which the last 8 bytes are taken, big-endian. CS_KIND if one is something else. */
cs_status cs_mp_words(
    const uint8_t *bytes, size_t bytes_count, size_t *at_p, uint32_t count, uint64_t *out);

#ifdef __cplusplus
}
#endif

#endif
