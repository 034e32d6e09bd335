#include "CScan.h"
#include "check.h"

#include <string.h>

/* The sample, or the error, that a line gives. */
static const struct {
    const char *line;
    cs_status status;
    const char *name, *labels, *value;
} cases[] = {
    {"up 1", CS_OK, "up", "", "1"},
    {"  up\t1  ", CS_OK, "up", "", "1"},
    {"up 1 1700000000000", CS_OK, "up", "", "1"},
    {"up{} 1", CS_OK, "up", "", "1"},
    {"up { } 1", CS_OK, "up", "", "1"},
    {"up{a=\"b\"}1", CS_OK, "up", "a=\"b\"", "1"},
    {"up{a=\"b\",} 1", CS_OK, "up", "a=\"b\",", "1"},
    {"up { a = \"b\" , c = \"\" } -1.5e-3", CS_OK, "up", "a = \"b\" , c = \"\" ", "-1.5e-3"},
    {"vllm:x_total{le=\"+Inf\"} +Inf", CS_OK, "vllm:x_total", "le=\"+Inf\"", "+Inf"},
    {"a{b=\"} 1\"} 2", CS_OK, "a", "b=\"} 1\"", "2"},
    {"a{b=\"\\\"},\\\\\"} NaN", CS_OK, "a", "b=\"\\\"},\\\\\"", "NaN"},
    {"a_bucket{le=\"1\"} 5 # {trace_id=\"x\"} 0.67 1.5", CS_OK, "a_bucket", "le=\"1\"", "5"},
    {"a 5 1.5 # {} 1", CS_OK, "a", "", "5"},
    {"{\"http.requests\",code=\"200\"} 7", CS_OK, "http.requests", "code=\"200\"", "7"},
    {"{\"http.requests\"} 7", CS_OK, "http.requests", "", "7"},
    {"a{\"b.c\"=\"d\"} 1", CS_OK, "a", "\"b.c\"=\"d\"", "1"},
    {"a 0x10", CS_SAMPLE_VALUE, 0, 0, 0},
    {"a", CS_SAMPLE_VALUE, 0, 0, 0},
    {"a ", CS_SAMPLE_VALUE, 0, 0, 0},
    {"a b", CS_SAMPLE_VALUE, 0, 0, 0},
    {"a .", CS_SAMPLE_VALUE, 0, 0, 0},
    {"a 1e", CS_SAMPLE_VALUE, 0, 0, 0},
    {"a 1_0", CS_SAMPLE_VALUE, 0, 0, 0},
    {"a 1 x", CS_SAMPLE_VALUE, 0, 0, 0},
    {"a 1 2 3", CS_SAMPLE_VALUE, 0, 0, 0},
    {"a{b=\"c\"}", CS_SAMPLE_VALUE, 0, 0, 0},
    {"1a 1", CS_METRIC_NAME, 0, 0, 0},
    {"a-b 1", CS_METRIC_NAME, 0, 0, 0},
    {"\"a\" 1", CS_METRIC_NAME, 0, 0, 0},
    {"{a=\"b\"} 1", CS_METRIC_NAME, 0, 0, 0},
    {"{", CS_METRIC_NAME, 0, 0, 0},
    {"{\"a", CS_METRIC_NAME, 0, 0, 0},
    {"a{b} 1", CS_LABELS, 0, 0, 0},
    {"a{b=c} 1", CS_LABELS, 0, 0, 0},
    {"a{b=\"c} 1", CS_LABELS, 0, 0, 0},
    {"a{b=\"c\\\"} 1", CS_LABELS, 0, 0, 0},
    {"a{b=\"c\" d=\"e\"} 1", CS_LABELS, 0, 0, 0},
    {"a{,} 1", CS_LABELS, 0, 0, 0},
    {"a{b=\"c\"", CS_LABELS, 0, 0, 0},
    {"a{b=\"\\", CS_LABELS, 0, 0, 0},
    {"a{", CS_LABELS, 0, 0, 0},
};

static uint8_t *copy_of(const char *text, size_t size)
{
    uint8_t *copy = malloc(size == 0 ? 1 : size);
    CHECK(copy != NULL, "no memory");
    memcpy(copy, text, size);
    return copy;
}

static bool is(const uint8_t *page, size_t start, size_t end, const char *text)
{
    return end - start == strlen(text) && memcmp(page + start, text, end - start) == 0;
}

static void test_lines(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *line = cases[i].line;
        size_t at = 0, size = strlen(line);
        uint8_t *page = copy_of(line, size);
        cs_prom_sample sample;
        cs_status status = cs_prom_next(page, size, &at, &sample);
        CHECK(status == cases[i].status, "%s: %s", line, cs_status_message(status));
        CHECK(at == (status == CS_OK ? size : 0), "%s: at %zu", line, at);
        if (status == CS_OK) {
            CHECK(is(page, sample.name_start_bytes, sample.name_end_bytes, cases[i].name), "%s",
                  line);
            CHECK(is(page, sample.labels_start_bytes, sample.labels_end_bytes, cases[i].labels),
                  "%s", line);
            CHECK(is(page, sample.value_start_bytes, sample.value_end_bytes, cases[i].value),
                  "%s", line);
            CHECK(cs_prom_next(page, size, &at, &sample) == CS_END, "%s", line);
        }
        free(page);
    }
}

static void test_page(void)
{
    const char text[] = "# HELP a b\n\n# TYPE a gauge\na{x=\"1\",y=\"q\\\"\\n\"} 1\n \n"
                        "b 2\nc x\nd 4\n# EOF\n";
    size_t at = 0, size = sizeof text - 1, start, end;
    uint8_t *page = copy_of(text, size);
    cs_prom_sample sample;
    CHECK(cs_prom_next(page, size, &at, &sample) == CS_OK, "a");
    CHECK(cs_prom_label(page, &sample, (const uint8_t *)"x", 1, &start, &end), "label x");
    CHECK(is(page, start, end, "1"), "label x");
    CHECK(cs_prom_label(page, &sample, (const uint8_t *)"y", 1, &start, &end), "label y");
    CHECK(is(page, start, end, "q\\\"\\n"), "label y");
    CHECK(!cs_prom_label(page, &sample, (const uint8_t *)"z", 1, &start, &end), "label z");
    CHECK(cs_prom_next(page, size, &at, &sample) == CS_OK, "b");
    CHECK(!cs_prom_label(page, &sample, (const uint8_t *)"x", 1, &start, &end), "label of b");
    CHECK(cs_prom_next(page, size, &at, &sample) == CS_SAMPLE_VALUE, "c");
    CHECK(memcmp(page + at, "c x", 3) == 0, "the error is at %zu", at);
    at += 4;
    CHECK(cs_prom_next(page, size, &at, &sample) == CS_OK, "d");
    CHECK(cs_prom_next(page, size, &at, &sample) == CS_END && at == size, "end");
    free(page);
}

int main(void)
{
    test_lines();
    test_page();
    return 0;
}
