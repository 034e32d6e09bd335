// The life of a transfer on the progress thread: which path moves it, and how it ends.
#include "engine.h"

// Holds the transfer against what the peer publishes.
static ct_status check_remote(const ct_transfer *transfer) {
    uint32_t id = transfer->region.id;
    const ct_region *region = &transfer->peer->regions[id < CT_REGIONS_MAX ? id : 0].region;
    if (id >= CT_REGIONS_MAX || region->generation == 0) {
        return CT_ENOTFOUND;
    }
    if (region->generation != transfer->region.generation) {
        return CT_ESTALE;
    }
    return ct_blocks_check(
        transfer->remote.planes, transfer->remote.plane_count, transfer->remote.ids,
        transfer->block_count, region->size_bytes);
}

// What ends a transfer that no path is left for.
static ct_status why_no_path(const ct_transfer *transfer) {
    if (transfer->failed_paths != 0) {
        return transfer->path_status;
    }
    for (uint32_t path = 0; path < CT_PATH_COUNT; path++) {
        ct_status status = transfer->peer->lost_paths[path];
        if (status != CT_OK && (transfer->allowed_paths & CT_PATH_MASK(path))) {
            return status;
        }
    }
    return CT_EPOLICY;
}

void ct_transfer_begin(ct_transfer *transfer) {
    ct_peer *peer = transfer->peer;
    if (peer->state == CT_PEER_DOWN) {
        ct_transfer_finish(transfer, peer->down_status);
        return;
    }
    if (peer->state == CT_PEER_CONNECTING) {
        return;
    }
    if (transfer->begun_ns == 0) {
        transfer->begun_ns = ct_now_ns();
    }
    if (transfer->block_count == 0) {
        ct_transfer_moved(transfer);
        return;
    }
    ct_status status = check_remote(transfer);
    if (status != CT_OK) {
        ct_transfer_finish(transfer, status);
        return;
    }
    uint32_t paths = transfer->allowed_paths & ~transfer->failed_paths;
    transfer->path = ct_peer_choose_path(peer, paths, transfer->region.id);
    if (transfer->path == NULL) {
        ct_transfer_finish(transfer, why_no_path(transfer));
        return;
    }
    transfer->phase = CT_PHASE_MOVING;
    transfer->path->begin(transfer);
}

void ct_transfer_posted(ct_transfer *transfer) {
    if (transfer->posted_ns == 0) {
        transfer->posted_ns = ct_now_ns();
    }
}

int ct_transfer_is_done(const ct_transfer *transfer, uint32_t block) {
    return transfer->done[block / 8] >> (block % 8) & 1;
}

void ct_transfer_mark_done(ct_transfer *transfer, uint32_t first, uint32_t count) {
    for (uint32_t i = first; i < first + count; i++) {
        transfer->done[i / 8] |= (uint8_t)(1u << (i % 8));
    }
    transfer->done_count += count;
}

void ct_transfer_moved(ct_transfer *transfer) {
    if (transfer->notification_bytes == 0) {
        ct_transfer_finish(transfer, CT_OK);
        return;
    }
    transfer->moved_ns = ct_now_ns();
    transfer->phase = CT_PHASE_NOTIFYING;
    ct_link_remove(&transfer->path_node);
    ct_link_append(&transfer->peer->notifications, &transfer->path_node);
    ct_peer_wake(transfer->peer);
}

void ct_transfer_fail(ct_transfer *transfer, ct_status status) {
    ct_peer *peer = transfer->peer;
    switch (transfer->phase) {
    case CT_PHASE_WAITING:
        break;
    case CT_PHASE_MOVING:
        if (!transfer->path->cancel(transfer)) {
            transfer->phase = CT_PHASE_DRAINING;
            transfer->status = status;
            return;
        }
        break;
    case CT_PHASE_NOTIFYING:
        ct_stream_forget(peer->streams[0], transfer);
        break;
    case CT_PHASE_DRAINING:
    case CT_PHASE_FINAL:
        return;
    }
    ct_transfer_finish(transfer, status);
}

