#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "engine.h"

// How much a connection moves before the others have their turn.
#define CT_TURN_BYTES (2u << 20)
#define CT_STEP_BYTES 4096
#define CT_VECTORS_MAX 256

static void run(ct_task *task);
static void ready(ct_source *source, uint32_t events);

ct_status ct_conn_open(
    ct_conn *conn, ct_engine *engine, const ct_conn_ops *ops, int fd, int is_local,
    int is_serving) {
    ct_link_init(&conn->task.node);
    ct_link_init(&conn->node);
    conn->task.run = run;
    conn->source.ready = ready;
    conn->engine = engine;
    conn->ops = ops;
    conn->fd = fd;
    conn->passed_fd = -1;
    conn->output_fd = -1;
    conn->is_local = (uint8_t)is_local;
    conn->is_serving = (uint8_t)is_serving;
    conn->sent_ns = ct_now_ns();
    conn->received_ns = conn->sent_ns;
    return ct_engine_watch(
        engine, &conn->source, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

static void close_fd(int *fd) {
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

void ct_conn_close(ct_conn *conn, ct_status status) {
    if (conn->is_closed) {
        return;
    }
    conn->is_closed = 1;
    close_fd(&conn->fd);
    close_fd(&conn->passed_fd);
    close_fd(&conn->output_fd);
    ct_link_remove(&conn->task.node);
    ct_link_remove(&conn->node);
    ct_link_append(&conn->engine->closed_conns, &conn->node);
    conn->ops->closed(conn, status);
}

void ct_conn_wake(ct_conn *conn) {
    ct_engine_schedule(conn->engine, &conn->task);
}

void ct_conn_receive(ct_conn *conn, ct_cursor cursor) {
    conn->input_cursor = cursor;
    conn->input_discards = 0;
}

void ct_conn_discard(ct_conn *conn) {
    conn->input_discards = 1;
}

uint8_t *ct_conn_body(ct_conn *conn) {
    return conn->output + CT_HEADER_BYTES;
}

void ct_conn_send(ct_conn *conn, const ct_header *header, const ct_cursor *cursor, int fd) {
    ct_header_encode(header, conn->output);
    conn->output_bytes = CT_HEADER_BYTES + header->body_bytes;
    conn->output_sent = 0;
    conn->output_fd = fd;
    conn->output_payload_bytes = header->payload_bytes;
    if (cursor != NULL) {
        conn->output_cursor = *cursor;
    }
}

// Bytes moved by a system call; 0 where it would have blocked.
static ct_status moved_bytes(ssize_t result, uint8_t *is_ready, size_t *bytes_p) {
    if (result < 0 && errno != EAGAIN && errno != EINTR) {
        return CT_EPEERDEAD;
    }
    if (result < 0 && errno == EAGAIN) {
        *is_ready = 0;
    }
    *bytes_p = result < 0 ? 0 : (size_t)result;
    return CT_OK;
}

// The listening side has said nothing for a lease, so the connecting side has heard nothing for at
// least as long and has given it up: what is still to be read was sent by somebody who wants it no
// more. Bytes that come in prove nothing, for they may have waited while the thread stood still;
// neither does a clock that is read behind a call in which it may have stood. No promise rests on
// this: the thread may stand still behind any check (ledger.h).
static int is_given_up(const ct_conn *conn, uint64_t now_ns) {
    return conn->is_serving && now_ns - conn->sent_ns > conn->engine->params.lease_ns;
}

static ct_status send_some(ct_conn *conn, uint64_t *budget) {
    struct iovec vectors[CT_VECTORS_MAX + 1];
    size_t count = 0;
    size_t frame_bytes = conn->output_bytes - conn->output_sent;
    if (frame_bytes > 0) {
        vectors[count++] = (struct iovec){conn->output + conn->output_sent, frame_bytes};
    }
    if (conn->output_payload_bytes > 0) {
        count += ct_cursor_vectors(
            &conn->output_cursor, *budget, vectors + count, CT_VECTORS_MAX);
    }
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    if (conn->output_fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &conn->output_fd, sizeof(int));
    }
    uint64_t begin_ns = ct_now_ns();
    if (is_given_up(conn, begin_ns)) {
        return CT_EPEERDEAD;
    }
    size_t bytes;
    ct_status status = moved_bytes(
        sendmsg(conn->fd, &message, MSG_NOSIGNAL), &conn->is_writable, &bytes);
    if (status != CT_OK || bytes == 0) {
        return status;
    }
    close_fd(&conn->output_fd);
    conn->sent_ns = begin_ns;
    size_t of_frame = bytes < frame_bytes ? bytes : frame_bytes;
    uint64_t of_payload = bytes - of_frame;
    conn->output_sent += of_frame;
    conn->output_payload_bytes -= of_payload;
    ct_cursor_advance(&conn->output_cursor, of_payload);
    *budget -= of_payload < *budget ? of_payload : *budget;
    if (conn->output_sent == conn->output_bytes && conn->output_payload_bytes == 0) {
        conn->output_bytes = 0;
        conn->ops->sent(conn);
    }
    return CT_OK;
}

static ct_status body_complete(ct_conn *conn) {
    conn->input_have = 0;
    conn->input_payload_bytes = conn->header.payload_bytes;
    conn->input_discards = 1;
    conn->input = conn->input_payload_bytes > 0 ? CT_INPUT_PAYLOAD : CT_INPUT_HEADER;
    ct_status status = conn->ops->frame(conn);
    close_fd(&conn->passed_fd);
    return status;
}

static ct_status header_complete(ct_conn *conn) {
    ct_status status = ct_header_decode(conn->input_header, &conn->header);
    if (status != CT_OK) {
        return status;
    }
    if (conn->header.body_bytes == 0) {
        return body_complete(conn);
    }
    conn->input = CT_INPUT_BODY;
    conn->input_have = 0;
    return CT_OK;
}

// The vectors of the next read: exactly what is due, and behind a payload the next header, so that
// nothing is read that has to be copied again.
static size_t input_vectors(ct_conn *conn, uint64_t limit_bytes, struct iovec *vectors) {
    switch (conn->input) {
    case CT_INPUT_HEADER:
        vectors[0] = (struct iovec){
            conn->input_header + conn->input_have, CT_HEADER_BYTES - conn->input_have};
        return 1;
    case CT_INPUT_BODY:
        vectors[0] = (struct iovec){
            conn->body + conn->input_have, conn->header.body_bytes - conn->input_have};
        return 1;
    case CT_INPUT_PAYLOAD:
        break;
    }
    if (conn->input_discards) {
        // The body has been read by now.
        uint64_t left = conn->input_payload_bytes;
        vectors[0] =
            (struct iovec){conn->body, left < sizeof(conn->body) ? left : sizeof(conn->body)};
        return 1;
    }
    size_t count = ct_cursor_vectors(&conn->input_cursor, limit_bytes, vectors, CT_VECTORS_MAX);
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        bytes += vectors[i].iov_len;
    }
    if (bytes == conn->input_payload_bytes) {
        vectors[count++] = (struct iovec){conn->input_header, CT_HEADER_BYTES};
    }
    return count;
}

// Keeps a descriptor that came with the bytes just read. A frame may bring one.
static ct_status take_descriptor(ct_conn *conn, struct msghdr *message) {
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
         header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        int fd;
        memcpy(&fd, CMSG_DATA(header), sizeof(fd));
        if (conn->passed_fd >= 0) {
            close(fd);
            return CT_EPROTOCOL;
        }
        conn->passed_fd = fd;
    }
    // The buffer holds one descriptor; the kernel closes the ones that did not fit.
    return message->msg_flags & MSG_CTRUNC ? CT_EPROTOCOL : CT_OK;
}

