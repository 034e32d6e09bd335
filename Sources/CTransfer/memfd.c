// Same host, a pool: the connecting side maps the pool's memfd and copies.
#include <stdio.h>
#include <string.h>

#include "engine.h"

// How much one transfer copies before the others, and the heartbeats, have their turn.
#define CT_SLICE_BYTES (1u << 20)

static int capability(const ct_engine *engine, char *reason, size_t capacity) {
    (void)engine;
    snprintf(reason, capacity, "possible with pools of peers of this host and user");
    return 1;
}

static int reaches(const ct_peer *peer, uint32_t region_id) {
    return peer->regions[region_id].memory != NULL;
}

static void plain_copy(void *target, const void *source, size_t bytes) {
    memcpy(target, source, bytes);
}

static void begin(ct_transfer *transfer) {
    uint64_t left = transfer->block_count - transfer->done_count;
    transfer->kernel = left * transfer->block_bytes >= CT_STREAMING_MIN_BYTES
                           ? transfer->engine->streaming_copy
                           : plain_copy;
    ct_channel_begin(transfer, transfer->peer->regions[transfer->region.id].memory);
}

static ct_status copy(ct_transfer *transfer, uint64_t limit_bytes) {
    while (limit_bytes > 0 && !ct_cursor_at_end(&transfer->source)) {
        struct iovec source = ct_cursor_slice(&transfer->source);
        struct iovec target = ct_cursor_slice(&transfer->target);
        size_t bytes = source.iov_len < limit_bytes ? source.iov_len : limit_bytes;
        transfer->kernel(target.iov_base, source.iov_base, bytes);
        ct_cursor_skip(&transfer->source, bytes);
        ct_cursor_skip(&transfer->target, bytes);
        limit_bytes -= bytes;
    }
    return CT_OK;
}

static void advance(ct_transfer *transfer) {
    ct_channel_advance(transfer, CT_SLICE_BYTES, copy);
}

static void end(ct_peer *peer) {
    (void)peer;
}

const ct_path_ops ct_memfd_ops = {
    .path = CT_PATH_MEMFD,
    .uses_channel = 1,
    .capability = capability,
    .probe = ct_channel_probe,
    .reaches = reaches,
    .begin = begin,
    .advance = advance,
    .cancel = ct_channel_cancel,
    .end = end,
};
