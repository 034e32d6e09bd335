// The connecting side of one connection: handshake, requests and their answers, signs of life.
#include <stdlib.h>
#include <string.h>

#include "engine.h"

static ct_status frame(ct_conn *conn);
static ct_status payload(ct_conn *conn);
static void sent(ct_conn *conn);
static ct_status idle(ct_conn *conn);
static void closed(ct_conn *conn, ct_status status);

static const ct_conn_ops ops = {frame, payload, sent, idle, closed};

ct_status ct_stream_create(ct_peer *peer, int fd, int is_local, ct_stream **stream_p) {
    ct_stream *stream = ct_allocate(sizeof(*stream));
    if (stream == NULL) {
        return CT_ENOMEM;
    }
    stream->peer = peer;
    ct_status status = ct_conn_open(&stream->conn, peer->engine, &ops, fd, is_local, 0);
    if (status != CT_OK) {
        free(stream);
        return status;
    }
    *stream_p = stream;
    return CT_OK;
}

void ct_stream_end(ct_stream **stream_p, ct_status status) {
    ct_stream *stream = *stream_p;
    *stream_p = NULL;
    if (stream != NULL) {
        ct_conn_close(&stream->conn, status);
    }
}

void ct_stream_subscribe(ct_stream *stream) {
    stream->wants_subscribe = 1;
    ct_conn_wake(&stream->conn);
}

static ct_stream *stream_of(ct_conn *conn) {
    return ct_container(conn, ct_stream, conn);
}

void ct_stream_send(
    ct_stream *stream, ct_header header, const ct_cursor *cursor, ct_request request) {
    uint64_t number = stream->first_request + stream->request_count++;
    stream->requests[number % CT_WINDOW] = request;
    header.request = number;
    ct_conn_send(&stream->conn, &header, cursor, -1);
}

ct_request *ct_stream_oldest(ct_stream *stream) {
    return &stream->requests[stream->first_request % CT_WINDOW];
}

ct_request ct_stream_pop(ct_stream *stream) {
    ct_request request = *ct_stream_oldest(stream);
    stream->first_request++;
    stream->request_count--;
    return request;
}

void ct_stream_forget(ct_stream *stream, const ct_transfer *transfer) {
    for (uint32_t i = 0; i < stream->request_count; i++) {
        ct_request *request = &stream->requests[(stream->first_request + i) % CT_WINDOW];
        if (request->transfer != transfer) {
            continue;
        }
        request->transfer = NULL;
        if (i == 0) {
            ct_conn_discard(&stream->conn);
        }
    }
}

static ct_status welcome(ct_stream *stream) {
    ct_hello hello;
    ct_status status = ct_hello_decode(&stream->conn.header, stream->conn.body, &hello);
    if (stream->is_welcomed || status != CT_OK) {
        return CT_EPROTOCOL;
    }
    if (stream->conn.header.status != CT_OK) {
        return stream->conn.header.status;
    }
    if (hello.version != CT_PROTOCOL_VERSION) {
        return CT_EVERSION;
    }
    stream->is_welcomed = 1;
    return ct_peer_welcomed(stream, &hello);
}

static ct_status region(ct_stream *stream) {
    ct_conn *conn = &stream->conn;
    ct_region_change change;
    ct_status status = ct_region_change_decode(&conn->header, conn->body, &change);
    if (status != CT_OK || !stream->is_subscribed ||
        (!conn->is_local && (change.address != 0 || conn->passed_fd >= 0))) {
        return CT_EPROTOCOL;
    }
    return ct_peer_region_changed(stream, &change, conn->passed_fd);
}

static ct_status answer(ct_stream *stream) {
    const ct_header *header = &stream->conn.header;
    if (stream->request_count == 0 || header->request != stream->first_request ||
        header->type != ct_stream_oldest(stream)->answer) {
        return CT_EPROTOCOL;
    }
    if (ct_stream_oldest(stream)->kind == CT_REQUEST_BLOCKS) {
        return ct_tcp_answered(stream);
    }
    ct_request request = ct_stream_pop(stream);
    if (request.transfer != NULL) {
        ct_transfer_finish(request.transfer, header->status);
    }
    return CT_OK;
}

