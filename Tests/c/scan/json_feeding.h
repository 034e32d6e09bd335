/* Feeding a text to the JSON scanner in pieces, from memory that ends where the piece ends, so
 * that the sanitizer sees every read too far. */
#ifndef JSON_FEEDING_H
#define JSON_FEEDING_H

#include "CScan.h"
#include "check.h"

#include <string.h>

struct scan {
    cs_json_scanner scanner;
    cs_json_tape tape;
    cs_status status;
};

static inline void feed_copy(struct scan *scan, const uint8_t *text, size_t known)
{
    uint8_t *copy = malloc(known == 0 ? 1 : known);
    CHECK(copy != NULL, "no memory");
    memcpy(copy, text, known);
    cs_json_feed(&scan->scanner, &scan->tape, copy, known);
    free(copy);
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
