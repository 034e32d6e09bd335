#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "params.h"

#define CT_SLOT_BITS 16
#define CT_DEFAULT_TIMEOUT_NS UINT64_C(30000000000)

static int planes_are_valid(const ct_transfer_params *params) {
    const ct_plane *local = params->local.planes;
    const ct_plane *remote = params->remote.planes;
    if (params->plane_count == 0) {
        return local == NULL && remote == NULL;
    }
    return params->plane_count <= CT_PLANES_MAX && local != NULL && remote != NULL;
}

// Checks all that can be known without the peer.
static ct_status check(const ct_engine *engine, const ct_transfer_params *params) {
    if (params->peer == NULL || params->peer->engine != engine ||
        params->notification_bytes > CT_NOTIFICATION_MAX ||
        (params->notification_bytes > 0 && params->notification == NULL)) {
        return CT_EINVAL;
    }
    if (params->block_count == 0) {
        return params->notification_bytes > 0 ? CT_OK : CT_EINVAL;
    }
    if ((params->operation != CT_READ && params->operation != CT_WRITE) || params->pool == NULL ||
        params->pool->engine != engine || !planes_are_valid(params)) {
        return CT_EINVAL;
    }
    const ct_plane *planes = params->plane_count > 0 ? params->local.planes : &params->pool->plane;
    uint32_t plane_count = params->plane_count > 0 ? params->plane_count : 1;
    uint64_t total;
    uint64_t block_bytes = ct_planes_block_bytes(planes, plane_count);
    if (block_bytes == 0 || __builtin_mul_overflow(block_bytes, params->block_count, &total)) {
        return CT_EINVAL;
    }
    for (uint32_t i = 0; i < params->plane_count; i++) {
        if (planes[i].length_bytes != params->remote.planes[i].length_bytes) {
            return CT_EINVAL;
        }
    }
    if (params->plane_count == 0 && params->region.block_bytes != block_bytes) {
        return CT_EINVAL;
    }
    return ct_blocks_check(
        planes, plane_count, params->local.ids, params->block_count,
        params->pool->region.size_bytes);
}

static void *take(uint8_t **room, const void *source, size_t bytes) {
    void *copy = *room;
    if (source != NULL && bytes > 0) {
        memcpy(copy, source, bytes);
    }
    *room += bytes;
    return copy;
}

// The transfer and everything that it will ever need, in one allocation.
static ct_transfer *create(const ct_transfer_params *params) {
    size_t count = params->block_count;
    uint32_t plane_count = params->plane_count > 0 ? params->plane_count : 1;
    size_t plane_bytes = plane_count * sizeof(ct_plane);
    size_t id_bytes = count * sizeof(uint32_t);
    size_t done_bytes = (count + 7) / 8;
    ct_transfer *transfer =
        calloc(1, sizeof(*transfer) + 2 * plane_bytes + 3 * id_bytes + done_bytes);
    if (transfer == NULL) {
        return NULL;
    }
    ct_plane whole = {
        .stride_bytes = params->region.block_bytes, .length_bytes = params->region.block_bytes};
    const ct_plane *local = params->plane_count > 0 ? params->local.planes : &whole;
    const ct_plane *remote = params->plane_count > 0 ? params->remote.planes : &whole;
    uint8_t *room = (uint8_t *)(transfer + 1);
    transfer->local.planes = take(&room, local, plane_bytes);
    transfer->remote.planes = take(&room, remote, plane_bytes);
    uint32_t *local_ids = take(&room, params->local.ids, id_bytes);
    uint32_t *remote_ids = take(&room, params->remote.ids, id_bytes);
    transfer->local.ids = params->local.ids != NULL ? local_ids : NULL;
    transfer->remote.ids = params->remote.ids != NULL ? remote_ids : NULL;
    transfer->failed = take(&room, NULL, id_bytes);
    transfer->done = take(&room, NULL, done_bytes);
    transfer->local.plane_count = plane_count;
    transfer->remote.plane_count = plane_count;
    transfer->local.base = count > 0 ? params->pool->memory : NULL;
    transfer->block_bytes = ct_planes_block_bytes(transfer->local.planes, plane_count);
    transfer->block_count = params->block_count;
    transfer->peer = params->peer;
    transfer->pool = count > 0 ? params->pool : NULL;
    transfer->operation = params->operation;
    transfer->region = params->region;
    transfer->epoch = params->epoch;
    transfer->notification_bytes = params->notification_bytes;
    if (params->notification_bytes > 0) {
        memcpy(transfer->notification, params->notification, params->notification_bytes);
    }
    transfer->result.allocation = transfer;
    ct_link_init(&transfer->peer_node);
    ct_link_init(&transfer->path_node);
    ct_link_init(&transfer->copy.node);
    return transfer;
}

static void submit(ct_command *command) {
    ct_transfer *transfer = ct_container(command, ct_transfer, submit);
    ct_link_append(&transfer->peer->transfers, &transfer->peer_node);
    ct_engine_arm(transfer->engine, transfer->deadline_ns);
    ct_transfer_begin(transfer);
}

