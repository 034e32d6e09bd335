#include "json_feeding.h"

#include <inttypes.h>

/* Texts with a NUL byte give their length; 0 stands for strlen. */
static const struct {
    const char *text;
    size_t size;
    cs_status status;
    uint32_t at_bytes;
} cases[] = {
    {"null", 0, CS_OK, 0},
    {" \t\r\n true \n", 0, CS_OK, 0},
    {"false", 0, CS_OK, 0},
    {"0", 0, CS_OK, 0},
    {"-0", 0, CS_OK, 0},
    {"-12.5e+10", 0, CS_OK, 0},
    {"1E400", 0, CS_OK, 0},
    {"123456789012345678901234567890", 0, CS_OK, 0},
    {"0.00", 0, CS_OK, 0},
    {"[]", 0, CS_OK, 0},
    {"{}", 0, CS_OK, 0},
    {"[ ]", 0, CS_OK, 0},
    {"{ }", 0, CS_OK, 0},
    {"[[],{},[{}]]", 0, CS_OK, 0},
    {"[1,2.5,-3e2,\"x\",true,false,null]", 0, CS_OK, 0},
    {"{\"a\":1,\"a\":2}", 0, CS_OK, 0},
    {"{\"\":{\"b\":[1,{\"c\":null}]}}", 0, CS_OK, 0},
    {"\"\"", 0, CS_OK, 0},
    {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", 0, CS_OK, 0},
    {"\"\\u0041\\u00e9\\u20AC\\uD83D\\uDE00\\u0000\"", 0, CS_OK, 0},
    {"\"\x7f \xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf\"", 0, CS_OK, 0},
    {"\"\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf\"", 0, CS_OK, 0},

    {"", 0, CS_TRUNCATED, 0},
    {"  ", 0, CS_TRUNCATED, 2},
    {"tru", 0, CS_TRUNCATED, 3},
    {"[", 0, CS_TRUNCATED, 1},
    {"[1", 0, CS_TRUNCATED, 2},
    {"[1,", 0, CS_TRUNCATED, 3},
    {"{\"a\"", 0, CS_TRUNCATED, 4},
    {"{\"a\":", 0, CS_TRUNCATED, 5},
    {"{\"a\":1", 0, CS_TRUNCATED, 6},
    {"\"abc", 0, CS_TRUNCATED, 4},
    {"\"abc\\", 0, CS_TRUNCATED, 5},
    {"\"\\u12", 0, CS_TRUNCATED, 5},
    {"\"\\ud83d\\ude", 0, CS_TRUNCATED, 11},
    {"\"\xe2\x82", 0, CS_TRUNCATED, 3},
    {"-", 0, CS_TRUNCATED, 1},
    {"1.", 0, CS_TRUNCATED, 2},
    {"1e", 0, CS_TRUNCATED, 2},
    {"1e+", 0, CS_TRUNCATED, 3},

    {"nul1", 0, CS_EXPECTED_VALUE, 0},
    {"nan", 0, CS_EXPECTED_VALUE, 0},
    {"True", 0, CS_EXPECTED_VALUE, 0},
    {"'a'", 0, CS_EXPECTED_VALUE, 0},
    {"+1", 0, CS_EXPECTED_VALUE, 0},
    {".5", 0, CS_EXPECTED_VALUE, 0},
    {"\xef\xbb\xbf{}", 0, CS_EXPECTED_VALUE, 0},
    {"\0", 1, CS_EXPECTED_VALUE, 0},
    {"[,1]", 0, CS_EXPECTED_VALUE, 1},
    {"[1,]", 0, CS_EXPECTED_VALUE, 3},
    {"[1,,2]", 0, CS_EXPECTED_VALUE, 3},
    {"{\"a\":}", 0, CS_EXPECTED_VALUE, 5},
    {"[}", 0, CS_EXPECTED_VALUE, 1},
    {"/**/1", 0, CS_EXPECTED_VALUE, 0},
    {"{]", 0, CS_EXPECTED_KEY, 1},
    {"{a:1}", 0, CS_EXPECTED_KEY, 1},
    {"{1:1}", 0, CS_EXPECTED_KEY, 1},
    {"{\"a\":1,}", 0, CS_EXPECTED_KEY, 7},
    {"{\"a\" 1}", 0, CS_EXPECTED_COLON, 5},
    {"{\"a\",1}", 0, CS_EXPECTED_COLON, 4},
    {"[1 2]", 0, CS_EXPECTED_COMMA, 3},
    {"[1:2]", 0, CS_EXPECTED_COMMA, 2},
    {"[1}", 0, CS_EXPECTED_COMMA, 2},
    {"{\"a\":1]", 0, CS_EXPECTED_COMMA, 6},
    {"[truex]", 0, CS_EXPECTED_COMMA, 5},
    {"[01]", 0, CS_EXPECTED_COMMA, 2},
    {"[-01]", 0, CS_EXPECTED_COMMA, 3},
    {"[1,01,2]", 0, CS_EXPECTED_COMMA, 4},
    {"[0x1]", 0, CS_EXPECTED_COMMA, 2},
    {"[\"a\"\"b\"]", 0, CS_EXPECTED_COMMA, 4},
    {"[1\0]", 4, CS_EXPECTED_COMMA, 2},
    {"{} {}", 0, CS_TRAILING, 3},
    {"1 2", 0, CS_TRAILING, 2},
    {"[]]", 0, CS_TRAILING, 2},
    {"null\0", 5, CS_TRAILING, 4},
    {"[-]", 0, CS_NUMBER, 2},
    {"[-a]", 0, CS_NUMBER, 2},
    {"[1.]", 0, CS_NUMBER, 3},
    {"[1.e1]", 0, CS_NUMBER, 3},
    {"[1e]", 0, CS_NUMBER, 3},
    {"[1e+]", 0, CS_NUMBER, 4},
    {"[1e1.5]", 0, CS_EXPECTED_COMMA, 4},
    {"[1.5.5]", 0, CS_EXPECTED_COMMA, 4},
    {"\"a\nb\"", 0, CS_CONTROL, 2},
    {"\"a\0b\"", 5, CS_CONTROL, 2},
    {"\"\x1f\"", 0, CS_CONTROL, 1},
    {"{\"a\tb\":1}", 0, CS_CONTROL, 3},
    {"\"\\x41\"", 0, CS_ESCAPE, 1},
    {"\"\\'\"", 0, CS_ESCAPE, 1},
    {"\"\\\0\"", 4, CS_ESCAPE, 1},
    {"\"\\U0041\"", 0, CS_ESCAPE, 1},
    {"\"\\u00g0\"", 0, CS_ESCAPE, 1},
    {"\"\\u00\"", 0, CS_ESCAPE, 1},
    {"\"\\ud83d\"", 0, CS_SURROGATE, 1},
    {"\"\\ude00\"", 0, CS_SURROGATE, 1},
    {"\"\\ud83d\\n\"", 0, CS_SURROGATE, 1},
    {"\"\\ud83d\\u0041\"", 0, CS_SURROGATE, 1},
    {"\"\\ud83dabcdefgh\"", 0, CS_SURROGATE, 1},
    {"\"\\ud83d\\ue000\"", 0, CS_SURROGATE, 1},
    {"\"\\udc00\\udc00\"", 0, CS_SURROGATE, 1},
    {"\"\x80\"", 0, CS_UTF8, 1},
    {"\"\xc0\xaf\"", 0, CS_UTF8, 1},
    {"\"\xc1\xbf\"", 0, CS_UTF8, 1},
    {"\"\xc3(\"", 0, CS_UTF8, 1},
    {"\"\xe0\x9f\x80\"", 0, CS_UTF8, 1},
    {"\"\xed\xa0\x80\"", 0, CS_UTF8, 1},
    {"\"\xe2\x82(\"", 0, CS_UTF8, 1},
    {"\"\xf0\x8f\x80\x80\"", 0, CS_UTF8, 1},
    {"\"\xf4\x90\x80\x80\"", 0, CS_UTF8, 1},
    {"\"\xf5\x80\x80\x80\"", 0, CS_UTF8, 1},
    {"\"ok\xff\"", 0, CS_UTF8, 3},
};

static void check_every_split(const uint8_t *text, size_t size, const struct scan *whole)
{
    for (size_t split = 0; split <= size; split++) {
        struct scan other = scan_split(text, size, split);
        check_same(whole, &other);
        if (other.status == CS_OK)
            check_run(&other, text);
        cs_json_tape_free(&other.tape);
    }
    for (size_t step = 1; step <= 3; step++) {
        struct scan other = scan_steps(text, size, step);
        check_same(whole, &other);
        if (other.status == CS_OK)
            check_run(&other, text);
        cs_json_tape_free(&other.tape);
    }
}

static void test_cases(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint8_t *text = (const uint8_t *)cases[i].text;
        size_t size = cases[i].size != 0 ? cases[i].size : strlen(cases[i].text);
        struct scan whole = scan_whole(text, size);
        CHECK(whole.status == cases[i].status, "case %zu, %s: %s", i, cases[i].text,
              cs_status_message(whole.status));
        if (whole.status != CS_OK)
            CHECK(whole.scanner.at_bytes == cases[i].at_bytes, "case %zu, %s: at %u", i,
                  cases[i].text, whole.scanner.at_bytes);
        check_every_split(text, size, &whole);
        cs_json_tape_free(&whole.tape);
    }
}

