/* What grows finds no memory: a typed error, and nothing is lost or leaked. */
#include "../scan/json_feeding.h"

static int allocations_left;

void *__real_realloc(void *memory, size_t size);
void *__wrap_realloc(void *memory, size_t size);

void *__wrap_realloc(void *memory, size_t size)
{
    return allocations_left-- > 0 ? __real_realloc(memory, size) : NULL;
}

static void test_search(void)
{
    size_t name_bytes = 1, at = 0;
    cs_prom_found found;
    cs_prom_search *search = cs_prom_search_create((const uint8_t *)"a", &name_bytes, 1);
    CHECK(search != NULL, "no memory");
    allocations_left = 0;
    CHECK(cs_prom_search_next(search, (const uint8_t *)"a ", 2, &at, &found) == CS_NO_MEMORY, "1");
    cs_prom_search_restart(search);
    allocations_left = 1;
    at = 0;
    CHECK(cs_prom_search_next(search, (const uint8_t *)"a ", 2, &at, &found) == CS_END, "2");
    at = 0;
    CHECK(cs_prom_search_next(search, (const uint8_t *)"1\n", 2, &at, &found) == CS_OK, "3");
    cs_prom_search_free(search);
}

int main(void)
{
    test_search();
    uint8_t text[3001] = "[";
    for (size_t i = 0; i < 999; i++)
        memcpy(text + 1 + 3 * i, "[],", 3);
    memcpy(text + 2998, "[]]", 3);
    /* 1,001 tokens: 64, 128, 256, 512, 1024. */
    for (int allowed = 0; allowed <= 5; allowed++) {
        allocations_left = allowed;
        struct scan scan = scan_whole(text, sizeof text);
        CHECK(scan.status == (allowed < 5 ? CS_NO_MEMORY : CS_OK), "%d allowed: %d", allowed,
              scan.status);
        cs_json_tape_free(&scan.tape);
    }
    return 0;
}
