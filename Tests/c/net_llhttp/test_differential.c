/* Requests and responses from a seeded generator, most of them valid and many with a flaw, read by
 * CNet and by llhttp.
 *
 *   test_differential [SEED [COUNT]]
 *
 * With the default count it also fails if a difference that compare.c explains did not come up.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"

typedef struct input {
    uint8_t bytes[MAX_INPUT_BYTES];
    size_t count;
} input;

static uint64_t random_state;

static size_t below(size_t limit)
{
    return (size_t)(next_random(&random_state) % limit);
}

static void add(input *input, const char *text)
{
    size_t count = strlen(text);
    if (input->count + count > sizeof input->bytes)
        return;
    memcpy(input->bytes + input->count, text, count);
    input->count += count;
}

#define PICK(list) ((list)[below(sizeof(list) / sizeof((list)[0]))])

/* The first of a list as often as all the others. */
#define PREFER(list) (below(2) == 0 ? (list)[0] : PICK(list))

/* ---- heads */

static void add_start(input *input, bool is_response)
{
    static const char *const methods[] = {"GET",   "POST", "PUT",     "HEAD",  "OPTIONS",
                                          "PATCH", "get",  "CONNECT", "PURGE", "M-SEARCH",
                                          "FOO",   "PRI",  "GE(T",    "",      "DELETE"};
    static const char *const targets[] = {
        "/",        "/v1/chat?x=y&z=%20", "http://h/a",    "HTTP://h:1", "https://a.b/?q",
        "*",        "",                   "ftp://h/",      "h:443",      "//x/../y",
        "/a#b",     "/a b",               "?q",            "/\x7f",      "/\xc3\xa4",
        "/a\tb",    "http://u@h/x",       "http:///x",     "/\"<>\\^`{|}"};
    static const char *const versions[] = {"HTTP/1.1", "HTTP/1.0", "HTTP/1.2",  "HTTP/2.0",
                                           "HTTP/0.9", "http/1.1", "HTTP/1.10", "HTTP/11",
                                           "HTTP/ 1.1", ""};
    static const char *const statuses[] = {
        "200 OK", "404 Not Found", "204 No Content", "304",      "100 Go",    "103 ",
        "500",    "101 Switch",    "20 OK",          "2000 OK",  "099 Low",   "600 High",
        "2x0 OK", "200  two",      "200\tOK",        "200 \xff"};
    static const char *const ends[] = {"\r\n", "\n", "\r", " \r\n", "\r\r\n"};
    if (below(16) == 0)
        add(input, "\r\n");
    if (is_response) {
        add(input, PREFER(versions));
        add(input, below(40) == 0 ? "  " : " ");
        add(input, PREFER(statuses));
    } else {
        add(input, below(3) == 0 ? PICK(methods) : methods[below(3)]);
        add(input, below(60) == 0 ? "  " : " ");
        add(input, PREFER(targets));
        add(input, below(60) == 0 ? "  " : " ");
        add(input, below(4) == 0 ? PICK(versions) : versions[0]);
    }
    add(input, below(30) == 0 ? PICK(ends) : ends[0]);
}

static void add_field(input *input)
{
    static const char *const fields[] = {
        "X: y",
        "x-Long:   value with blanks \t ",
        "Empty:",
        "Connection: close",
        "Connection: keep-alive",
        "Connection: Keep-Alive, Close",
        "Connection: x, close",
        "connection: x-long",
        "Connection: x",
        "Connection: upgrade, x",
        "Connection: closed",
        "Connection:",
        "Connection: ,close,",
        "Proxy-Connection: keep-alive",
        "Keep-Alive: 5",
        "Upgrade: h2c",
        "Expect: 100-continue",
        "Expect: tea",
        "TE: trailers",
        "Host: other",
        "Cookie: a=b",
        "X:\x01",
        "X: \x7f",
        "X: \xc3\xa4",
        "X : y",
        "X\t: y",
        ": y",
        "no colon",
        "X(: y",
        " folded",
        "\tfolded",
        "X: a\rb",
        "X: a\nY: b",
        "X:y",
        "Content-Length : 1",
    };
    static const char *const ends[] = {"\r\n", "\n", "\r"};
    add(input, below(3) == 0 ? PICK(fields) : fields[below(8)]);
    add(input, below(60) == 0 ? PICK(ends) : ends[0]);
}

/* More than the limits let pass. */
static void add_many(input *input)
{
    bool are_fields = below(2) == 0;
    add(input, are_fields ? "" : "Connection: ");
    for (size_t left = are_fields ? 300 : 20; left > 0; left--)
        add(input, are_fields ? "a:\r\n" : "a,");
    add(input, are_fields ? "" : "\r\n");
}

static void add_host(input *input)
{
    static const char *const hosts[] = {"Host: h\r\n",     "host: a.b:80\r\n", "HOST: [::1]:1\r\n",
                                        "Host:\r\n",       "Host: a b\r\n",    "Host: a@b\r\n",
                                        "Host: a\r\nHost: a\r\n", ""};
    add(input, below(8) == 0 ? PICK(hosts) : hosts[0]);
}

/* ---- bodies */