/* A special byte at every place of strings around the width of the vector loops. */
static void test_string_edges(void)
{
    static const struct {
        const char *piece;
        cs_status status;
    } pieces[] = {{"\\n", CS_OK},   {"\xc3\xa9", CS_OK}, {"\xe2\x82\xac", CS_OK},
                  {"\x1f", CS_CONTROL}, {"\xff", CS_UTF8},   {" ", CS_OK},
                  {"!", CS_OK},     {"#", CS_OK},        {"[", CS_OK},
                  {"]", CS_OK},     {"\x7f", CS_OK},     {"\\x", CS_ESCAPE}};
    for (size_t length = 0; length <= 70; length++)
        for (size_t at = 0; at <= length; at++)
            for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
                uint8_t text[128];
                size_t size = 0, piece = strlen(pieces[i].piece);
                text[size++] = '"';
                memset(text + size, 'x', length);
                memcpy(text + size + at, pieces[i].piece, piece);
                size += length > at + piece ? length : at + piece;
                text[size++] = '"';
                struct scan scan = scan_whole(text, size);
                CHECK(scan.status == pieces[i].status, "length %zu, piece %zu at %zu", length, i,
                      at);
                if (scan.status == CS_OK)
                    CHECK(scan.tape.tokens[0].end_bytes == size, "length %zu", length);
                else
                    CHECK(scan.scanner.at_bytes == at + 1, "length %zu", length);
                cs_json_tape_free(&scan.tape);
            }
}

