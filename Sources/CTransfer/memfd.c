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
    struct stat file;
    int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
    // Without the seal the owner could shrink the file and a copy would die of SIGBUS.
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &file) != 0 ||
        (uint64_t)file.st_size < slot->region.size_bytes) {
        return CT_EPROTOCOL;
    }
    void *memory =
        mmap(NULL, slot->region.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        return CT_ENOMEM;
    }
    madvise(memory, slot->region.size_bytes, MADV_HUGEPAGE);
    slot->memory = memory;
    return CT_OK;
}

static void region_removed(ct_peer *peer, uint32_t region_id) {
    ct_peer_region *slot = &peer->regions[region_id];
    if (slot->memory != NULL) {
        munmap(slot->memory, slot->region.size_bytes);
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

static void copy_slice(ct_task *task) {
    ct_transfer *transfer = ct_container(task, ct_transfer, copy);
    uint64_t budget = CT_SLICE_BYTES;
    while (budget > 0 && !ct_cursor_at_end(&transfer->source)) {
        struct iovec source = ct_cursor_slice(&transfer->source);
        struct iovec target = ct_cursor_slice(&transfer->target);
        size_t bytes = source.iov_len < budget ? source.iov_len : budget;
        transfer->kernel(target.iov_base, source.iov_base, bytes);
        ct_cursor_skip(&transfer->source, bytes);
        ct_cursor_skip(&transfer->target, bytes);
        budget -= bytes;
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
