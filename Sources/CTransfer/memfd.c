// Same host: the listening side passes its pools' memfds over an AF_UNIX socket; the connecting
// side maps them and copies. The other process takes no part in a transfer.
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine.h"

// How much one transfer copies before the others, and the heartbeats, have their turn.
#define CT_SLICE_BYTES (1u << 20)

static void copy_slice(ct_task *task);

static ct_status open_channel(ct_peer *peer) {
    if (memcmp(peer->hello.boot_id, peer->engine->boot_id, sizeof(peer->hello.boot_id)) != 0) {
        return CT_EUNREACH;
    }
    struct sockaddr_storage address;
    socklen_t bytes = ct_channel_address(&peer->hello.engine_id, &address);
    return ct_peer_open_stream(peer, (struct sockaddr *)&address, bytes, &peer->channel);
}

static void welcomed(ct_peer *peer, ct_stream *stream) {
    (void)peer;
    ct_stream_subscribe(stream);
}

static ct_status region_added(ct_peer *peer, uint32_t region_id, int fd) {
    ct_peer_region *slot = &peer->regions[region_id];
    uint64_t bytes = ct_ledger_file_bytes(&slot->region);
    struct stat file;
    int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
    // Without the seal the owner could shrink the file and a copy would die of SIGBUS.
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &file) != 0 || bytes == 0 ||
        (uint64_t)file.st_size < bytes) {
        return CT_EPROTOCOL;
    }
    int own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    void *memory = own_fd < 0 ? MAP_FAILED
                              : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, own_fd, 0);
    if (memory == MAP_FAILED) {
        if (own_fd >= 0) {
            close(own_fd);
        }
        return CT_ENOMEM;
    }
    madvise(memory, bytes, MADV_HUGEPAGE);
    slot->memory = memory;
    slot->fd = own_fd;
    return CT_OK;
}

static void region_removed(ct_peer *peer, uint32_t region_id) {
    ct_peer_region *slot = &peer->regions[region_id];
    if (slot->memory != NULL) {
        munmap(slot->memory, ct_ledger_file_bytes(&slot->region));
        close(slot->fd);
        slot->memory = NULL;
    }
}

static void plain_copy(void *target, const void *source, size_t bytes) {
    memcpy(target, source, bytes);
}

static void start(ct_transfer *transfer) {
    ct_engine *engine = transfer->engine;
    transfer->remote.base = transfer->peer->regions[transfer->region.id].memory;
    int reads = transfer->operation == CT_READ;
    const ct_view *source = reads ? &transfer->remote : &transfer->local;
    const ct_view *target = reads ? &transfer->local : &transfer->remote;
    transfer->source = ct_cursor_make(source, 0, transfer->block_count);
    transfer->target = ct_cursor_make(target, 0, transfer->block_count);
    uint64_t total_bytes = transfer->block_bytes * transfer->block_count;
    transfer->kernel =
        total_bytes >= CT_STREAMING_MIN_BYTES ? engine->streaming_copy : plain_copy;
    transfer->copy.run = copy_slice;
    ct_engine_schedule(engine, &transfer->copy);
}

static int stop(ct_transfer *transfer) {
    ct_link_remove(&transfer->copy.node);
    return 1;
}

static void copy_bytes(ct_transfer *transfer, uint64_t budget) {
    while (budget > 0 && !ct_cursor_at_end(&transfer->source)) {
        struct iovec source = ct_cursor_slice(&transfer->source);
        struct iovec target = ct_cursor_slice(&transfer->target);
        size_t bytes = source.iov_len < budget ? source.iov_len : budget;
        transfer->kernel(target.iov_base, source.iov_base, bytes);
        ct_cursor_skip(&transfer->source, bytes);
        ct_cursor_skip(&transfer->target, bytes);
        budget -= bytes;
    }
}

// Copies one slice, unless the peer has taken blocks of it back. CT_ESTALE says that it has, and
// that nothing is known of what a read brought; ledger.h says why that is all there is to it.
static ct_status copy_current(ct_transfer *transfer) {
    const ct_peer_region *region = &transfer->peer->regions[transfer->region.id];
    const ct_ledger *ledger = ct_ledger_of(region->memory, &region->region);
    uint32_t first = transfer->source.block;
    // The slice may begin and end within a block.
    uint64_t count = CT_SLICE_BYTES / transfer->block_bytes + 2;
    uint64_t left = transfer->block_count - first;
    uint32_t end = first + (uint32_t)(count < left ? count : left);
    int writes = transfer->operation == CT_WRITE;
    uint64_t lock;
    ct_status status = writes ? ct_ledger_enter(ledger, region->fd, &lock) : CT_OK;
    if (status != CT_OK) {
        return status;
    }
    const ct_view *remote = &transfer->remote;
    int holds = ct_ledger_holds(ledger, &region->region, remote, first, end, transfer->epoch);
    if (holds) {
        copy_bytes(transfer, CT_SLICE_BYTES);
        holds = ct_ledger_holds(ledger, &region->region, remote, first, end, transfer->epoch);
    }
    if (writes) {
        ct_ledger_leave(region->fd, lock);
    }
    return holds ? CT_OK : CT_ESTALE;
}

static void copy_slice(ct_task *task) {
    ct_transfer *transfer = ct_container(task, ct_transfer, copy);
    ct_status status = copy_current(transfer);
    if (status != CT_OK) {
        ct_transfer_fail(transfer, status);
        return;
    }
    uint32_t done = transfer->source.block;
    ct_transfer_mark_done(transfer, transfer->done_count, done - transfer->done_count);
    if (done == transfer->block_count) {
        ct_transfer_moved(transfer);
    } else {
        ct_engine_schedule(transfer->engine, task);
    }
}

const ct_path_ops ct_memfd_ops = {
    .path = CT_PATH_MEMFD,
    .open = open_channel,
    .welcomed = welcomed,
    .region_added = region_added,
    .region_removed = region_removed,
    .start = start,
    .stop = stop,
};