ct_status ct_transfer_submit(
    ct_engine *engine, const ct_transfer_params *params, uint64_t *transfer_id_p) {
    ct_transfer_params given;
    ct_status status = ct_params_read(params, &given, sizeof(given));
    if (status == CT_OK) {
        status = check(engine, &given);
    }
    if (status != CT_OK) {
        return status;
    }
    ct_transfer *transfer = create(&given);
    if (transfer == NULL) {
        return CT_ENOMEM;
    }
    uint64_t timeout_ns = given.timeout_ns > 0 ? given.timeout_ns : CT_DEFAULT_TIMEOUT_NS;
    transfer->engine = engine;
    transfer->submit.run = submit;
    transfer->submitted_ns = ct_now_ns();
    if (__builtin_add_overflow(transfer->submitted_ns, timeout_ns, &transfer->deadline_ns)) {
        transfer->deadline_ns = UINT64_MAX;
    }
    pthread_mutex_lock(&engine->lock);
    int is_full = engine->free_slot_count == 0;
    uint64_t id = 0;
    if (!is_full) {
        uint32_t slot = engine->free_slots[--engine->free_slot_count];
        id = ++engine->transfer_serial << CT_SLOT_BITS | slot;
        transfer->id = id;
        engine->slots[slot] = transfer;
        if (transfer->pool != NULL) {
            transfer->pool->users++;
        }
        ct_engine_command_locked(engine, &transfer->submit);
    }
    pthread_mutex_unlock(&engine->lock);
    if (is_full) {
        free(transfer);
        return CT_EAGAIN;
    }
    *transfer_id_p = id;
    return CT_OK;
}

// The transfer of an id, NULL if it has been polled.
static ct_transfer *find_locked(ct_engine *engine, uint64_t id) {
    uint64_t slot = id & ((1u << CT_SLOT_BITS) - 1);
    ct_transfer *transfer = slot < engine->params.transfers_max ? engine->slots[slot] : NULL;
    return transfer != NULL && transfer->id == id ? transfer : NULL;
}

void ct_transfer_cancel(ct_engine *engine, uint64_t transfer_id) {
    pthread_mutex_lock(&engine->lock);
    ct_transfer *transfer = find_locked(engine, transfer_id);
    // Once per transfer, so that the queue has room for all.
    if (transfer != NULL && !transfer->is_cancelled) {
        transfer->is_cancelled = 1;
        engine->cancels[engine->cancel_count++] = transfer_id;
        ct_engine_wake_locked(engine);
    }
    pthread_mutex_unlock(&engine->lock);
}

int ct_transfer_take_cancel(ct_engine *engine, ct_transfer **transfer_p) {
    pthread_mutex_lock(&engine->lock);
    // A transfer whose submission waits yet must not end before it begins: that comes first.
    int found = engine->cancel_count > 0 && ct_link_is_empty(&engine->commands);
    if (found) {
        ct_transfer *transfer = find_locked(engine, engine->cancels[--engine->cancel_count]);
        // Once final, it may be polled and freed as soon as the lock is open.
        int is_final = transfer == NULL || transfer->phase == CT_PHASE_FINAL;
        *transfer_p = is_final ? NULL : transfer;
    }
    pthread_mutex_unlock(&engine->lock);
    return found;
}

void ct_transfer_release_slot_locked(ct_transfer *transfer) {
    ct_engine *engine = transfer->engine;
    uint32_t slot = transfer->id & ((1u << CT_SLOT_BITS) - 1);
    engine->slots[slot] = NULL;
    engine->free_slots[engine->free_slot_count++] = slot;
}

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

void ct_transfer_begin(ct_transfer *transfer) {
    ct_peer *peer = transfer->peer;
    if (peer->state == CT_PEER_DOWN) {
        ct_transfer_finish(transfer, peer->down_status);
        return;
    }
    if (peer->state == CT_PEER_CONNECTING) {
        return;
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
    transfer->phase = CT_PHASE_MOVING;
    peer->path->start(transfer);
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
        if (!peer->path->stop(transfer)) {
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

static uint32_t list_failed(ct_transfer *transfer) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < transfer->block_count; i++) {
        if (!(transfer->done[i / 8] & (1u << (i % 8)))) {
            transfer->failed[count++] = i;
        }
    }
    return count;
}

// The promise that a local block is not touched after this needs no clock: the one thread that
// touches it comes here behind its last touch, wherever and however long it was stopped. What the
// kernel still holds for it finds no request to belong to, or a closed connection. Remote blocks
// are their owner's affair (ledger.h).
void ct_transfer_finish(ct_transfer *transfer, ct_status status) {
    ct_engine *engine = transfer->engine;
    ct_peer *peer = transfer->peer;
    transfer->phase = CT_PHASE_FINAL;
    ct_link_remove(&transfer->peer_node);
    ct_link_remove(&transfer->path_node);
    if (transfer->pool != NULL) {
        ct_pool_drop(transfer->pool);
    }
    ct_path path = peer->path != NULL ? peer->path->path : CT_PATH_NONE;
    transfer->result.event = (ct_event){
        .kind = CT_EVENT_TRANSFER,
        .status = status,
        .transfer_id = transfer->id,
        .peer_id = peer->id,
        .path = path,
        .failed_count = list_failed(transfer),
        .failed = transfer->failed,
        .transferred_bytes = transfer->done_count * transfer->block_bytes,
        .elapsed_ns = ct_now_ns() - transfer->submitted_ns,
    };
    pthread_mutex_lock(&engine->lock);
    ct_path_stats *stats = &engine->stats.paths[path];
    stats->transfers++;
    stats->failed_transfers += status != CT_OK;
    stats->transferred_bytes += transfer->result.event.transferred_bytes;
    stats->failed_blocks += transfer->result.event.failed_count;
    // From here on the transfer belongs to the caller of ct_engine_poll.
    ct_engine_push_event_locked(engine, &transfer->result);
    pthread_mutex_unlock(&engine->lock);
}