static void test_depth(void)
{
    uint8_t text[2 * CS_JSON_MAX_DEPTH + 2];
    memset(text, '[', CS_JSON_MAX_DEPTH);
    memset(text + CS_JSON_MAX_DEPTH, ']', CS_JSON_MAX_DEPTH);
    struct scan deep = scan_whole(text, 2 * CS_JSON_MAX_DEPTH);
    CHECK(deep.status == CS_OK, "%d", deep.status);
    cs_json_tape_free(&deep.tape);
    memset(text, '[', CS_JSON_MAX_DEPTH + 1);
    struct scan deeper = scan_whole(text, CS_JSON_MAX_DEPTH + 1);
    CHECK(deeper.status == CS_TOO_DEEP && deeper.scanner.at_bytes == CS_JSON_MAX_DEPTH, "%d",
          deeper.status);
    cs_json_tape_free(&deeper.tape);
}

static void test_too_long(void)
{
    cs_json_scanner scanner = {0};
    cs_json_tape tape = {0};
    /* The length is refused before a byte is read. */
    CHECK(cs_json_feed(&scanner, &tape, (const uint8_t *)"", (size_t)CS_JSON_MAX_BYTES + 1) ==
              CS_TOO_LONG,
          "accepted");
}

static void test_tape(void)
{
    const uint8_t *text = (const uint8_t *)"{\"a\": [1, {\"b\\n\": -2.5}], \"c\" : \"x\\u20ac\"} ";
    static const struct {
        cs_json_kind kind;
        uint32_t start, end, next;
    } expected[] = {
        {CS_JSON_OBJECT, 0, 42, 9},    {CS_JSON_STRING, 1, 4, 2},
        {CS_JSON_ARRAY, 6, 24, 7},     {CS_JSON_INTEGERS, 7, 8, 4},
        {CS_JSON_OBJECT, 10, 23, 7},   {CS_JSON_ESCAPED_STRING, 11, 16, 6},
        {CS_JSON_REAL, 18, 22, 7},     {CS_JSON_STRING, 26, 29, 8},
        {CS_JSON_ESCAPED_STRING, 32, 41, 9},
    };
    struct scan scan = scan_whole(text, strlen((const char *)text));
    CHECK(scan.status == CS_OK, "%d at %u", scan.status, scan.scanner.at_bytes);
    CHECK(scan.tape.count == 9, "%u", scan.tape.count);
    for (uint32_t i = 0; i < 9; i++) {
        cs_json_token token = scan.tape.tokens[i];
        CHECK(cs_json_kind_of(token) == expected[i].kind, "token %u", i);
        CHECK(token.start_bytes == expected[i].start, "token %u: %u", i, token.start_bytes);
        CHECK(token.end_bytes == expected[i].end, "token %u: %u", i, token.end_bytes);
        CHECK(cs_json_next_of(scan.tape.tokens, i) == expected[i].next, "token %u", i);
    }
    CHECK(cs_json_find(scan.tape.tokens, text, 0, (const uint8_t *)"c", 1) == 8, "find");
    CHECK(cs_json_find(scan.tape.tokens, text, 4, (const uint8_t *)"b\n", 2) == 6, "find escaped");
    CHECK(cs_json_find(scan.tape.tokens, text, 0, (const uint8_t *)"b\n", 2) == CS_JSON_NONE,
          "found in another object");
    uint8_t out[16];
    CHECK(cs_json_unescape(scan.tape.tokens[8], text, out) == 4, "unescape");
    CHECK(memcmp(out, "x\xe2\x82\xac", 4) == 0, "unescape");
    cs_json_tape_free(&scan.tape);
}

