#include "ledger.h"

#include <fcntl.h>
#include <unistd.h>

#define CT_LEDGER_ALIGNMENT 64u

static uint64_t block_count(const ct_region *region) {
    return (region->size_bytes - 1) / region->block_bytes + 1;
}

static uint64_t ledger_offset(const ct_region *region) {
    return (region->size_bytes + CT_LEDGER_ALIGNMENT - 1) & -(uint64_t)CT_LEDGER_ALIGNMENT;
}

uint64_t ct_ledger_file_bytes(const ct_region *region, int has_blocks) {
    // A number is no more than eight times a block: nothing here overflows.
    if (region->size_bytes > INT64_MAX / 16) {
        return 0;
    }
    uint64_t numbers = block_count(region) * sizeof(uint64_t);
    return (has_blocks ? ledger_offset(region) : 0) + sizeof(ct_ledger) + numbers;
}

ct_ledger *ct_ledger_in(void *file, const ct_region *region, int has_blocks) {
    uint64_t offset = has_blocks ? ledger_offset(region) : 0;
    return (ct_ledger *)(void *)((uint8_t *)file + offset);
}

uint64_t ct_ledger_withdraw(ct_ledger *ledger) {
    atomic_store(&ledger->is_withdrawn, 1);
    return atomic_fetch_add(&ledger->epoch, 1) + 1;
}

uint64_t ct_ledger_renew(ct_ledger *ledger, const uint32_t *blocks, size_t count) {
    uint64_t epoch = atomic_load(&ledger->epoch) + 1;
    for (size_t i = 0; i < count; i++) {
        atomic_store_explicit(&ledger->renewed[blocks[i]], epoch, memory_order_relaxed);
    }
    // Who sees the new epoch sees renewed[].
    atomic_store(&ledger->epoch, epoch);
    // Who sees a byte that the owner writes from here on sees renewed[].
    atomic_thread_fence(memory_order_seq_cst);
    return epoch;
}

int ct_ledger_holds(
    const ct_ledger *ledger, const ct_region *region, const ct_view *view, uint32_t first,
    uint32_t end, uint64_t epoch) {
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&ledger->is_withdrawn, memory_order_relaxed)) {
        return 0;
    }
    for (uint32_t i = first; i < end; i++) {
        uint64_t number = view->ids != NULL ? view->ids[i] : i;
        for (uint32_t j = 0; j < view->plane_count; j++) {
            const ct_plane *plane = &view->planes[j];
            uint64_t begin_bytes = plane->offset_bytes + number * plane->stride_bytes;
            uint64_t last = (begin_bytes + plane->length_bytes - 1) / region->block_bytes;
            for (uint64_t k = begin_bytes / region->block_bytes; k <= last; k++) {
                if (atomic_load_explicit(&ledger->renewed[k], memory_order_relaxed) > epoch) {
                    return 0;
                }
            }
        }
    }
    atomic_thread_fence(memory_order_seq_cst);
    return 1;
}

static int set_lock(int fd, short type, uint64_t epoch) {
    struct flock lock = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)epoch, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &lock);
}

ct_status ct_ledger_enter(const ct_ledger *ledger, int fd, uint64_t *lock_p) {
    uint64_t epoch = atomic_load(&ledger->epoch);
    // Nobody takes a byte for himself alone: this fails for want of memory only.
    if (set_lock(fd, F_RDLCK, epoch) != 0) {
        return CT_ENOMEM;
    }
    *lock_p = epoch;
    return CT_OK;
}

void ct_ledger_leave(int fd, uint64_t lock) {
    set_lock(fd, F_UNLCK, lock);
}

uint64_t ct_ledger_oldest_writer(int fd, uint64_t epoch) {
    while (epoch > 0) {
        struct flock lock = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = (off_t)epoch};
        if (fcntl(fd, F_OFD_GETLK, &lock) != 0) {
            return 0;
        }
        if (lock.l_type == F_UNLCK) {
            return epoch;
        }
        // Some lock; there may be an older one.
        epoch = (uint64_t)lock.l_start;
    }
    return 0;
}
