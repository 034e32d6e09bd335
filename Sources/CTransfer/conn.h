// Connections: stream sockets that carry one frame at a time in each direction.
#ifndef CT_CONN_H
#define CT_CONN_H

#include "blocks.h"
#include "ctransfer.h"
#include "frame.h"
#include "list.h"

#pragma GCC visibility push(hidden)

// Work that is split into turns, so that no connection or copy holds up the others.
typedef struct ct_task {
    ct_link node;
    void (*run)(struct ct_task *task);
} ct_task;

// A call from another thread, carried out by the progress thread. Embedded in the object it is
// about, so that queueing cannot fail.
typedef struct ct_command {
    ct_link node;
    void (*run)(struct ct_command *command);
} ct_command;

// A file descriptor in the epoll set.
typedef struct ct_source {
    void (*ready)(struct ct_source *source, uint32_t events);
} ct_source;

// An event on its way to ct_engine_poll, and the allocation that it lies in; a transfer lies in the
// engine's slots instead.
typedef struct ct_event_node {
    ct_link node;
    ct_event event;
    void *allocation;
} ct_event_node;

typedef struct ct_conn ct_conn;

// What a connection tells its owner. A callback that returns an error closes the connection.
typedef struct ct_conn_ops {
    // Header and body of a frame are in. Announced payload is thrown away unless the callback says
    // by ct_conn_receive where it goes.
    ct_status (*frame)(ct_conn *conn);
    // The announced payload is in.
    ct_status (*payload)(ct_conn *conn);
    // A frame has left; the callback may start the next at once.
    void (*sent)(ct_conn *conn);
    // Nothing is being sent and the socket takes bytes; the callback may start one frame.
    ct_status (*idle)(ct_conn *conn);
    // The last callback. The connection is freed at the end of the engine's turn.
    void (*closed)(ct_conn *conn, ct_status status);
} ct_conn_ops;

// Where bytes of a frame are due next.
typedef enum ct_conn_input { CT_INPUT_HEADER, CT_INPUT_BODY, CT_INPUT_PAYLOAD } ct_conn_input;

// A stream socket that carries one frame at a time in each direction. Payloads go straight between
// the socket and block memory.
struct ct_conn {
    ct_task task;
    ct_source source;
    ct_link node;  // of the owner's list, or of the engine's closed connections
    ct_engine *engine;
    const ct_conn_ops *ops;
    int fd;
    int passed_fd;         // came with the frame in hand; -1: none. Closed by the connection
    uint8_t is_local;      // AF_UNIX: may carry descriptors
    uint8_t is_serving;    // the listening side: does not read while it sends, nor when given up
    uint8_t is_readable;   // as of the last edge
    uint8_t is_writable;
    uint8_t is_hung_up;
    uint8_t is_closed;
    uint64_t sent_ns;      // before the last send that took bytes; at first, when it was opened
    uint64_t received_ns;  // after the last receive that brought bytes

    ct_conn_input input;
    size_t input_have;  // of the header or the body
    ct_header header;   // of the frame in hand
    uint64_t input_payload_bytes;
    uint8_t input_discards;
    ct_cursor input_cursor;

    size_t output_bytes;  // of `output`; 0: nothing is being sent
    size_t output_sent;
    int output_fd;  // to pass with the first byte; -1: none. Closed by the connection
    uint64_t output_payload_bytes;
    ct_cursor output_cursor;

    uint8_t input_header[CT_HEADER_BYTES];
    _Alignas(8) uint8_t body[CT_BODY_MAX_BYTES];
    uint8_t output[CT_HEADER_BYTES + CT_BODY_MAX_BYTES];
};

// Takes over `fd`, which is non-blocking; on failure the caller keeps it. `conn` is the first
// member of its owner's allocation.
ct_status ct_conn_open(
    ct_conn *conn, ct_engine *engine, const ct_conn_ops *ops, int fd, int is_local, int is_serving);
// Ends the connection; `closed` is called before it returns. A closed connection is left alone.
void ct_conn_close(ct_conn *conn, ct_status status);
// Gives the connection a turn.
void ct_conn_wake(ct_conn *conn);
// From `frame` only: where the announced payload goes.
void ct_conn_receive(ct_conn *conn, ct_cursor cursor);
// Throws away what is still to come of the payload in hand.
void ct_conn_discard(ct_conn *conn);
// Where the body of the next frame to send is built.
uint8_t *ct_conn_body(ct_conn *conn);
// Sends a frame whose body has been built; nothing is being sent. `cursor` covers
// header->payload_bytes and may be NULL without payload. Takes over `fd`; -1: none.
void ct_conn_send(ct_conn *conn, const ct_header *header, const ct_cursor *cursor, int fd);
static inline int ct_conn_is_sending(const ct_conn *conn) {
    return conn->output_bytes > 0;
}

#pragma GCC visibility pop

#endif
