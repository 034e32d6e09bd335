// Any two machines: blocks travel in the frames of one or more sockets, gathered from and scattered
// to block memory by the kernel. A transfer is cut into requests, each of which names its remote
// blocks; a stream keeps several under way.
#include <stdio.h>

#include "engine.h"

// Bytes that one request asks for or carries, unless a single block is larger. Larger requests cost
// nothing in system calls and much in caches.
#define CT_REQUEST_BYTES (1u << 20)

static int capability(const ct_engine *engine, char *reason, size_t capacity) {
    (void)engine;
    snprintf(reason, capacity, "possible with every peer");
    return 1;
}

static ct_status probe(ct_peer *peer, char *reason, size_t capacity) {
    int waits = 0;
    for (uint32_t i = 1; i < peer->stream_count; i++) {
        if (peer->streams[i] == NULL) {
            ct_status status = ct_peer_open_stream(
                peer, (const struct sockaddr *)&peer->address, peer->address_bytes,
                &peer->streams[i]);
            if (status != CT_OK) {
                snprintf(reason, capacity, "no socket for stream %u", i);
                return status;
            }
        }
        waits |= !peer->streams[i]->is_welcomed;
    }
    return waits ? CT_EAGAIN : CT_OK;
}

static int reaches(const ct_peer *peer, uint32_t region_id) {
    (void)peer;
    (void)region_id;
    return 1;
}

static void begin(ct_transfer *transfer) {
    transfer->next_block = 0;
    ct_link_append(&transfer->peer->queues[transfer->rank], &transfer->path_node);
    ct_peer_wake(transfer->peer);
}

static int cancel(ct_transfer *transfer) {
    ct_link_remove(&transfer->path_node);
    if (transfer->operation == CT_WRITE) {
        return transfer->outstanding == 0;
    }
    for (uint32_t i = 0; i < transfer->peer->stream_count; i++) {
        if (transfer->peer->streams[i] != NULL) {
            ct_stream_forget(transfer->peer->streams[i], transfer);
        }
    }
    return 1;
}

static void end(ct_peer *peer) {
    (void)peer;
}

// The transfer to go on with; NULL: none. Those of equal priority take turns, so that a small one
// does not wait for a large one.
static ct_transfer *next_transfer(ct_peer *peer) {
    for (uint32_t i = 0; i < CT_PRIORITIES; i++) {
        if (!ct_link_is_empty(&peer->queues[i])) {
            return ct_container(ct_link_pop(&peer->queues[i]), ct_transfer, path_node);
        }
    }
    return NULL;
}

// Moves on to the first block that neither a request nor another path has covered.
static void skip_done(ct_transfer *transfer) {
    while (transfer->next_block < transfer->block_count &&
           ct_transfer_is_done(transfer, transfer->next_block)) {
        transfer->next_block++;
    }
}

// How many blocks the next request covers.
static uint32_t request_blocks(const ct_transfer *transfer) {
    uint64_t most = CT_REQUEST_BYTES / transfer->block_bytes;
    most = most < 1 ? 1 : most > CT_LIST_BLOCKS_MAX ? CT_LIST_BLOCKS_MAX : most;
    uint32_t left = transfer->block_count - transfer->next_block;
    uint32_t end = transfer->next_block + (most < left ? (uint32_t)most : left);
    uint32_t block = transfer->next_block;
    while (block < end && !ct_transfer_is_done(transfer, block)) {
        block++;
    }
    return block - transfer->next_block;
}

void ct_tcp_request(ct_stream *stream) {
    ct_transfer *transfer = next_transfer(stream->peer);
    if (transfer == NULL) {
        return;
    }
    ct_transfer_posted(transfer);
    skip_done(transfer);
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
    skip_done(transfer);
    if (transfer->next_block < transfer->block_count) {
        ct_link_append(&stream->peer->queues[transfer->rank], &transfer->path_node);
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
            // Its blocks may all have made it after all; then only a notification was not sent.
            int is_whole = transfer->done_count == transfer->block_count &&
                           transfer->notification_bytes == 0;
            ct_transfer_finish(transfer, is_whole ? CT_OK : transfer->status);
        }
    } else if (status != CT_OK) {
        ct_transfer_fail(transfer, status);
    } else if (transfer->done_count == transfer->block_count) {
        ct_transfer_moved(transfer);
    }
}

ct_status ct_tcp_answered(ct_stream *stream) {
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
void ct_tcp_received(ct_stream *stream) {
    ct_request *request = ct_stream_oldest(stream);
    request->answer = CT_FRAME_DONE;
    request->payload_bytes = 0;
}

const ct_path_ops ct_tcp_ops = {
    .path = CT_PATH_TCP,
    .capability = capability,
    .probe = probe,
    .reaches = reaches,
    .begin = begin,
    .cancel = cancel,
    .end = end,
};
