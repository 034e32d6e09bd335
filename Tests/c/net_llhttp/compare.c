/* The reading of CNet, and what may differ. */
#include "compare.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "h1.h"

enum { MAX_FIELD_COUNT = 256 };

/* ---- readings */

static void put(reading *reading, const char *text, size_t count)
{
    if (reading->used + count >= sizeof reading->log)
        abort();
    memcpy(reading->log + reading->used, text, count);
    reading->used += count;
    reading->log[reading->used] = 0;
}

void note(reading *reading, const char *text)
{
    put(reading, text, strlen(text));
}

void note_number(reading *reading, const char *before, size_t number)
{
    char text[24];
    note(reading, before);
    put(reading, text, (size_t)snprintf(text, sizeof text, "%zu", number));
}

void note_bytes(reading *reading, const char *before, const void *bytes, size_t count)
{
    note(reading, before);
    const uint8_t *data = bytes;
    for (size_t i = 0; i < count; i++) {
        char text[5];
        int used = isprint(data[i]) ? snprintf(text, sizeof text, "%c", data[i])
                                    : snprintf(text, sizeof text, "\\x%02x", data[i]);
        put(reading, text, (size_t)used);
    }
}

void note_name(reading *reading, const void *bytes, size_t count)
{
    note(reading, " ");
    for (size_t i = 0; i < count; i++) {
        char lower = (char)tolower(((const uint8_t *)bytes)[i]);
        put(reading, &lower, 1);
    }
}

void count_body(reading *reading, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        reading->body_digest = (reading->body_digest ^ ((const uint8_t *)bytes)[i]) * 16777619;
    reading->body_count += count;
}

void note_body(reading *reading, size_t end)
{
    note_number(reading, "body ", reading->body_count);
    note_number(reading, " ", reading->body_digest);
    note_number(reading, " end ", end);
    reading->body_count = reading->body_digest = 0;
}

/* ---- CNet */

static void note_fields(reading *reading, const cn_head *head)
{
    for (size_t i = 0; i < head->field_count; i++) {
        const cn_field *field = &head->fields[i];
        note_name(reading, head->bytes + field->name_offset, field->name_count);
        note_bytes(reading, "=", head->bytes + field->value_offset, field->value_count);
    }
}

static void note_head(reading *reading, const cn_h1 *h1)
{
    const cn_head *head = &h1->head;
    if (h1->is_response) {
        note_number(reading, "", head->status);
    } else {
        note_bytes(reading, "", head->method.data, head->method.count);
        note_bytes(reading, " ", head->target.data, head->target.count);
        note_bytes(reading, " host=", head->authority.data, head->authority.count);
    }
    note(reading, head->version == CN_HTTP_1_0 ? " 1.0" : " 1.1");
    note(reading, h1->keep_alive ? " keep" : " close");
    note_fields(reading, head);
    note(reading, "\n");
}

static void note_end(reading *reading, const cn_h1 *h1, size_t end)
{
    note_body(reading, end);
    note_fields(reading, &h1->head);
    note(reading, "\n");
}

/* One piece; false when nothing may follow. `end` is its end's place in the input. */
static bool read_piece(cn_h1 *h1, bool is_head, const uint8_t *bytes, size_t count, size_t end,
                       reading *reading)
{
    static cn_field fields[MAX_FIELD_COUNT];
    for (;;) {
        cn_h1_event event;
        if (cn_h1_next(h1, &bytes, &count, fields, MAX_FIELD_COUNT, &event) != CN_OK) {
            reading->problem = h1->problem;
            return false;
        }
        switch (event) {
        case CN_H1_NEED_MORE:
            return true;
        case CN_H1_HEAD:
            note_head(reading, h1);
            break;
        case CN_H1_BODY:
            count_body(reading, h1->body.data, h1->body.count);
            break;
        case CN_H1_END:
            note_end(reading, h1, end - count);
            if (!h1->keep_alive)
                return false;
            cn_h1_next_message(h1);
            h1->without_body = is_head;
            break;
        }
    }
}

