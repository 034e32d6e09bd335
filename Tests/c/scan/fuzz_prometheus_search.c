/* Any page in any pieces: what a search finds is what reading every line finds. */
#include "prometheus_searching.h"

static const wanted sets[] = {
    {{0}, 0},
    {{"a"}, 1},
    {{"a", "ab", "abc"}, 3},
    {{"vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"}, 3},
    {{"x_", "b:", "vllm:a"}, 3},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    const wanted *wanted = &sets[data[0] % (sizeof sets / sizeof sets[0])];
    size_t lengths[3] = {data[1], data[2], data[3]};
    cs_prom_search *search = search_for(wanted);
    check_search(search, wanted, data + 4, size - 4, NULL, 0);
    check_search(search, wanted, data + 4, size - 4, lengths, 3);
    cs_prom_search_free(search);
    return 0;
}
