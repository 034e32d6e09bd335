// The two ends that an external processor is measured with: a client that speaks to any of them as
// Envoy does, and the floor, the least server that this client is content with.
#ifndef CEXTPROC_ENDS_H
#define CEXTPROC_ENDS_H

#include <stddef.h>
#include <stdint.h>

// A listening loopback socket, or -1.
int cxe_listen(uint16_t *port_p);

// The floor: libnghttp2 and protobuf by hand on one thread. Holds a request until it is complete,
// names the next of four endpoints, sends the body back, lets the response through. Looks at no
// header, parses no body, schedules nothing. Never returns.
void cxe_serve(int listener);

// An HTTP exchange.
typedef struct cxe_exchange {
    // Of the request.
    const char *path;
    const uint8_t *body;
    size_t body_bytes;
    // Events of a streamed response, each sent when the one before came back; 0: a short response
    // as a whole.
    size_t event_count;
} cxe_exchange;

// Takes `request_count` equal exchanges past the processor on `port`, `concurrent_count` at a time
// on one connection: request headers, body and its end; once that came back, the headers and the
// body of the response. Returns NULL once all are through, or what was wrong with an answer.
const char *cxe_drive(
    uint16_t port, const cxe_exchange *exchange, size_t request_count, size_t concurrent_count);

#endif