static ct_status consume(ct_conn *conn, size_t bytes, uint64_t *budget) {
    switch (conn->input) {
    case CT_INPUT_HEADER:
        conn->input_have += bytes;
        return CT_OK;
    case CT_INPUT_BODY:
        conn->input_have += bytes;
        return conn->input_have == conn->header.body_bytes ? body_complete(conn) : CT_OK;
    case CT_INPUT_PAYLOAD:
        break;
    }
    uint64_t of_payload = bytes < conn->input_payload_bytes ? bytes : conn->input_payload_bytes;
    conn->input_payload_bytes -= of_payload;
    *budget -= of_payload < *budget ? of_payload : *budget;
    if (!conn->input_discards) {
        ct_cursor_advance(&conn->input_cursor, of_payload);
    }
    if (conn->input_payload_bytes > 0) {
        return CT_OK;
    }
    conn->input = CT_INPUT_HEADER;
    conn->input_have = bytes - of_payload;
    return conn->ops->payload(conn);
}

static ct_status receive_some(ct_conn *conn, uint64_t *budget) {
    struct iovec vectors[CT_VECTORS_MAX + 1];
    size_t count = input_vectors(conn, *budget, vectors);
    size_t wanted = 0;
    for (size_t i = 0; i < count; i++) {
        wanted += vectors[i].iov_len;
    }
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    if (conn->is_local) {
        message.msg_control = control;
        message.msg_controllen = CMSG_LEN(sizeof(int));
    }
    if (is_given_up(conn, ct_now_ns())) {
        return CT_EPEERDEAD;
    }
    ssize_t result = recvmsg(conn->fd, &message, MSG_CMSG_CLOEXEC);
    if (result == 0) {
        return CT_EPEERDEAD;
    }
    size_t bytes;
    ct_status status = moved_bytes(result, &conn->is_readable, &bytes);
    if (status != CT_OK || bytes == 0) {
        return status;
    }
    if (conn->is_local) {
        status = take_descriptor(conn, &message);
        if (status != CT_OK) {
            return status;
        }
    } else if (bytes < wanted && !conn->is_hung_up) {
        // A short read of a TCP socket emptied it: the next bytes come with a new edge.
        conn->is_readable = 0;
    }
    conn->received_ns = ct_now_ns();
    // Not even a sign of life is answered now: that would begin another lease.
    if (is_given_up(conn, conn->received_ns)) {
        return CT_EPEERDEAD;
    }
    return consume(conn, bytes, budget);
}

