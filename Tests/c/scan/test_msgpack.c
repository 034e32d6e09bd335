#include "CScan.h"
#include "check.h"

#include <string.h>

/* One value by each first byte; the payload of strings and the like is their text. */
static const struct {
    const char *bytes;
    size_t size;
    cs_mp_kind kind;
    int64_t value; /* or count */
} cases[] = {
    {"\xc0", 1, CS_MP_NIL, 0},
    {"\xc2", 1, CS_MP_FALSE, 0},
    {"\xc3", 1, CS_MP_TRUE, 0},
    {"\x00", 1, CS_MP_UINT, 0},
    {"\x7f", 1, CS_MP_UINT, 127},
    {"\xe0", 1, CS_MP_INT, -32},
    {"\xff", 1, CS_MP_INT, -1},
    {"\xcc\x05", 2, CS_MP_UINT, 5},
    {"\xcd\x01\x02", 3, CS_MP_UINT, 0x102},
    {"\xce\xff\xff\xff\xff", 5, CS_MP_UINT, 0xffffffff},
    {"\xcf\x01\x02\x03\x04\x05\x06\x07\x08", 9, CS_MP_UINT, 0x102030405060708},
    {"\xd0\x80", 2, CS_MP_INT, -128},
    {"\xd0\x05", 2, CS_MP_UINT, 5},
    {"\xd1\xff\xfe", 3, CS_MP_INT, -2},
    {"\xd2\x80\x00\x00\x00", 5, CS_MP_INT, INT32_MIN},
    {"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", 9, CS_MP_INT, INT64_MIN},
    {"\xa0", 1, CS_MP_STRING, 0},
    {"\xa3" "abc", 4, CS_MP_STRING, 3},
    {"\xd9\x03" "abc", 5, CS_MP_STRING, 3},
    {"\xda\x00\x03" "abc", 6, CS_MP_STRING, 3},
    {"\xdb\x00\x00\x00\x03" "abc", 8, CS_MP_STRING, 3},
    {"\xc4\x03" "abc", 5, CS_MP_BINARY, 3},
    {"\xc5\x00\x03" "abc", 6, CS_MP_BINARY, 3},
    {"\xc6\x00\x00\x00\x03" "abc", 8, CS_MP_BINARY, 3},
    {"\xc7\x03\x2a" "abc", 6, CS_MP_EXTENSION, 3},
    {"\xc8\x00\x03\x2a" "abc", 7, CS_MP_EXTENSION, 3},
    {"\xc9\x00\x00\x00\x03\x2a" "abc", 9, CS_MP_EXTENSION, 3},
    {"\xd4\x2a" "a", 3, CS_MP_EXTENSION, 1},
    {"\xd5\x2a" "ab", 4, CS_MP_EXTENSION, 2},
    {"\xd6\x2a" "abcd", 6, CS_MP_EXTENSION, 4},
    {"\xd7\x2a" "abcdefgh", 10, CS_MP_EXTENSION, 8},
    {"\xd8\x2a" "abcdefghijklmnop", 18, CS_MP_EXTENSION, 16},
    {"\x92\x01\x02", 3, CS_MP_ARRAY, 2},
    {"\xdc\x00\x02\x01\x02", 5, CS_MP_ARRAY, 2},
    {"\xdd\x00\x00\x00\x02\x01\x02", 7, CS_MP_ARRAY, 2},
    {"\x81\x01\x02", 3, CS_MP_MAP, 1},
    {"\xde\x00\x01\x01\x02", 5, CS_MP_MAP, 1},
    {"\xdf\x00\x00\x00\x01\x01\x02", 7, CS_MP_MAP, 1},
};

static uint8_t *copy_of(const char *bytes, size_t size)
{
    uint8_t *copy = malloc(size == 0 ? 1 : size);
    CHECK(copy != NULL, "no memory");
    memcpy(copy, bytes, size);
    return copy;
}

static void test_formats(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t at = 0, size = cases[i].size;
        uint8_t *bytes = copy_of(cases[i].bytes, size);
        cs_mp_item item;
        CHECK(cs_mp_next(bytes, size, &at, &item) == CS_OK, "case %zu", i);
        CHECK(item.kind == cases[i].kind, "case %zu: kind %d", i, item.kind);
        if (item.kind == CS_MP_UINT || item.kind == CS_MP_INT)
            CHECK(item.signed_value == cases[i].value, "case %zu", i);
        else
            CHECK(item.count == cases[i].value, "case %zu: %u", i, item.count);
        if (item.kind == CS_MP_EXTENSION)
            CHECK(item.extension_type == 0x2a, "case %zu", i);
        if (item.kind == CS_MP_STRING || item.kind == CS_MP_BINARY || item.kind == CS_MP_EXTENSION)
            CHECK(at == size &&
                      memcmp(bytes + item.start_bytes, "abcdefghijklmnop", item.count) == 0,
                  "case %zu", i);
        at = 0;
        CHECK(cs_mp_skip(bytes, size, &at) == CS_OK && at == size, "case %zu: skip", i);
        free(bytes);
        for (size_t cut = 0; cut < size; cut++) {
            uint8_t *part = copy_of(cases[i].bytes, cut);
            at = 0;
            CHECK(cs_mp_skip(part, cut, &at) == CS_TRUNCATED, "case %zu cut at %zu", i, cut);
            CHECK(at == 0, "case %zu: moved", i);
            free(part);
        }
    }
}

