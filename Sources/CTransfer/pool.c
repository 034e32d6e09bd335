#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

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

static void withdraw(ct_command *command) {
    ct_pool *pool = ct_container(command, ct_pool, withdraw);
    ct_engine *engine = pool->engine;
    ct_region_slot *slot = &engine->regions[pool->region.id];
    slot->pool = NULL;
    slot->change = ++engine->region_changes;
    ct_servers_region_changed(engine, pool);
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

ct_status ct_pool_create(
    ct_engine *engine, uint64_t block_bytes, uint64_t block_count, ct_pool **pool_p) {
    ct_region region = {.block_bytes = block_bytes};
    if (block_bytes == 0 || block_count == 0 ||
        __builtin_mul_overflow(block_bytes, block_count, &region.size_bytes)) {
        return CT_EINVAL;
    }
    uint64_t bytes = ct_ledger_file_bytes(&region);
    if (bytes == 0) {
        return CT_EINVAL;
    }
    ct_pool *pool = calloc(1, sizeof(*pool));
    int fd = create_memfd(bytes);
    void *memory = fd < 0 ? MAP_FAILED
                          : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ct_status status = pool == NULL || memory == MAP_FAILED ? CT_ENOMEM : CT_OK;
    if (status == CT_OK) {
        status = name_region(engine, &region);
    }
    if (status != CT_OK) {
        if (memory != MAP_FAILED) {
            munmap(memory, bytes);
        }
        if (fd >= 0) {
            close(fd);
        }
        free(pool);
        return status;
    }
    // Only advice: where shared memory has no huge pages, small ones do.
    madvise(memory, bytes, MADV_HUGEPAGE);
    *pool = (ct_pool){
        .publish.run = publish,
        .withdraw.run = withdraw,
        .fence.run = fence,
        .engine = engine,
        .region = region,
        .plane = {.stride_bytes = block_bytes, .length_bytes = block_bytes},
        .memory = memory,
        .ledger = ct_ledger_of(memory, &region),
        .fd = fd,
        .users = 1,
    };
    pthread_mutex_lock(&engine->lock);
    ct_engine_command_locked(engine, &pool->publish);
    pthread_mutex_unlock(&engine->lock);
    *pool_p = pool;
    return CT_OK;
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
        if (blocks[i] >= pool->region.size_bytes / pool->region.block_bytes) {
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

void ct_pool_free(ct_pool *pool) {
    munmap(pool->memory, ct_ledger_file_bytes(&pool->region));
    close(pool->fd);
    free(pool);
}

void ct_pool_drop(ct_pool *pool) {
    ct_engine *engine = pool->engine;
    pthread_mutex_lock(&engine->lock);
    int is_last = --pool->users == 0;
    if (is_last) {
        engine->region_ids &= ~(UINT64_C(1) << pool->region.id);
    }
    pthread_mutex_unlock(&engine->lock);
    if (is_last) {
        ct_pool_free(pool);
    }
}