/* `pieces_seed` 0: one piece. */
static void read_with_cnet(bool is_response, bool is_head, const uint8_t *input, size_t count,
                           uint64_t pieces_seed, reading *reading)
{
    cn_h1 h1;
    cn_h1_init(&h1, is_response, MAX_INPUT_BYTES);
    h1.without_body = is_head;
    bool goes_on = true;
    for (size_t at = 0; at < count && goes_on;) {
        size_t piece_count = count;
        if (pieces_seed != 0) {
            uint64_t random = next_random(&pieces_seed);
            piece_count = 1 + (random >> 8) % (1u << random % 9);
        }
        if (piece_count > count - at)
            piece_count = count - at;
        /* A copy of the right size: reading past it is seen by the sanitizer. */
        uint8_t *piece = malloc(piece_count);
        memcpy(piece, input + at, piece_count);
        at += piece_count;
        goes_on = read_piece(&h1, is_head, piece, piece_count, at, reading);
        free(piece);
    }
    if (goes_on && h1.state != CN_H1_IN_HEAD) {
        if (cn_h1_end_of_input(&h1) == CN_OK)
            read_piece(&h1, is_head, NULL, 0, count, reading);
        else
            reading->is_cut = true;
    }
    cn_h1_free(&h1);
}

/* ---- what may differ */

typedef struct difference {
    const char *problem;
    const char *reason;
    size_t count;
} difference;

/* CNet refuses, for this problem, what llhttp takes. */
static difference stricter[] = {
    {"empty lines instead of a head", "llhttp skips any number; RFC 9112 asks for one", 0},
    {"line without CR LF", "llhttp takes a bare LF after a start line and in front of it", 0},
    {"malformed method", "llhttp passes over bare CRs before a request", 0},
    {"malformed request line", "llhttp takes requests of HTTP/0.9, without a version", 0},
    {"malformed request target", "llhttp takes other schemes, user information, and no path", 0},
    {"malformed HTTP version", "llhttp takes more than one blank between words", 0},
    {"HTTP version not supported", "llhttp takes HTTP/0.9 and HTTP/2.0 start lines", 0},
    {"malformed status line", "llhttp takes codes out of 100 to 599, and more blanks", 0},
    {"CONNECT is not supported", "tunnels are not served", 0},
    {"unexpected switch of protocols", "upgrades are never asked for", 0},
    {"no host", "RFC 9112 section 3.2; llhttp leaves it to its caller", 0},
    {"more than one host", "RFC 9112 section 3.2; llhttp leaves it to its caller", 0},
    {"malformed host", "RFC 9112 section 3.2; llhttp leaves it to its caller", 0},
    {"malformed header name", "llhttp takes an empty name", 0},
    {"too many header fields", "llhttp leaves limits to its caller", 0},
    {"connection names too many fields", "llhttp leaves limits to its caller", 0},
    {"folded header line", "RFC 9112 section 5.2 lets a server refuse them", 0},
    {"unknown expectation", "RFC 9110 section 10.1.1; llhttp leaves it to its caller", 0},
    {"malformed content-length", "llhttp takes lengths above 2^63", 0},
    {"content-length beside transfer-encoding", "llhttp takes both if the coding is empty", 0},
    {"more than one transfer-encoding", "llhttp joins them", 0},
    {"transfer-encoding in HTTP/1.0", "RFC 9112 section 6.1 calls the framing faulty", 0},
    {"transfer-encoding other than chunked", "no other is understood", 0},
    {"malformed chunk extension", "llhttp takes DEL and bytes without end", 0},
    {"chunk size overflows", "llhttp takes sizes above 2^62", 0},
    {"trailer about framing", "RFC 9110 section 6.5.1 forbids to send them", 0},
    {NULL, NULL, 0},
};

/* llhttp refuses, for this reason of its own, what CNet takes. */
static difference looser[] = {
    {"Invalid method encountered", "llhttp has a list of methods; any token is one", 0},
    {"Expected space after method", "llhttp has a list of methods; any token is one", 0},
    {"Expected HTTP/2 Connection Preface", "PRI is a token; the preface is looked for before", 0},
    {"Invalid HTTP version", "RFC 9110 section 2.5: a higher minor version is read as 1.1", 0},
    {"Invalid character in Content-Length", "a tab may follow a value; llhttp wants none", 0},
    {"malformed chunk extension", "extensions are dropped unread, up to CR LF", 0},
    {"Data after `Connection: close`", "an interim response ends no connection", 0},
    {NULL, NULL, 0},
};

