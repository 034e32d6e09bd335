/* A search in a page, whole and in pieces, against reading every line of the page. */
#ifndef PROMETHEUS_SEARCHING_H
#define PROMETHEUS_SEARCHING_H

#include "CScan.h"
#include "check.h"

#include <string.h>

typedef struct wanted {
    const char *names[8];
    size_t count;
} wanted;

static cs_prom_search *search_for(const wanted *wanted)
{
    uint8_t text[512];
    size_t bytes[8], at = 0;
    for (size_t i = 0; i < wanted->count; i++) {
        bytes[i] = strlen(wanted->names[i]);
        memcpy(text + at, wanted->names[i], bytes[i]);
        at += bytes[i];
    }
    cs_prom_search *search = cs_prom_search_create(text, bytes, wanted->count);
    CHECK(search != NULL, "no memory");
    return search;
}

static bool is_in_name(uint8_t c)
{
    return c != 0 && strchr("0123456789_:abcdefghijklmnopqrstuvwxyz"
                            "ABCDEFGHIJKLMNOPQRSTUVWXYZ", c) != NULL;
}

/* What a line must give: CS_END if it is not one of those that are wanted. */
static cs_status expect(
    const wanted *wanted, const uint8_t *line, size_t bytes, uint32_t *index_p,
    cs_prom_sample *sample_p)
{
    size_t at = 0, start = 0;
    cs_status status = cs_prom_next(line, bytes, &at, sample_p);
    while (start < bytes && (line[start] == ' ' || line[start] == '\t'))
        start++;
    for (size_t i = 0; i < wanted->count && status != CS_END; i++) {
        size_t name_bytes = strlen(wanted->names[i]);
        *index_p = (uint32_t)i;
        if (status == CS_OK) {
            if (sample_p->name_end_bytes - sample_p->name_start_bytes == name_bytes &&
                memcmp(line + sample_p->name_start_bytes, wanted->names[i], name_bytes) == 0)
                return CS_OK;
        } else if (bytes - start >= name_bytes &&
                   memcmp(line + start, wanted->names[i], name_bytes) == 0 &&
                   (bytes - start == name_bytes || !is_in_name(line[start + name_bytes]))) {
            return status;
        }
    }
    return CS_END;
}

/* What has been found must be what the next lines of the page from `*at_p` give. */
static void check_found(
    const wanted *wanted, const uint8_t *page, size_t size, size_t *at_p, cs_status status,
    const cs_prom_found *found, size_t line_at)
{
    while (*at_p < size) {
        const uint8_t *line = page + *at_p, *newline = memchr(line, '\n', size - *at_p);
        size_t bytes = newline != NULL ? (size_t)(newline - line) : size - *at_p, at = *at_p;
        uint32_t index;
        cs_prom_sample sample;
        *at_p += bytes + (newline != NULL);
        cs_status expected = expect(wanted, line, bytes, &index, &sample);
        if (expected == CS_END)
            continue;
        CHECK(status == expected, "%d, not %d, at %zu", status, expected, at);
        CHECK(line_at == at, "the line at %zu, not %zu", line_at, at);
        if (status == CS_OK) {
            CHECK(found->name_index == index, "name %u, not %u", found->name_index, index);
            CHECK(found->line_bytes == bytes && memcmp(found->line, line, bytes) == 0, "line");
            CHECK(memcmp(&found->sample, &sample, sizeof sample) == 0, "sample at %zu", at);
        }
        return;
    }
    CHECK(status == CS_END, "%d after the last", status);
}

/* Searches a page in pieces; the lengths are taken in turn, none for the whole page. */
static void check_search(
    cs_prom_search *search, const wanted *wanted, const uint8_t *page, size_t size,
    const size_t *lengths, size_t lengths_count)
{
    cs_prom_search_restart(search);
    size_t expected_at = 0, turn = 0;
    for (size_t done = 0; done < size;) {
        size_t bytes = lengths_count == 0 ? size : lengths[turn++ % lengths_count];
        bytes = bytes == 0 ? 1 : bytes > size - done ? size - done : bytes;
        /* In memory of its own, so that nothing can be read beside it. */
        uint8_t *piece = malloc(bytes);
        CHECK(piece != NULL, "no memory");
        memcpy(piece, page + done, bytes);
        cs_prom_found found;
        cs_status status;
        for (size_t at = 0;
             (status = cs_prom_search_next(search, piece, bytes, &at, &found)) != CS_END;)
            check_found(wanted, page, size, &expected_at, status, &found,
                        cs_prom_search_line_at(search));
        free(piece);
        done += bytes;
    }
    cs_prom_found found;
    cs_status status = cs_prom_search_last(search, &found);
    check_found(wanted, page, size, &expected_at, status, &found, cs_prom_search_line_at(search));
    if (status != CS_END)
        check_found(wanted, page, size, &expected_at, CS_END, &found, 0);
}

#endif