// Whether a header is in, or bytes may be.
static int may_receive(const ct_conn *conn) {
    if (conn->is_serving && ct_conn_is_sending(conn)) {
        return 0;
    }
    return conn->is_readable ||
           (conn->input == CT_INPUT_HEADER && conn->input_have == CT_HEADER_BYTES);
}

// One step of input and output. Says whether there may be more to do.
static ct_status step(ct_conn *conn, uint64_t *budget, int *more_p) {
    ct_status status = CT_OK;
    if (may_receive(conn)) {
        int has_header = conn->input == CT_INPUT_HEADER && conn->input_have == CT_HEADER_BYTES;
        status = has_header ? header_complete(conn) : receive_some(conn, budget);
    }
    if (status == CT_OK && !conn->is_closed && !ct_conn_is_sending(conn) && conn->is_writable) {
        status = conn->ops->idle(conn);
    }
    int sends = ct_conn_is_sending(conn) && conn->is_writable;
    if (status == CT_OK && !conn->is_closed && sends) {
        status = send_some(conn, budget);
    }
    // After a frame has left, the owner may have another.
    *more_p = may_receive(conn) || (sends && conn->is_writable);
    return status;
}

static void run(ct_task *task) {
    ct_conn *conn = ct_container(task, ct_conn, task);
    uint64_t budget = CT_TURN_BYTES;
    int more = 1;
    while (more) {
        // Frames without payload count too, or a flood of them would hold up the others.
        budget -= budget < CT_STEP_BYTES ? budget : CT_STEP_BYTES;
        if (budget == 0) {
            ct_conn_wake(conn);
            return;
        }
        ct_status status = step(conn, &budget, &more);
        if (status != CT_OK) {
            ct_conn_close(conn, status);
        }
        if (conn->is_closed) {
            return;
        }
    }
}

static void ready(ct_source *source, uint32_t events) {
    ct_conn *conn = ct_container(source, ct_conn, source);
    if (conn->is_closed) {
        return;
    }
    int is_over = (events & (EPOLLERR | EPOLLHUP)) != 0;
    conn->is_readable |= is_over || (events & (EPOLLIN | EPOLLRDHUP)) != 0;
    conn->is_writable |= is_over || (events & EPOLLOUT) != 0;
    conn->is_hung_up |= is_over || (events & EPOLLRDHUP) != 0;
    ct_conn_wake(conn);
}