static bool explain(difference *list, const char *problem)
{
    for (; list->problem != NULL; list++) {
        if (strcmp(list->problem, problem) == 0) {
            list->count++;
            return true;
        }
    }
    return false;
}

static bool begins_with(const reading *reading, const struct reading *begin)
{
    return reading->used >= begin->used && memcmp(reading->log, begin->log, begin->used) == 0;
}

static bool is_equal(const reading *one, const reading *other)
{
    return one->used == other->used && begins_with(one, other);
}

static bool is_explained(const reading *cnet, const reading *peer)
{
    bool takes_more = cnet->used > peer->used ||
                      (cnet->used == peer->used && cnet->problem == NULL &&
                       cnet->body_count > peer->body_count);
    if (peer->problem != NULL && takes_more)
        return begins_with(cnet, peer) && explain(looser, peer->problem);
    if (cnet->problem != NULL && peer->problem == NULL)
        return begins_with(peer, cnet) && explain(stricter, cnet->problem);
    if (cnet->problem != NULL && peer->used > cnet->used)
        return begins_with(peer, cnet) && explain(stricter, cnet->problem);
    /* Both refuse, or CNet still waits for the end of what llhttp refuses. */
    if (peer->problem != NULL)
        return is_equal(cnet, peer);
    return is_equal(cnet, peer) && cnet->body_count == peer->body_count &&
           cnet->body_digest == peer->body_digest && cnet->is_cut == peer->is_cut;
}

/* Whether the text, which is in lower case, is in the input in any case. */
static bool mentions(const uint8_t *input, size_t count, const char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0; i + length <= count; i++) {
        if (strncasecmp((const char *)input + i, text, length) == 0)
            return true;
    }
    return false;
}

static void print_reading(const char *name, const reading *reading)
{
    fprintf(stderr, "-- %s: %s\n%s", name, reading->problem == NULL ? "ok" : reading->problem,
            reading->log);
    fprintf(stderr, "and %zu bytes of a body\n", reading->body_count);
}

static void fail(const char *what, const uint8_t *input, size_t count, const reading *one,
                 const reading *other)
{
    static reading shown;
    note_bytes(&shown, "", input, count);
    fprintf(stderr, "%s\n%s\n", what, shown.log);
    print_reading("CNet", one);
    print_reading("the other", other);
    abort();
}

void compare(bool is_response, bool is_head, const uint8_t *input, size_t count,
             uint64_t pieces_seed)
{
    static reading whole, pieces, peer;
    whole.used = pieces.used = peer.used = 0;
    whole.body_count = pieces.body_count = peer.body_count = 0;
    whole.body_digest = pieces.body_digest = peer.body_digest = 0;
    whole.problem = pieces.problem = peer.problem = NULL;
    whole.is_cut = pieces.is_cut = peer.is_cut = false;
    whole.log[0] = pieces.log[0] = peer.log[0] = 0;
    read_with_cnet(is_response, is_head, input, count, 0, &whole);
    read_with_cnet(is_response, is_head, input, count, pieces_seed, &pieces);
    read_with_llhttp(is_response, is_head, input, count, &peer);
    if (!is_equal(&whole, &pieces) || whole.problem != pieces.problem ||
        whole.body_digest != pieces.body_digest)
        fail("The pieces matter.", input, count, &whole, &pieces);
    /* llhttp takes `proxy-connection` for `connection`, and no coding that a tab follows. */
    bool is_comparable = !mentions(input, count, "proxy-connection") &&
                         !mentions(input, count, "chunked\t");
    if (is_comparable && !is_explained(&whole, &peer))
        fail("llhttp differs.", input, count, &whole, &peer);
}

static bool print_list(const char *title, const difference *list)
{
    bool has_all = true;
    printf("%s\n", title);
    for (; list->problem != NULL; list++) {
        printf("%9zu  %s: %s\n", list->count, list->problem, list->reason);
        has_all = has_all && list->count > 0;
    }
    return has_all;
}

bool print_differences(void)
{
    bool has_stricter = print_list("refused by CNet alone:", stricter);
    return print_list("refused by llhttp alone:", looser) && has_stricter;
}

uint64_t next_random(uint64_t *state)
{
    uint64_t mixed = *state += 0x9E3779B97F4A7C15;
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB;
    return mixed ^ mixed >> 31;
}
