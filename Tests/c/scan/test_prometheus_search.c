#include "prometheus_searching.h"

#include <stdint.h>
#include <time.h>

static const wanted engine = {{"vllm:num_requests_waiting", "vllm:num_requests_running",
                               "vllm:kv_cache_usage_perc", "vllm:lora_requests_info",
                               "vllm:cache_config_info"},
                              5};

static uint64_t state;

static size_t random_below(size_t bound)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(state >> 33) % bound;
}

/* Lines that nearly are others: names that go on, blanks, quotes, faults. */
static const char *const parts[] = {
    "a", "ab", "abc", "b", "_", ":", "{", "}", "{x=\"1\"}", "{\"a\"}", "{\"ab\",x=\"y\"}", " ",
    "\t", " 1", " 2.5", " NaN", " x", "#", "# HELP a", "# TYPE ab gauge", "\"", "\\", "\n", "\n",
    "\n", "\na", "\nab 1", "\nabc{a=\"\n\"} 1", "\r", "",
};

static const wanted sets[] = {
    {{"a"}, 1}, {{"a", "ab"}, 2}, {{"ab", "abc", "b"}, 3}, {{"abc"}, 1}, {{0}, 0},
};

static void test_random_pages(void)
{
    for (int round = 0; round < 20000; round++) {
        uint8_t page[256];
        size_t size = 0, lengths[3];
        while (random_below(24) > 0) {
            const char *part = parts[random_below(sizeof parts / sizeof parts[0])];
            if (size + strlen(part) > sizeof page)
                break;
            memcpy(page + size, part, strlen(part));
            size += strlen(part);
        }
        for (int i = 0; i < 3; i++)
            lengths[i] = random_below(12);
        const wanted *wanted = &sets[random_below(sizeof sets / sizeof sets[0])];
        cs_prom_search *search = search_for(wanted);
        check_search(search, wanted, page, size, NULL, 0);
        check_search(search, wanted, page, size, lengths, 3);
        cs_prom_search_free(search);
    }
}

static void test_real_page(void)
{
    static uint8_t page[1 << 20];
    FILE *file = fopen("Tests/ScanTests/Fixtures/vllm_metrics.txt", "r");
    CHECK(file != NULL, "no page");
    size_t size = fread(page, 1, sizeof page, file);
    fclose(file);
    cs_prom_search *search = search_for(&engine);
    check_search(search, &engine, page, size, NULL, 0);
    for (int round = 0; round < 200; round++) {
        size_t lengths[3];
        for (int i = 0; i < 3; i++)
            lengths[i] = 1 + random_below((size_t)1 << random_below(17));
        check_search(search, &engine, page, size, lengths, 3);
        /* A few bytes turn into others. */
        for (int i = 0; i < 5; i++)
            page[random_below(size)] = "\n {}\"a#v"[random_below(8)];
    }
    cs_prom_search_free(search);
}

static void test_begins_anew(void)
{
    const wanted wanted = {{"a"}, 1};
    cs_prom_search *search = search_for(&wanted);
    cs_prom_found found;
    size_t at = 0;
    CHECK(cs_prom_search_next(search, (const uint8_t *)"a 1", 3, &at, &found) == CS_END, "half");
    cs_prom_search_restart(search);
    CHECK(cs_prom_search_last(search, &found) == CS_END, "the half line of the last page");
    check_search(search, &wanted, (const uint8_t *)"\na 2", 4, NULL, 0);
    cs_prom_search_free(search);
}

int main(void)
{
    state = (uint64_t)time(NULL);
    const char *seed = getenv("SEED");
    if (seed != NULL)
        state = strtoull(seed, NULL, 10);
    printf("SEED=%llu\n", (unsigned long long)state);
    fflush(stdout);
    test_begins_anew();
    test_real_page();
    test_random_pages();
    return 0;
}