void ct_transfer_path_failed(ct_transfer *transfer, ct_status status) {
    ct_engine *engine = transfer->engine;
    const ct_path_ops *path = transfer->path;
    if (transfer->forbids_failover) {
        ct_transfer_finish(transfer, status);
        return;
    }
    transfer->phase = CT_PHASE_WAITING;
    transfer->failed_paths |= CT_PATH_MASK(path->path);
    transfer->path_status = status;
    uint32_t left = transfer->allowed_paths & ~transfer->failed_paths;
    if (ct_peer_choose_path(transfer->peer, left, transfer->region.id) != NULL) {
        pthread_mutex_lock(&engine->lock);
        engine->stats.paths[path->path].failovers++;
        pthread_mutex_unlock(&engine->lock);
    }
    ct_transfer_begin(transfer);
}

void ct_transfer_schedule(ct_transfer *transfer) {
    ct_link_append(&transfer->engine->moves[transfer->rank], &transfer->path_node);
}

void ct_transfers_advance(ct_engine *engine) {
    for (uint32_t i = 0; i < CT_PRIORITIES; i++) {
        if (!ct_link_is_empty(&engine->moves[i])) {
            ct_link *node = ct_link_pop(&engine->moves[i]);
            ct_transfer *transfer = ct_container(node, ct_transfer, path_node);
            ct_transfer_posted(transfer);
            transfer->path->advance(transfer);
            return;
        }
    }
}

static uint32_t list_failed(ct_transfer *transfer) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < transfer->block_count; i++) {
        if (!ct_transfer_is_done(transfer, i)) {
            transfer->failed[count++] = i;
        }
    }
    return count;
}

// Fills in the four times. What a transfer did not come to takes none.
static void set_times(const ct_transfer *transfer, uint64_t end_ns, ct_event *event) {
    uint64_t moved_ns = transfer->moved_ns != 0 ? transfer->moved_ns : end_ns;
    uint64_t posted_ns = transfer->posted_ns != 0 ? transfer->posted_ns : moved_ns;
    uint64_t begun_ns = transfer->begun_ns != 0 ? transfer->begun_ns : posted_ns;
    event->elapsed_ns = end_ns - transfer->submitted_ns;
    event->queue_ns = begun_ns - transfer->submitted_ns;
    event->post_ns = posted_ns - begun_ns;
    event->wire_ns = moved_ns - posted_ns;
    event->notify_ns = end_ns - moved_ns;
}

static void count_locked(ct_path_stats *stats, const ct_event *event) {
    stats->transfers++;
    stats->failed_transfers += event->status != CT_OK;
    stats->transferred_bytes += event->transferred_bytes;
    stats->failed_blocks += event->failed_count;
    stats->queue_ns += event->queue_ns;
    stats->post_ns += event->post_ns;
    stats->wire_ns += event->wire_ns;
    stats->notify_ns += event->notify_ns;
}

// The promise that a local block is not touched after this needs no clock: the one thread that
// touches it comes here behind its last touch, wherever and however long it was stopped. What the
// kernel still holds for it finds no request to belong to, or a closed connection. Remote blocks
// are their owner's affair (ledger.h).
void ct_transfer_finish(ct_transfer *transfer, ct_status status) {
    ct_engine *engine = transfer->engine;
    ct_link_remove(&transfer->peer_node);
    ct_link_remove(&transfer->path_node);
    if (transfer->pool != NULL) {
        ct_pool_drop(transfer->pool);
    }
    ct_event *event = &transfer->result.event;
    *event = (ct_event){
        .kind = CT_EVENT_TRANSFER,
        .status = status,
        .transfer_id = transfer->id,
        .peer_id = transfer->peer->id,
        .path = transfer->path != NULL ? transfer->path->path : CT_PATH_NONE,
        .failed_count = list_failed(transfer),
        .failed = transfer->failed,
        .transferred_bytes = transfer->done_count * transfer->block_bytes,
    };
    set_times(transfer, ct_now_ns(), event);
    pthread_mutex_lock(&engine->lock);
    transfer->phase = CT_PHASE_FINAL;
    count_locked(&engine->stats.paths[event->path], event);
    // From here on the transfer belongs to the caller of ct_engine_poll.
    ct_engine_push_event_locked(engine, &transfer->result);
    pthread_mutex_unlock(&engine->lock);
}