/* Integers of an array are one token as far as nothing else comes between, however they are fed. */
static void test_runs(void)
{
    const char *json = "[1, 22,333 ,-4,5.5,6,[7,8],9,{\"a\":10},11]";
    const uint8_t *text = (const uint8_t *)json;
    static const struct {
        cs_json_kind kind;
        const char *text;
        uint32_t count;
    } expected[] = {
        {CS_JSON_ARRAY, NULL, 10},    {CS_JSON_INTEGERS, "1, 22,333 ,-4", 4},
        {CS_JSON_REAL, "5.5", 0},     {CS_JSON_INTEGERS, "6", 1},
        {CS_JSON_ARRAY, "[7,8]", 2},  {CS_JSON_INTEGERS, "7,8", 2},
        {CS_JSON_INTEGERS, "9", 1},   {CS_JSON_OBJECT, "{\"a\":10}", 0},
        {CS_JSON_STRING, "\"a\"", 0}, {CS_JSON_INTEGER, "10", 0},
        {CS_JSON_INTEGERS, "11", 1},
    };
    struct scan scan = scan_whole(text, strlen(json));
    check_every_split(text, strlen(json), &scan);
    const cs_json_token *tokens = scan.tape.tokens;
    CHECK(scan.tape.count == sizeof expected / sizeof expected[0], "%u", scan.tape.count);
    for (uint32_t i = 0; i < scan.tape.count; i++) {
        CHECK(cs_json_kind_of(tokens[i]) == expected[i].kind, "token %u", i);
        CHECK(expected[i].text == NULL ||
                  (tokens[i].end_bytes - tokens[i].start_bytes == strlen(expected[i].text) &&
                   memcmp(text + tokens[i].start_bytes, expected[i].text,
                          strlen(expected[i].text)) == 0),
              "token %u", i);
        uint32_t count = expected[i].kind == CS_JSON_INTEGERS ? cs_json_run_count(tokens[i])
                                                              : cs_json_element_count(tokens, i);
        CHECK(count == expected[i].count, "token %u: %u", i, count);
    }
    static const int64_t values[] = {1, 22, 333, -4};
    uint32_t at = tokens[1].start_bytes, count = 0;
    cs_json_token integer;
    for (; cs_json_next_integer(tokens[1], text, &at, &integer); count++) {
        int64_t value = 0;
        CHECK(count < 4 && cs_json_integer(integer, text, &value) && value == values[count],
              "%u: %" PRId64, count, value);
    }
    CHECK(count == 4, "%u", count);
    cs_json_tape_free(&scan.tape);
}

