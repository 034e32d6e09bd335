// Any two machines: blocks travel in the frames of one or more sockets, gathered from and scattered
// to block memory by the kernel. A transfer is cut into requests, each of which names its remote
// blocks; a stream keeps several under way.
#include "engine.h"

// Bytes that one request asks for or carries, unless a single block is larger. Larger requests cost
// nothing in system calls and much in caches.
#define CT_REQUEST_BYTES (1u << 20)

static ct_status open_streams(ct_peer *peer) {
    for (uint32_t i = 1; i < peer->stream_count; i++) {
        ct_status status = ct_peer_open_stream(
            peer, (const struct sockaddr *)&peer->address, peer->address_bytes, &peer->streams[i]);
        if (status != CT_OK) {
            return status;
        }
    }
    if (peer->stream_count == 1) {
        ct_stream_subscribe(peer->streams[0]);
    }
    return CT_OK;
}

static void welcomed(ct_peer *peer, ct_stream *stream) {
    (void)stream;
    for (uint32_t i = 0; i < peer->stream_count; i++) {
        if (!peer->streams[i]->is_welcomed) {
            return;
        }
    }
    ct_stream_subscribe(peer->streams[0]);
}

static ct_status region_added(ct_peer *peer, uint32_t region_id, int fd) {
    (void)peer;
    (void)region_id;
    return fd < 0 ? CT_OK : CT_EPROTOCOL;
}

static void region_removed(ct_peer *peer, uint32_t region_id) {
    (void)peer;
    (void)region_id;
}

static void start(ct_transfer *transfer) {
    ct_link_append(&transfer->peer->queue, &transfer->path_node);
    ct_peer_wake(transfer->peer);
}

static int stop(ct_transfer *transfer) {
    ct_link_remove(&transfer->path_node);
    if (transfer->operation == CT_WRITE) {
        return transfer->outstanding == 0;
    }
    for (uint32_t i = 0; i < transfer->peer->stream_count; i++) {
        ct_stream_forget(transfer->peer->streams[i], transfer);
    }
    return 1;
}

static uint32_t request_blocks(const ct_transfer *transfer) {
    uint64_t count = CT_REQUEST_BYTES / transfer->block_bytes;
    count = count < 1 ? 1 : count > CT_LIST_BLOCKS_MAX ? CT_LIST_BLOCKS_MAX : count;
    uint32_t left = transfer->block_count - transfer->next_block;
    return count < left ? (uint32_t)count : left;
}

static void request(ct_stream *stream) {
    ct_peer *peer = stream->peer;
    if (ct_link_is_empty(&peer->queue)) {
        return;
    }
    // Transfers take turns, so that a small one does not wait for a large one.
    ct_transfer *transfer = ct_container(ct_link_pop(&peer->queue), ct_transfer, path_node);
    uint32_t first = transfer->next_block;
    uint32_t count = request_blocks(transfer);
    uint64_t bytes = count * transfer->block_bytes;
    int writes = transfer->operation == CT_WRITE;
    ct_header header = {
        .type = writes ? CT_FRAME_WRITE : CT_FRAME_READ,
        .payload_bytes = writes ? bytes : 0,
        .body_bytes = ct_list_encode(
            &transfer->region, transfer->epoch, &transfer->remote, first, count,
            ct_conn_body(&stream->conn)),
    };
    ct_cursor cursor = ct_cursor_make(&transfer->local, first, first + count);
    ct_request request = {
        .kind = CT_REQUEST_BLOCKS,
        .answer = writes ? CT_FRAME_DONE : CT_FRAME_DATA,
        .transfer = transfer,
        .first = first,
        .count = count,
        .payload_bytes = writes ? 0 : bytes,
    };
    ct_stream_send(stream, header, &cursor, request);
    transfer->next_block += count;
    transfer->outstanding++;
    if (transfer->next_block < transfer->block_count) {
        ct_link_append(&peer->queue, &transfer->path_node);
    }
}

// The oldest request is answered in full.
static void complete(ct_stream *stream, ct_status status) {
    ct_request request = ct_stream_pop(stream);
    ct_transfer *transfer = request.transfer;
    if (transfer == NULL) {
        return;
    }
    transfer->outstanding--;
    if (status == CT_OK) {
        ct_transfer_mark_done(transfer, request.first, request.count);
    }
    if (transfer->phase == CT_PHASE_DRAINING) {
        if (transfer->outstanding == 0) {
            ct_transfer_finish(transfer, transfer->status);
        }
    } else if (status != CT_OK) {
        ct_transfer_fail(transfer, status);
    } else if (transfer->done_count == transfer->block_count) {
        ct_transfer_moved(transfer);
    }
}

static ct_status answered(ct_stream *stream) {
    const ct_header *header = &stream->conn.header;
    const ct_request *request = ct_stream_oldest(stream);
    uint64_t expected_bytes = header->status == CT_OK ? request->payload_bytes : 0;
    if (header->payload_bytes != expected_bytes) {
        return CT_EPROTOCOL;
    }
    if (expected_bytes == 0) {
        complete(stream, header->status);
    } else if (request->transfer != NULL) {
        ct_conn_receive(
            &stream->conn,
            ct_cursor_make(
                &request->transfer->local, request->first, request->first + request->count));
    }
    return CT_OK;
}

// The bytes are in, but may be those of another use of the blocks: the peer has the last word.
static void received(ct_stream *stream) {
    ct_request *request = ct_stream_oldest(stream);
    request->answer = CT_FRAME_DONE;
    request->payload_bytes = 0;
}

const ct_path_ops ct_tcp_ops = {
    .path = CT_PATH_TCP,
    .open = open_streams,
    .welcomed = welcomed,
    .region_added = region_added,
    .region_removed = region_removed,
    .start = start,
    .stop = stop,
    .request = request,
    .answered = answered,
    .received = received,
};
