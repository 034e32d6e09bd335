/* Any page: it ends, ranges lie inside it and in order, and every label that is there is found. */
#include "CScan.h"
#include "check.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t at = 0;
    for (;;) {
        cs_prom_sample sample;
        size_t before = at, start, end;
        cs_status status = cs_prom_next(data, size, &at, &sample);
        CHECK(at >= before && at <= size, "%zu after %zu", at, before);
        if (status == CS_END)
            return 0;
        if (status != CS_OK) {
            const uint8_t *newline = memchr(data + at, '\n', size - at);
            if (newline == NULL)
                return 0;
            at = (size_t)(newline - data) + 1;
            continue;
        }
        CHECK(sample.name_start_bytes < sample.name_end_bytes, "empty name");
        CHECK(sample.name_end_bytes <= sample.labels_start_bytes, "name after labels");
        CHECK(sample.labels_start_bytes <= sample.labels_end_bytes, "labels");
        CHECK(sample.labels_end_bytes <= sample.value_start_bytes, "labels after value");
        CHECK(sample.value_start_bytes < sample.value_end_bytes, "empty value");
        CHECK(sample.value_end_bytes <= at, "value after the line");
        cs_prom_label(data, &sample, (const uint8_t *)"le", 2, &start, &end);
        const uint8_t *labels = data + sample.labels_start_bytes;
        size_t labels_bytes = sample.labels_end_bytes - sample.labels_start_bytes;
        const uint8_t *equals = memchr(labels, '=', labels_bytes);
        if (equals != NULL && *labels != '"' && equals[-1] != ' ' && equals[-1] != '\t')
            CHECK(cs_prom_label(data, &sample, labels, (size_t)(equals - labels), &start, &end),
                  "the first label is not found");
    }
}