static void test_strings(void)
{
    const char *text = "[\"\\ud83d\\ude00\\u00e9\\u0800\\/\", \"plain\", "
                       "{\"k\":1,\"\\u006b\":2,\"l\":3}]";
    const char *value = "\xf0\x9f\x98\x80\xc3\xa9\xe0\xa0\x80/";
    const uint8_t *body = (const uint8_t *)text;
    struct scan scan = scan_whole(body, strlen(text));
    const cs_json_token *tokens = scan.tape.tokens;
    CHECK(scan.status == CS_OK, "%d at %u", scan.status, scan.scanner.at_bytes);
    CHECK(cs_json_kind_of(tokens[1]) == CS_JSON_ESCAPED_STRING, "escaped");
    CHECK(cs_json_kind_of(tokens[2]) == CS_JSON_STRING, "plain");
    uint8_t out[64];
    size_t length = cs_json_unescape(tokens[1], body, out);
    CHECK(length == strlen(value) && memcmp(out, value, length) == 0, "%zu bytes", length);
    CHECK(cs_json_equals(tokens[1], body, out, length), "equals");
    out[length] = 'x';
    CHECK(!cs_json_equals(tokens[1], body, out, length + 1), "equals a longer text");
    CHECK(!cs_json_equals(tokens[1], body, out, length - 1), "equals a shorter text");
    CHECK(cs_json_find(tokens, body, 3, (const uint8_t *)"k", 1) == 7, "the last duplicate");
    CHECK(cs_json_find(tokens, body, 3, (const uint8_t *)"l", 1) == 9, "l");
    cs_json_tape_free(&scan.tape);
}

static void test_numbers(void)
{
    static const struct {
        const char *text;
        bool integer;
        int64_t value;
    } integers[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"99999999999999999999", false, 0},
        {"1.0", false, 0},
        {"1e2", false, 0},
        {"true", false, 0},
    };
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        const uint8_t *text = (const uint8_t *)integers[i].text;
        struct scan scan = scan_whole(text, strlen(integers[i].text));
        int64_t value = 7;
        bool integer = cs_json_integer(scan.tape.tokens[0], text, &value);
        CHECK(integer == integers[i].integer, "%s", integers[i].text);
        CHECK(value == (integer ? integers[i].value : 7), "%s: %" PRId64, integers[i].text, value);
        cs_json_tape_free(&scan.tape);
    }

    static const char *const decimals[] = {
        "0",    "-0",     "1",      "-1.5",      "3.14159",          "1e22",     "1.7953652e+09",
        "1e-7", "0.0001", "12345.", "100000000", "9007199254740992", "123e-20", "5e0"};
    for (size_t i = 0; i < sizeof decimals / sizeof decimals[0]; i++) {
        double value, expected = strtod(decimals[i], NULL);
        CHECK(cs_decimal((const uint8_t *)decimals[i], strlen(decimals[i]), &value),
              "%s", decimals[i]);
        CHECK(memcmp(&value, &expected, sizeof value) == 0, "%s: %a", decimals[i], value);
    }
    static const char *const others[] = {"",     "-",    ".",     "1e",   "1e23", "1e-23", "1e+",
                                         "1e1x", "1.2.3", "1 ",   "inf",  "9007199254740993",
                                         "12345678901234567890"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        double value;
        CHECK(!cs_decimal((const uint8_t *)others[i], strlen(others[i]), &value), "%s", others[i]);
    }
}

static void test_token_ids(void)
{
    static const struct {
        const char *text;
        cs_status status;
        uint32_t bad;
    } arrays[] = {
        {"[]", CS_OK, 0},
        {"[0,1, 4294967295 ,00000]", CS_EXPECTED_COMMA, 0},
        {"[0,1, 4294967295]", CS_OK, 0},
        {"[1,4294967296]", CS_TOKEN_ID, 3},
        {"[1,2,-1]", CS_TOKEN_ID, 5},
        {"[-0]", CS_TOKEN_ID, 1},
        {"[1.0]", CS_TOKEN_ID, 1},
        {"[\"1\"]", CS_TOKEN_ID, 1},
        {"[1,[2]]", CS_TOKEN_ID, 3},
        {"[18446744073709551617]", CS_TOKEN_ID, 1},
        {"{\"a\":1}", CS_KIND, 0},
        {"5", CS_KIND, 0},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        const uint8_t *text = (const uint8_t *)arrays[i].text;
        struct scan scan = scan_whole(text, strlen(arrays[i].text));
        cs_status status = scan.status;
        uint32_t ids[3] = {9, 9, 9}, bad = 99;
        if (status == CS_OK)
            status = cs_json_token_ids(scan.tape.tokens, text, 0, ids, &bad);
        CHECK(status == arrays[i].status, "%s: %d", arrays[i].text, status);
        if (status == CS_TOKEN_ID || status == CS_KIND)
            CHECK(bad == arrays[i].bad, "%s: %u", arrays[i].text, bad);
        if (i == 2)
            CHECK(ids[0] == 0 && ids[1] == 1 && ids[2] == UINT32_MAX, "values");
        cs_json_tape_free(&scan.tape);
    }
}

