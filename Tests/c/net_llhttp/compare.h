/*
 * Two HTTP/1.1 parsers on the same bytes: CNet's, and llhttp in its strict mode with no leniency
 * switched on. Debian's node-llhttp installs the sources of llhttp.
 */
#ifndef COMPARE_H
#define COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_INPUT_BYTES = 8192 };

/* What one parser made of a stream, up to its first failure or the first message that ends the
 * connection. */
typedef struct reading {
    char log[8 * MAX_INPUT_BYTES]; /* a line per head and per end of a message */
    size_t used;
    size_t body_count; /* of the message being read */
    uint32_t body_digest;
    bool is_cut;         /* the input ends inside of a message, after its head */
    const char *problem; /* NULL: nothing was refused */
} reading;

void note(reading *reading, const char *text);
void note_number(reading *reading, const char *before, size_t number);
/* Unprintable bytes as \xNN. */
void note_bytes(reading *reading, const char *before, const void *bytes, size_t count);
/* In lower case. */
void note_name(reading *reading, const void *bytes, size_t count);
void count_body(reading *reading, const void *bytes, size_t count);
/* The body of the message that ends at `end`. */
void note_body(reading *reading, size_t end);

/* `is_head`: responses answer HEAD requests. */
void read_with_llhttp(bool is_response, bool is_head, const uint8_t *input, size_t count,
                      reading *reading);

/* Reads with both, with CNet once as a whole and once in pieces that the seed decides. Prints a
 * difference and aborts, unless compare.c explains it. */
void compare(bool is_response, bool is_head, const uint8_t *input, size_t count,
             uint64_t pieces_seed);
/* Prints how often each explained difference came up; false if one did not. */
bool print_differences(void);

/* splitmix64 */
uint64_t next_random(uint64_t *state);

#endif
