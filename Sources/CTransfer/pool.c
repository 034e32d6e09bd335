// Regions: pools in memfds, and memory of the caller with a memfd for its ledger.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

// How often it is looked whether a writer of this host has let go of memory to be released.
#define CT_REMOVAL_WAIT_NS UINT64_C(200000)
#define CT_REMOVAL_WAIT_MAX_NS UINT64_C(100000000)

// A memfd of this size that can never shrink, so that no peer's mapping of it can fault.
static int create_memfd(uint64_t bytes) {
    int fd = memfd_create("llmd-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return -1;
    }
    if (ftruncate(fd, (off_t)bytes) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void publish(ct_command *command) {
    ct_pool *pool = ct_container(command, ct_pool, publish);
    ct_engine *engine = pool->engine;
    engine->regions[pool->region.id] = (ct_region_slot){
        .pool = pool, .region = pool->region, .change = ++engine->region_changes};
    ct_servers_region_changed(engine, NULL);
}

static void end_transfers(ct_engine *engine, const ct_pool *pool) {
    for (ct_link *node = engine->peers.next; node != &engine->peers; node = node->next) {
        ct_link *next;
        ct_link *transfers = &ct_container(node, ct_peer, node)->transfers;
        for (ct_link *at = transfers->next; at != transfers; at = next) {
            next = at->next;
            ct_transfer *transfer = ct_container(at, ct_transfer, peer_node);
            if (transfer->pool == pool) {
                ct_transfer_fail(transfer, CT_ESTALE);
            }
        }
    }
}

static void withdraw(ct_command *command) {
    ct_pool *pool = ct_container(command, ct_pool, withdraw);
    ct_engine *engine = pool->engine;
    ct_region_slot *slot = &engine->regions[pool->region.id];
    slot->pool = NULL;
    slot->change = ++engine->region_changes;
    pthread_mutex_lock(&engine->lock);
    pool->gone_epoch = ct_ledger_withdraw(pool->ledger);
    pthread_mutex_unlock(&engine->lock);
    ct_servers_region_changed(engine, pool);
    if (pool->is_registered) {
        end_transfers(engine, pool);
    }
    ct_pool_drop(pool);
}

static void fence(ct_command *command) {
    ct_pool *pool = ct_container(command, ct_pool, fence);
    ct_engine *engine = pool->engine;
    pthread_mutex_lock(&engine->lock);
    pool->is_fencing = 0;
    uint64_t epoch = atomic_load(&pool->ledger->epoch);
    pthread_mutex_unlock(&engine->lock);
    ct_servers_fenced(engine, pool);
    atomic_store(&pool->served_epoch, epoch);
}

// Reserves a region id and a generation. Time makes generations differ across restarts too.
static ct_status name_region(ct_engine *engine, ct_region *region) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    uint64_t generation = (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
    pthread_mutex_lock(&engine->lock);
    int is_full = engine->region_ids == UINT64_MAX;
    if (!is_full) {
        region->id = (uint32_t)__builtin_ctzll(~engine->region_ids);
        engine->region_ids |= UINT64_C(1) << region->id;
        engine->generation =
            generation > engine->generation ? generation : engine->generation + 1;
        region->generation = engine->generation;
    }
    pthread_mutex_unlock(&engine->lock);
    return is_full ? CT_EAGAIN : CT_OK;
}

// Makes a region of `memory`, or of a pool's own if that is NULL.
static ct_status create(
    ct_engine *engine, void *memory, const ct_region *wanted, ct_pool **pool_p) {
    ct_region region = *wanted;
    int is_registered = memory != NULL;
    uint64_t bytes = ct_ledger_file_bytes(&region, !is_registered);
    if (bytes == 0) {
        return CT_EINVAL;
    }
    ct_pool *pool = ct_allocate(sizeof(*pool));
    int fd = create_memfd(bytes);
    void *file = fd < 0 ? NULL : ct_map(bytes, fd);
    ct_status status = pool == NULL || file == NULL ? CT_ENOMEM : CT_OK;
    if (status == CT_OK) {
        status = name_region(engine, &region);
    }
    if (status != CT_OK) {
        ct_unmap(file, bytes);
        if (fd >= 0) {
            close(fd);
        }
        free(pool);
        return status;
    }
    if (!is_registered) {
        // Only advice: where shared memory has no huge pages, small ones do.
        madvise(file, bytes, MADV_HUGEPAGE);
    }
    *pool = (ct_pool){
        .publish.run = publish,
        .withdraw.run = withdraw,
        .fence.run = fence,
        .gone.allocation = pool,
        .engine = engine,
        .region = region,
        .plane = {.stride_bytes = region.block_bytes, .length_bytes = region.block_bytes},
        .memory = is_registered ? memory : file,
        .is_registered = (uint8_t)is_registered,
        .file = file,
        .file_bytes = bytes,
        .ledger = ct_ledger_in(file, &region, !is_registered),
        .fd = fd,
        .users = 1,
    };
    ct_link_init(&pool->removal_node);
    pthread_mutex_lock(&engine->lock);
    ct_engine_command_locked(engine, &pool->publish);
    pthread_mutex_unlock(&engine->lock);
    *pool_p = pool;
    return CT_OK;
}

ct_status ct_pool_create(
    ct_engine *engine, uint64_t block_bytes, uint64_t block_count, ct_pool **pool_p) {
    ct_region region = {.block_bytes = block_bytes};
    if (block_bytes == 0 || block_count == 0 ||
        __builtin_mul_overflow(block_bytes, block_count, &region.size_bytes)) {
        return CT_EINVAL;
    }
    return create(engine, NULL, &region, pool_p);
}

ct_status ct_region_add(
    ct_engine *engine, void *memory, uint64_t size_bytes, uint64_t block_bytes, ct_pool **pool_p) {
    uintptr_t end;
    if (memory == NULL || block_bytes == 0 || size_bytes < block_bytes ||
        __builtin_add_overflow((uintptr_t)memory, size_bytes, &end)) {
        return CT_EINVAL;
    }
    ct_region region = {.size_bytes = size_bytes, .block_bytes = block_bytes};
    return create(engine, memory, &region, pool_p);
}

void ct_pool_release(ct_pool *pool) {
    if (pool == NULL) {
        return;
    }
    ct_engine *engine = pool->engine;
    pthread_mutex_lock(&engine->lock);
    ct_engine_command_locked(engine, &pool->withdraw);
    pthread_mutex_unlock(&engine->lock);
}

void *ct_pool_memory(const ct_pool *pool) {
    return pool->memory;
}

ct_region ct_pool_region(const ct_pool *pool) {
    return pool->region;
}

uint64_t ct_pool_epoch(const ct_pool *pool) {
    return atomic_load(&pool->ledger->epoch);
}

ct_status ct_pool_fence(
    ct_pool *pool, const uint32_t *blocks, size_t block_count, uint64_t *epoch_p) {
    ct_engine *engine = pool->engine;
    for (size_t i = 0; i < block_count; i++) {
        if (blocks[i] > (pool->region.size_bytes - 1) / pool->region.block_bytes) {
            return CT_ERANGE;
        }
    }
    pthread_mutex_lock(&engine->lock);
    uint64_t epoch = ct_ledger_renew(pool->ledger, blocks, block_count);
    if (!pool->is_fencing) {
        pool->is_fencing = 1;
        ct_engine_command_locked(engine, &pool->fence);
    }
    pthread_mutex_unlock(&engine->lock);
    *epoch_p = epoch;
    return CT_OK;
}

uint64_t ct_pool_settled(const ct_pool *pool) {
    return ct_ledger_oldest_writer(pool->fd, atomic_load(&pool->served_epoch));
}

static void close_file(ct_pool *pool) {
    ct_unmap(pool->file, pool->file_bytes);
    close(pool->fd);
}

void ct_pool_free(ct_pool *pool) {
    ct_ledger_withdraw(pool->ledger);
    close_file(pool);
    free(pool);
}

// Nothing touches the caller's memory any more; from here on the pool is an event.
static void report_gone(ct_pool *pool) {
    ct_engine *engine = pool->engine;
    ct_link_remove(&pool->removal_node);
    close_file(pool);
    pool->gone.event = (ct_event){.kind = CT_EVENT_REGION_GONE, .region = pool->region};
    pthread_mutex_lock(&engine->lock);
    ct_engine_push_event_locked(engine, &pool->gone);
    pthread_mutex_unlock(&engine->lock);
}

// Reports the memory gone, unless a process of this host stands in the middle of a write: then
// after a while.
static void try_report_gone(ct_pool *pool, uint64_t now_ns) {
    if (ct_ledger_oldest_writer(pool->fd, pool->gone_epoch) >= pool->gone_epoch) {
        report_gone(pool);
        return;
    }
    uint64_t wait_ns = pool->removal_wait_ns * 2;
    pool->removal_wait_ns = wait_ns < CT_REMOVAL_WAIT_NS       ? CT_REMOVAL_WAIT_NS
                            : wait_ns > CT_REMOVAL_WAIT_MAX_NS ? CT_REMOVAL_WAIT_MAX_NS
                                                               : wait_ns;
    pool->removal_ns = now_ns + pool->removal_wait_ns;
    ct_engine_arm(pool->engine, pool->removal_ns);
}

void ct_pools_timers(ct_engine *engine, uint64_t now_ns) {
    ct_link *next;
    for (ct_link *node = engine->removals.next; node != &engine->removals; node = next) {
        next = node->next;
        ct_pool *pool = ct_container(node, ct_pool, removal_node);
        if (now_ns >= pool->removal_ns) {
            try_report_gone(pool, now_ns);
        } else {
            ct_engine_arm(engine, pool->removal_ns);
        }
    }
}

void ct_pool_drop(ct_pool *pool) {
    ct_engine *engine = pool->engine;
    pthread_mutex_lock(&engine->lock);
    int is_last = --pool->users == 0;
    if (is_last) {
        engine->region_ids &= ~(UINT64_C(1) << pool->region.id);
    }
    pthread_mutex_unlock(&engine->lock);
    if (!is_last) {
        return;
    }
    if (pool->is_registered) {
        ct_link_append(&engine->removals, &pool->removal_node);
        try_report_gone(pool, ct_now_ns());
    } else {
        ct_pool_free(pool);
    }
}
