// The caller's side of transfers: checking, queueing and cancelling.
#include <string.h>

#include "engine.h"
#include "params.h"

#define CT_SLOT_BITS 17
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
    if (params->priority > CT_PRIORITY_LOW || params->forbids_failover > 1 ||
        (params->allowed_paths & ~CT_PATH_MASK_ANY) != 0) {
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

static uint8_t rank_of(ct_priority priority) {
    static const uint8_t ranks[CT_PRIORITIES] = {
        [CT_PRIORITY_HIGH] = 0, [CT_PRIORITY_NORMAL] = 1, [CT_PRIORITY_LOW] = 2};
    return ranks[priority];
}

static void *take(uint8_t **room, const void *source, size_t bytes) {
    void *copy = *room;
    if (source != NULL && bytes > 0) {
        memcpy(copy, source, bytes);
    }
    *room += bytes;
    return copy;
}

// Sizes of what a transfer keeps in the engine's arena.
typedef struct sizes {
    size_t planes;  // of each side
    size_t ids;     // of each side
    size_t done;
} sizes;

static sizes sizes_of(const ct_transfer_params *params) {
    size_t plane_count = params->plane_count > 0 ? params->plane_count : 1;
    return (sizes){
        .planes = plane_count * sizeof(ct_plane),
        .ids = (size_t)params->block_count * sizeof(uint32_t),
        .done = ((size_t)params->block_count + 7) / 8,
    };
}

// Lays out the lists in `room`. The local ids have room even if there are none: the list of failed
// blocks comes there in the end.
static void copy_lists(
    ct_transfer *transfer, const ct_transfer_params *params, const sizes *size, uint8_t *room) {
    ct_plane whole = {
        .stride_bytes = params->region.block_bytes, .length_bytes = params->region.block_bytes};
    const ct_plane *local = params->plane_count > 0 ? params->local.planes : &whole;
    const ct_plane *remote = params->plane_count > 0 ? params->remote.planes : &whole;
    const uint32_t *remote_ids = params->remote.ids;
    transfer->local.planes = take(&room, local, size->planes);
    transfer->remote.planes = take(&room, remote, size->planes);
    transfer->failed = take(&room, params->local.ids, size->ids);
    transfer->local.ids = params->local.ids != NULL ? transfer->failed : NULL;
    transfer->remote.ids =
        remote_ids != NULL ? take(&room, remote_ids, size->ids) : NULL;
    transfer->done = room;
    memset(transfer->done, 0, size->done);
    transfer->local.plane_count = params->plane_count > 0 ? params->plane_count : 1;
    transfer->remote.plane_count = transfer->local.plane_count;
    transfer->local.base = params->block_count > 0 ? params->pool->memory : NULL;
}

static void run_submit(ct_command *command) {
    ct_transfer *transfer = ct_container(command, ct_transfer, submit);
    ct_link_append(&transfer->peer->transfers, &transfer->peer_node);
    ct_engine_arm(transfer->engine, transfer->deadline_ns);
    ct_transfer_begin(transfer);
}

static void fill(
    ct_transfer *transfer, ct_engine *engine, const ct_transfer_params *params,
    const sizes *size) {
    uint8_t *lists = transfer->lists;
    *transfer = (ct_transfer){
        .submit.run = run_submit,
        .engine = engine,
        .peer = params->peer,
        .pool = params->block_count > 0 ? params->pool : NULL,
        .operation = params->operation,
        .rank = rank_of(params->priority),
        .forbids_failover = (uint8_t)params->forbids_failover,
        .allowed_paths =
            params->allowed_paths != 0 ? params->allowed_paths : CT_PATH_MASK_ANY,
        .region = params->region,
        .epoch = params->epoch,
        .block_count = params->block_count,
        .submitted_ns = ct_now_ns(),
        .lists = lists,
        .notification_bytes = params->notification_bytes,
    };
    copy_lists(transfer, params, size, lists);
    transfer->block_bytes =
        ct_planes_block_bytes(transfer->local.planes, transfer->local.plane_count);
    if (params->notification_bytes > 0) {
        memcpy(transfer->notification, params->notification, params->notification_bytes);
    }
    uint64_t timeout_ns = params->timeout_ns > 0 ? params->timeout_ns : CT_DEFAULT_TIMEOUT_NS;
    transfer->deadline_ns = ct_time_after(transfer->submitted_ns, timeout_ns);
    ct_link_init(&transfer->peer_node);
    ct_link_init(&transfer->path_node);
    ct_link_init(&transfer->cancel_node);
}

// Takes a slot and room for the lists.
static ct_status reserve(ct_engine *engine, const sizes *size, ct_transfer **transfer_p) {
    size_t bytes = 2 * size->planes + 2 * size->ids + size->done;
    ct_status status = CT_EAGAIN;
    pthread_mutex_lock(&engine->lock);
    if (bytes > engine->lists.bytes) {
        status = CT_EINVAL;
    } else if (engine->transfer_count < engine->params.transfers_max) {
        void *lists = ct_arena_take(&engine->lists, bytes);
        if (lists != NULL) {
            // There are twice as many slots as transfers, for those that were polled last.
            *transfer_p = &engine->slots[engine->free_slots[--engine->free_slot_count]];
            (*transfer_p)->lists = lists;
            engine->transfer_count++;
            status = CT_OK;
        }
    }
    pthread_mutex_unlock(&engine->lock);
    return status;
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
    sizes size = sizes_of(&given);
    ct_transfer *transfer = NULL;
    status = reserve(engine, &size, &transfer);
    if (status != CT_OK) {
        return status;
    }
    fill(transfer, engine, &given, &size);
    pthread_mutex_lock(&engine->lock);
    uint64_t slot = (uint64_t)(transfer - engine->slots);
    uint64_t id = ++engine->transfer_serial << CT_SLOT_BITS | slot;
    transfer->id = id;
    engine->transfer_ids[slot] = id;
    if (transfer->pool != NULL) {
        transfer->pool->users++;
    }
    ct_engine_command_locked(engine, &transfer->submit);
    pthread_mutex_unlock(&engine->lock);
    *transfer_id_p = id;
    return CT_OK;
}

// The transfer of an id, NULL if it has been polled.
static ct_transfer *find_locked(ct_engine *engine, uint64_t id) {
    uint64_t slot = id & ((1u << CT_SLOT_BITS) - 1);
    int is_slot = slot < 2 * (uint64_t)engine->params.transfers_max;
    return id != 0 && is_slot && engine->transfer_ids[slot] == id ? &engine->slots[slot] : NULL;
}

void ct_transfer_cancel(ct_engine *engine, uint64_t transfer_id) {
    pthread_mutex_lock(&engine->lock);
    ct_transfer *transfer = find_locked(engine, transfer_id);
    if (transfer != NULL && ct_link_is_empty(&transfer->cancel_node)) {
        ct_link_append(&engine->cancels, &transfer->cancel_node);
        ct_engine_wake_locked(engine);
    }
    pthread_mutex_unlock(&engine->lock);
}

int ct_transfer_take_cancel(ct_engine *engine, ct_transfer **transfer_p) {
    pthread_mutex_lock(&engine->lock);
    // A transfer whose submission waits yet must not end before it begins: that comes first.
    int found = !ct_link_is_empty(&engine->cancels) && ct_link_is_empty(&engine->commands);
    if (found) {
        ct_transfer *transfer =
            ct_container(ct_link_pop(&engine->cancels), ct_transfer, cancel_node);
        // Once final, it may be polled as soon as the lock is open.
        *transfer_p = transfer->phase == CT_PHASE_FINAL ? NULL : transfer;
    }
    pthread_mutex_unlock(&engine->lock);
    return found;
}

void ct_transfer_polled_locked(ct_transfer *transfer) {
    ct_link_remove(&transfer->cancel_node);
    transfer->engine->transfer_ids[transfer - transfer->engine->slots] = 0;
    transfer->engine->transfer_count--;
}

void ct_transfer_recycle_locked(ct_transfer *transfer) {
    ct_engine *engine = transfer->engine;
    ct_arena_give(&engine->lists, transfer->lists);
    engine->free_slots[engine->free_slot_count++] = (uint32_t)(transfer - engine->slots);
}