static void test_floats(void)
{
    size_t at = 0;
    cs_mp_item item;
    CHECK(cs_mp_next((const uint8_t *)"\xca\xc0\x20\x00\x00", 5, &at, &item) == CS_OK, "float32");
    CHECK(item.kind == CS_MP_FLOAT && item.float_value == -2.5, "%a", item.float_value);
    at = 0;
    const uint8_t *pi = (const uint8_t *)"\xcb\x40\x09\x21\xfb\x54\x44\x2d\x18";
    CHECK(cs_mp_next(pi, 9, &at, &item) == CS_OK, "float64");
    CHECK(item.kind == CS_MP_FLOAT && item.float_value == 0x1.921fb54442d18p+1, "%a",
          item.float_value);
}

static void test_errors(void)
{
    size_t at = 0;
    cs_mp_item item;
    CHECK(cs_mp_next((const uint8_t *)"\xc1", 1, &at, &item) == CS_FORMAT_BYTE, "0xc1");
    /* Promises of more than there is are refused at once. */
    CHECK(cs_mp_next((const uint8_t *)"\xdd\xff\xff\xff\xff\x00", 6, &at, &item) == CS_TRUNCATED,
          "array");
    CHECK(cs_mp_next((const uint8_t *)"\xdf\x80\x00\x00\x00\x00", 6, &at, &item) == CS_TRUNCATED,
          "map");
    CHECK(cs_mp_next((const uint8_t *)"\x82\x01\x02\x03", 4, &at, &item) == CS_TRUNCATED, "map");
    CHECK(at == 0, "moved");
}

static void test_skip_deep(void)
{
    enum { DEPTH = 1000000 };
    uint8_t *bytes = malloc(DEPTH + 1);
    CHECK(bytes != NULL, "no memory");
    memset(bytes, 0x91, DEPTH);
    bytes[DEPTH] = 0xc0;
    size_t at = 0;
    CHECK(cs_mp_skip(bytes, DEPTH + 1, &at) == CS_OK && at == DEPTH + 1, "deep");
    free(bytes);
}

static void test_token_ids(void)
{
    uint32_t ids[4] = {0};
    size_t at = 0;
    const uint8_t *good = (const uint8_t *)"\x05\xcc\x06\xce\xff\xff\xff\xff\xd1\x00\x07";
    CHECK(cs_mp_token_ids(good, 11, &at, 4, ids) == CS_OK && at == 11, "good");
    CHECK(ids[0] == 5 && ids[1] == 6 && ids[2] == UINT32_MAX && ids[3] == 7, "values");
    at = 0;
    CHECK(cs_mp_token_ids((const uint8_t *)"\x05\xff", 2, &at, 2, ids) == CS_TOKEN_ID, "negative");
    CHECK(cs_mp_token_ids((const uint8_t *)"\x05\xc0", 2, &at, 2, ids) == CS_TOKEN_ID, "nil");
    const uint8_t *large = (const uint8_t *)"\xcf\x00\x00\x00\x01\x00\x00\x00\x00";
    CHECK(cs_mp_token_ids(large, 9, &at, 1, ids) == CS_TOKEN_ID, "too large");
    CHECK(cs_mp_token_ids((const uint8_t *)"\x05", 1, &at, 2, ids) == CS_TRUNCATED, "truncated");
    CHECK(at == 0, "moved");
}

/* Ids of all widths and formats in a row, longer than what is looked at at once. */
static void test_many_token_ids(void)
{
    enum { COUNT = 5000 };
    static uint8_t bytes[COUNT * 9];
    static uint32_t ids[COUNT], expected[COUNT];
    uint64_t random = 1;
    size_t size = 0;
    for (int i = 0; i < COUNT; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        /* Widths of 1, 2, 4 and 8 bytes behind the first, of either sign's format. */
        static const uint8_t formats[] = {0xcc, 0xcd, 0xce, 0xcf, 0xd1, 0xd2, 0xd3};
        static const uint8_t widths[] = {1, 2, 4, 8, 2, 4, 8};
        unsigned format = (unsigned)(random >> 60) % 8;
        uint32_t id = (uint32_t)(random >> 20);
        if (format == 7) {
            expected[i] = id & 0x7f;
            bytes[size++] = (uint8_t)expected[i];
            continue;
        }
        unsigned width = widths[format];
        uint64_t mask = width == 8 ? UINT32_MAX : (UINT64_C(1) << 8 * width) - 1;
        if (formats[format] >= 0xd0)
            mask >>= 1;
        expected[i] = (uint32_t)(id & mask);
        bytes[size++] = formats[format];
        for (unsigned byte = width; byte-- > 0;)
            bytes[size++] = byte < 4 ? (uint8_t)(expected[i] >> 8 * byte) : 0;
    }
    size_t at = 0;
    CHECK(cs_mp_token_ids(bytes, size, &at, COUNT, ids) == CS_OK && at == size, "many");
    for (int i = 0; i < COUNT; i++)
        CHECK(ids[i] == expected[i], "id %d: %u, not %u", i, ids[i], expected[i]);
    at = 0;
    CHECK(cs_mp_token_ids(bytes, size - 1, &at, COUNT, ids) == CS_TRUNCATED, "cut");
    CHECK(cs_mp_token_ids(bytes, size, &at, COUNT + 1, ids) == CS_TRUNCATED, "too few");
}

int main(void)
{
    test_formats();
    test_floats();
    test_errors();
    test_skip_deep();
    test_token_ids();
    test_many_token_ids();
    return 0;
}
