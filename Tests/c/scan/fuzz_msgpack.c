/* Any payload: reading item by item and skipping whole values end at the same place. */
#include "CScan.h"
#include "check.h"

/* Whole arrays against their elements one by one. */
static void check_array(const uint8_t *bytes, size_t size, size_t at, uint32_t count)
{
    uint32_t *ids = malloc(count * sizeof *ids + 1);
    uint64_t *words = malloc(count * sizeof *words + 1);
    CHECK(ids != NULL && words != NULL, "no memory");
    size_t ids_at = at, words_at = at;
    bool are_ids = cs_mp_token_ids(bytes, size, &ids_at, count, ids) == CS_OK;
    bool are_words = cs_mp_words(bytes, size, &words_at, count, words) == CS_OK;
    bool may_be_ids = true, may_be_words = true;
    for (uint32_t i = 0; i < count && (may_be_ids || may_be_words); i++) {
        cs_mp_item item;
        if (cs_mp_next(bytes, size, &at, &item) != CS_OK) {
            may_be_ids = may_be_words = false;
            break;
        }
        bool is_integer = item.kind == CS_MP_UINT || item.kind == CS_MP_INT;
        may_be_ids = may_be_ids && item.kind == CS_MP_UINT && item.unsigned_value <= UINT32_MAX;
        may_be_words =
            may_be_words && (is_integer || (item.kind == CS_MP_BINARY && item.count > 0));
        CHECK(!are_ids || ids[i] == item.unsigned_value, "id %u", i);
        CHECK(!are_words || !is_integer || words[i] == item.unsigned_value, "word %u", i);
    }
    CHECK(are_ids == may_be_ids && are_words == may_be_words, "%u elements", count);
    CHECK(!are_ids || ids_at == at, "%zu, not %zu", ids_at, at);
    CHECK(!are_words || words_at == at, "%zu, not %zu", words_at, at);
    free(ids);
    free(words);
}

/* The end of the value at `at`, by recursion; false if it is malformed or too deep for that. */
static bool walk(const uint8_t *bytes, size_t size, size_t *at, int depth)
{
    cs_mp_item item;
    if (depth == 0 || cs_mp_next(bytes, size, at, &item) != CS_OK)
        return false;
    if (item.kind == CS_MP_ARRAY)
        check_array(bytes, size, *at, item.count);
    uint64_t inside = item.kind == CS_MP_MAP     ? 2ull * item.count
                      : item.kind == CS_MP_ARRAY ? item.count
                                                 : 0;
    for (uint64_t i = 0; i < inside; i++)
        if (!walk(bytes, size, at, depth - 1))
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t walked = 0, skipped = 0;
    bool whole = walk(data, size, &walked, 200);
    cs_status status = cs_mp_skip(data, size, &skipped);
    CHECK(!whole || (status == CS_OK && walked == skipped), "%zu and %zu", walked, skipped);
    CHECK(skipped <= size, "%zu of %zu", skipped, size);
    return 0;
}