static void add_chunks(input *input)
{
    static const char *const sizes[] = {
        "3",      "003",   "3;x",     "3;x=y",          "3;x=\"a;b\"",  "3 ",
        " 3",     "3 ;x",  "+3",      "0x3",            "g",            "",
        "3;",     "3;:",   "3;x\x01", "3;x=\"\x7f\"",   "3;x=\"",       "3;x=\"y\"z",
        "10000000000000003",          "7fffffffffffffff", "fffffffffffffffff"};
    static const char *const ends[] = {"\r\n", "\n", "\r", "x\r\n", ""};
    static const char *const trailers[] = {
        "T: 1\r\n",    "T:1\r\nU: 2\r\n", "Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n",
        "T : 1\r\n",   "T: 1\n",          "Host: x\r\n",           "Connection: close\r\n",
        "T: \x01\r\n", " fold\r\n"};
    for (size_t left = below(4); left > 0; left--) {
        add(input, below(4) == 0 ? PICK(sizes) : sizes[below(4)]);
        add(input, below(60) == 0 ? PICK(ends) : ends[0]);
        add(input, "abc");
        add(input, below(60) == 0 ? PICK(ends) : ends[0]);
    }
    add(input, below(10) == 0 ? "000" : "0");
    add(input, below(60) == 0 ? PICK(ends) : ends[0]);
    if (below(4) == 0)
        add(input, PICK(trailers));
    add(input, below(60) == 0 ? PICK(ends) : ends[0]);
}

static void add_message(input *input, bool is_response)
{
    static const char *const lengths[] = {"Content-Length: 3\r\n",
                                          "content-length:3 \r\n",
                                          "Content-Length: 3\t\r\n",
                                          "Content-Length: 003\r\n",
                                          "Content-Length: 3\r\nContent-Length: 3\r\n",
                                          "Content-Length: 3\r\nContent-Length: 5\r\n",
                                          "Content-Length: 3, 3\r\n",
                                          "Content-Length: +3\r\n",
                                          "Content-Length: -3\r\n",
                                          "Content-Length: 0x3\r\n",
                                          "Content-Length: 3 4\r\n",
                                          "Content-Length:\r\n",
                                          "Content-Length: 9999999999999999999\r\n",
                                          "Content-Length: 99999999999999999999\r\n"};
    static const char *const codings[] = {"Transfer-Encoding: chunked\r\n",
                                          "transfer-encoding:  Chunked \r\n",
                                          "Transfer-Encoding: gzip, chunked\r\n",
                                          "Transfer-Encoding: chunked, gzip\r\n",
                                          "Transfer-Encoding: gzip\r\n",
                                          "Transfer-Encoding: chunked, chunked\r\n",
                                          "Transfer-Encoding: chunkedx\r\n",
                                          "Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n",
                                          "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
                                          "Transfer-Encoding:\r\n",
                                          "Transfer-Encoding: \vchunked\r\n"};
    size_t kind = below(4);
    bool has_length = kind == 1 || below(20) == 0, is_chunked = kind == 2 || below(20) == 0;
    add_start(input, is_response);
    if (!is_response)
        add_host(input);
    for (size_t left = below(4); left > 0; left--)
        add_field(input);
    if (below(1000) == 0)
        add_many(input);
    if (has_length)
        add(input, below(4) == 0 ? PICK(lengths) : lengths[0]);
    if (is_chunked)
        add(input, below(4) == 0 ? PICK(codings) : codings[0]);
    for (size_t left = below(2); left > 0; left--)
        add_field(input);
    add(input, "\r\n");
    if (is_chunked)
        add_chunks(input);
    else if (has_length)
        add(input, "abc");
    else if (is_response && below(8) == 0)
        add(input, "up to the end");
}

/* ---- flaws */

static void mutate(input *input)
{
    static const uint8_t bytes[] = {'\r', '\n', '\t', ' ', ':',  ',',  ';',
                                    '0',  'a',  0,    0x7F, 0x80, 0xFF};
    if (input->count == 0)
        return;
    size_t at = below(input->count);
    switch (below(4)) {
    case 0:
        input->bytes[at] = PICK(bytes);
        break;
    case 1:
        input->bytes[at] ^= (uint8_t)(1 << below(8));
        break;
    case 2:
        memmove(input->bytes + at, input->bytes + at + 1, input->count - at - 1);
        input->count--;
        break;
    default:
        if (input->count == sizeof input->bytes)
            break;
        memmove(input->bytes + at + 1, input->bytes + at, input->count - at);
        input->bytes[at] = PICK(bytes);
        input->count++;
        break;
    }
}

static const size_t default_count = 200000;

int main(int argument_count, char **arguments)
{
    uint64_t seed = argument_count > 1 ? strtoull(arguments[1], NULL, 0) : 1;
    size_t count = argument_count > 2 ? strtoull(arguments[2], NULL, 0) : default_count;
    printf("seed %llu, %zu inputs\n", (unsigned long long)seed, count);
    fflush(stdout);
    random_state = seed;
    for (size_t i = 0; i < count; i++) {
        static input input;
        input.count = 0;
        bool is_response = below(2) == 0, is_head = below(8) == 0;
        for (size_t left = 1 + below(3); left > 0; left--)
            add_message(&input, is_response);
        for (size_t left = below(4); left > 1; left--)
            mutate(&input);
        if (below(16) == 0)
            input.count = below(input.count + 1);
        compare(is_response, is_head, input.bytes, input.count, 1 + below(1 << 30));
    }
    return print_differences() || count < default_count ? 0 : 1;
}