static ct_status frame(ct_conn *conn) {
    ct_stream *stream = stream_of(conn);
    switch (conn->header.type) {
    case CT_FRAME_WELCOME:
        return welcome(stream);
    case CT_FRAME_REGION:
        return region(stream);
    case CT_FRAME_READY:
        if (!stream->is_subscribed) {
            return CT_EPROTOCOL;
        }
        ct_peer_ready(stream->peer);
        return CT_OK;
    default:
        return answer(stream);
    }
}

static ct_status payload(ct_conn *conn) {
    ct_stream *stream = stream_of(conn);
    ct_tcp_received(stream);
    return CT_OK;
}

// What is next is chosen when the socket takes bytes.
static void sent(ct_conn *conn) {
    (void)conn;
}

static void send_hello(ct_stream *stream) {
    const ct_engine *engine = stream->conn.engine;
    ct_hello hello = {.version = CT_PROTOCOL_VERSION, .engine_id = engine->id};
    memcpy(hello.boot_id, engine->boot_id, sizeof(hello.boot_id));
    ct_header header = {
        .type = CT_FRAME_HELLO,
        .body_bytes = ct_hello_encode(&hello, ct_conn_body(&stream->conn)),
    };
    stream->is_greeted = 1;
    ct_conn_send(&stream->conn, &header, NULL, -1);
}

static void send_notification(ct_stream *stream) {
    ct_link *node = ct_link_pop(&stream->peer->notifications);
    ct_transfer *transfer = ct_container(node, ct_transfer, path_node);
    memcpy(
        ct_conn_body(&stream->conn), transfer->notification, transfer->notification_bytes);
    ct_header header = {
        .type = CT_FRAME_NOTIFY, .body_bytes = (uint32_t)transfer->notification_bytes};
    ct_request request = {
        .kind = CT_REQUEST_NOTIFY, .answer = CT_FRAME_DONE, .transfer = transfer};
    ct_stream_send(stream, header, NULL, request);
}

// Chooses what to send next.
static ct_status idle(ct_conn *conn) {
    ct_stream *stream = stream_of(conn);
    ct_peer *peer = stream->peer;
    if (!stream->is_greeted) {
        send_hello(stream);
    } else if (!stream->is_welcomed) {
        return CT_OK;
    } else if (stream->wants_subscribe) {
        stream->wants_subscribe = 0;
        stream->is_subscribed = 1;
        ct_conn_send(conn, &(ct_header){.type = CT_FRAME_SUBSCRIBE}, NULL, -1);
    } else if (stream->request_count == CT_WINDOW) {
        return CT_OK;
    } else if (stream->wants_ping) {
        stream->wants_ping = 0;
        ct_request ping = {.kind = CT_REQUEST_PING, .answer = CT_FRAME_PONG};
        ct_stream_send(stream, (ct_header){.type = CT_FRAME_PING}, NULL, ping);
    } else if (peer->streams[0] == stream && !ct_link_is_empty(&peer->notifications)) {
        send_notification(stream);
    } else if (peer->state == CT_PEER_UP && stream != peer->channel) {
        ct_tcp_request(stream);
    }
    return CT_OK;
}

static void closed(ct_conn *conn, ct_status status) {
    ct_stream *stream = stream_of(conn);
    if (!stream->is_welcomed && status == CT_EPEERDEAD) {
        status = CT_EUNREACH;
    }
    ct_peer_stream_closed(stream, status);
}

void ct_stream_timers(ct_stream *stream, uint64_t now_ns) {
    ct_engine *engine = stream->conn.engine;
    if (!stream->is_welcomed) {
        return;
    }
    // Bytes that wait to be read are a sign of life that this thread was too busy to see.
    if (!stream->conn.is_readable &&
        now_ns - stream->conn.received_ns > engine->params.lease_ns) {
        ct_conn_close(&stream->conn, CT_EPEERDEAD);
        return;
    }
    if (now_ns - stream->pinged_ns >= engine->params.heartbeat_ns) {
        stream->pinged_ns = now_ns;
        stream->wants_ping = 1;
        ct_conn_wake(&stream->conn);
    }
    ct_engine_arm(engine, stream->pinged_ns + engine->params.heartbeat_ns);
}
