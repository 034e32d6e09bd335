/* Any payload: reading item by item and skipping whole values end at the same place. */
#include "CScan.h"
#include "check.h"

/* The end of the value at `at`, by recursion; false if it is malformed or too deep for that. */
static bool walk(const uint8_t *bytes, size_t size, size_t *at, int depth)
{
    cs_mp_item item;
    if (depth == 0 || cs_mp_next(bytes, size, at, &item) != CS_OK)
        return false;
    if (item.kind == CS_MP_ARRAY) {
        size_t ids_at = *at;
        uint32_t *ids = malloc(item.count * sizeof *ids + 1);
        CHECK(ids != NULL, "no memory");
        cs_mp_token_ids(bytes, size, &ids_at, item.count, ids);
        free(ids);
    }
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
