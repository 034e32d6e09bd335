/* Input of a fuzzer as HTTP/1.1: bytes from 0xE0 stand for words, so that it need not find them. */
#ifndef WORDS_H
#define WORDS_H

#include <stdint.h>
#include <string.h>

static const char *const words[32] = {
    "\r\n",
    "\r\n\r\n",
    "GET ",
    "POST / HTTP/1.1\r\n",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100\r\n",
    "HTTP/1.1 304 No\r\n",
    "Host: a\r\n",
    "Host: a\r\n\r\n",
    "Content-Length: ",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: ",
    "chunked",
    "Connection: close\r\n",
    "Expect: 100-continue\r\n",
    "http://b/",
    "5\r\nhello\r\n",
    "0\r\n",
    "0\r\n\r\n",
    "10;x=y\r\n",
    "T: v\r\n",
    "X: ",
    "HEAD / HTTP/1.1\r\n",
};

static inline size_t expand(const uint8_t *data, size_t count, uint8_t *out, size_t room)
{
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const char *word = data[i] >= 0xE0 ? words[data[i] - 0xE0] : NULL;
        size_t length = word == NULL ? 1 : strlen(word);
        if (used + length > room)
            break;
        memcpy(out + used, word == NULL ? (const char *)&data[i] : word, length);
        used += length;
    }
    return used;
}

#endif
