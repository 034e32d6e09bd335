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
    uint64_t bytes;
    if (block_bytes == 0 || block_count == 0 ||
        __builtin_mul_overflow(block_bytes, block_count, &bytes) || bytes > INT64_MAX) {
        return CT_EINVAL;
    }
    ct_pool *pool = calloc(1, sizeof(*pool));
    int fd = create_memfd(bytes);
    void *memory = fd < 0 ? MAP_FAILED
                          : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ct_status status = pool == NULL || memory == MAP_FAILED ? CT_ENOMEM : CT_OK;
    ct_region region = {.size_bytes = bytes, .block_bytes = block_bytes};
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
        .engine = engine,
        .region = region,
        .plane = {.stride_bytes = block_bytes, .length_bytes = block_bytes},
        .memory = memory,
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

void ct_pool_free(ct_pool *pool) {
    munmap(pool->memory, pool->region.size_bytes);
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
