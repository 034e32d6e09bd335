/* Feeding a text to the JSON scanner in pieces, from memory that ends where the piece ends, so
 * that the sanitizer sees every read too far. */
#ifndef JSON_FEEDING_H
#define JSON_FEEDING_H

#include "CScan.h"
#include "check.h"

#include <string.h>

/* The first run of integers in a text, whose token ids are read while it grows. */
struct first_run {
    uint32_t index, at_bytes;
    cs_status status;
    uint64_t sum, count; /* of the ids, by their places */
};

struct scan {
    cs_json_scanner scanner;
    cs_json_tape tape;
    cs_status status;
    struct first_run run;
};

static inline void read_growing(
    struct first_run *run, const cs_json_tape *tape, const uint8_t *text)
{
    while (run->index < tape->count &&
           cs_json_kind_of(tape->tokens[run->index]) != CS_JSON_INTEGERS) {
        /* A number that has no end yet may be the first of a run. */
        if (tape->tokens[run->index].end_bytes == 0 &&
            cs_json_kind_of(tape->tokens[run->index]) == CS_JSON_INTEGER)
            return;
        run->index++;
    }
    if (run->index == tape->count)
        return;
    cs_json_token token = tape->tokens[run->index];
    if (run->at_bytes == 0)
        run->at_bytes = token.start_bytes;
    while (run->status == CS_OK && run->at_bytes < token.end_bytes) {
        uint32_t ids[CS_JSON_LEAST_ROOM], before = run->at_bytes;
        size_t count = 0;
        run->status = cs_json_more_token_ids(
            token, text, &run->at_bytes, ids, CS_JSON_LEAST_ROOM, &count);
        CHECK(count <= CS_JSON_LEAST_ROOM && run->at_bytes <= token.end_bytes, "too many");
        CHECK(run->status != CS_OK || run->at_bytes > before, "no way on at %u", before);
        for (size_t i = 0; i < count; i++)
            run->sum += ++run->count * (ids[i] + 1ull);
    }
}

static inline void feed_copy(struct scan *scan, const uint8_t *text, size_t known)
{
    uint8_t *copy = malloc(known == 0 ? 1 : known);
    CHECK(copy != NULL, "no memory");
    memcpy(copy, text, known);
    cs_json_feed(&scan->scanner, &scan->tape, copy, known);
    read_growing(&scan->run, &scan->tape, copy);
    free(copy);
}

/* What was read of the first run while it grew is what it holds. */
static inline void check_run(const struct scan *scan, const uint8_t *text)
{
    const cs_json_token *tokens = scan->tape.tokens;
    for (uint32_t i = 0; i + 1 < scan->tape.count; i++) {
        if (cs_json_kind_of(tokens[i]) != CS_JSON_ARRAY ||
            cs_json_kind_of(tokens[i + 1]) != CS_JSON_INTEGERS ||
            cs_json_next_of(tokens, i) != i + 2 || i + 1 != scan->run.index)
            continue;
        uint32_t bad, count = cs_json_element_count(tokens, i);
        uint32_t *ids = malloc(count * sizeof *ids);
        CHECK(ids != NULL, "no memory");
        cs_status status = cs_json_token_ids(tokens, text, i, ids, &bad);
        CHECK(status == scan->run.status, "%d and %d", status, scan->run.status);
        CHECK(status == CS_OK || bad == scan->run.at_bytes, "%u, %u", bad, scan->run.at_bytes);
        uint64_t sum = 0;
        for (uint32_t k = 0; status == CS_OK && k < count; k++)
            sum += (k + 1) * (ids[k] + 1ull);
        CHECK(status != CS_OK || (count == scan->run.count && sum == scan->run.sum), "ids differ");
        free(ids);
    }
}

static inline struct scan scan_whole(const uint8_t *text, size_t size)
{
    struct scan scan = {0};
    feed_copy(&scan, text, size);
    scan.status = cs_json_finish(&scan.scanner, &scan.tape);
    return scan;
}

/* In two pieces; the first is `split` bytes long. */
static inline struct scan scan_split(const uint8_t *text, size_t size, size_t split)
{
    struct scan scan = {0};
    feed_copy(&scan, text, split);
    feed_copy(&scan, text, size);
    scan.status = cs_json_finish(&scan.scanner, &scan.tape);
    return scan;
}

/* In pieces of `step` bytes. */
static inline struct scan scan_steps(const uint8_t *text, size_t size, size_t step)
{
    struct scan scan = {0};
    for (size_t known = 0; known < size; known += step)
        feed_copy(&scan, text, known);
    feed_copy(&scan, text, size);
    scan.status = cs_json_finish(&scan.scanner, &scan.tape);
    return scan;
}

/* Two ways of feeding one text must agree on everything, the place of an error included. */
static inline void check_same(const struct scan *a, const struct scan *b)
{
    CHECK(a->status == b->status, "%d and %d", a->status, b->status);
    CHECK(a->status == CS_OK || a->scanner.at_bytes == b->scanner.at_bytes,
          "status %d at %u and %u", a->status, a->scanner.at_bytes, b->scanner.at_bytes);
    CHECK(a->tape.count == b->tape.count, "%u and %u tokens", a->tape.count, b->tape.count);
    if (a->status == CS_OK)
        CHECK(memcmp(a->tape.tokens, b->tape.tokens, a->tape.count * sizeof *a->tape.tokens) == 0,
              "tapes differ");
}

#endif