/* Every count of digits, behind enough text for the reader of whole words. */
static void test_token_id_widths(void)
{
    char text[128];
    int size = snprintf(text, sizeof text, "[");
    for (int i = 1; i <= 10; i++)
        size += snprintf(text + size, sizeof text - (size_t)size, "%s%.*s", i == 1 ? "" : ", ", i,
                         "4192837465");
    text[size] = ']';
    struct scan scan = scan_whole((const uint8_t *)text, (size_t)size + 1);
    uint32_t ids[10], bad = 0;
    CHECK(scan.status == CS_OK, "%d at %u", scan.status, scan.scanner.at_bytes);
    CHECK(cs_json_token_ids(scan.tape.tokens, (const uint8_t *)text, 0, ids, &bad) == CS_OK, "%u",
          bad);
    uint64_t expected = 4192837465;
    for (int i = 9; i >= 0; i--, expected /= 10)
        CHECK(ids[i] == expected, "%u and %" PRIu64, ids[i], expected);
    cs_json_tape_free(&scan.tape);
}

/* Lists longer than the room for their ids, read while they grow; the last id of some is none. */
static void test_growing_token_ids(void)
{
    enum { COUNT = 1000, TEXT_BYTES = 14 * COUNT };
    static char text[TEXT_BYTES];
    uint32_t random = 12345;
    for (size_t round = 0; round < 60; round++) {
        int size = snprintf(text, sizeof text, "{\"a\":[");
        for (size_t i = 0; i < COUNT; i++) {
            random = random * 1664525 + 1013904223;
            size += snprintf(text + size, sizeof text - (size_t)size, "%s%u",
                             i == 0                      ? ""
                             : round % 4 == 3            ? " , "
                             : round % 4 == 2 && i == 64 ? ",\n  "
                                                         : ",",
                             random >> (random >> 5 & 31));
        }
        size += snprintf(text + size, sizeof text - (size_t)size, "%s],\"b\":1}",
                         round % 5 == 4 ? ",-7" : "");
        struct scan scan = scan_steps((const uint8_t *)text, (size_t)size, 1 + random % 3000);
        CHECK(scan.status == CS_OK, "%d at %u", scan.status, scan.scanner.at_bytes);
        CHECK(scan.run.status == (round % 5 == 4 ? CS_TOKEN_ID : CS_OK), "%d", scan.run.status);
        CHECK(scan.run.status != CS_OK || scan.run.count == COUNT, "%" PRIu64, scan.run.count);
        check_run(&scan, (const uint8_t *)text);
        cs_json_tape_free(&scan.tape);
    }
}

static void test_plain_bytes(void)
{
    static const uint8_t special[] = {0, 0x1f, '"', '\\'}, plain[] = {0x20, 0x7f, 0x80, 0xff, '!'};
    for (size_t length = 0; length <= 40; length++)
        for (size_t at = 0; at < length; at++) {
            uint8_t text[40];
            memset(text, 'x', length);
            for (size_t i = 0; i < sizeof special; i++) {
                text[at] = special[i];
                CHECK(cs_json_plain_bytes(text, length) == at, "%zu of %zu", at, length);
            }
            for (size_t i = 0; i < sizeof plain; i++) {
                text[at] = plain[i];
                CHECK(cs_json_plain_bytes(text, length) == length, "%zu of %zu", at, length);
            }
        }
}

int main(void)
{
    test_cases();
    test_string_edges();
    test_depth();
    test_too_long();
    test_tape();
    test_runs();
    test_numbers();
    test_strings();
    test_token_ids();
    test_token_id_widths();
    test_growing_token_ids();
    test_plain_bytes();
    return 0;
}
