// What the paths of one host have in common: an AF_UNIX socket over which the listening side passes
// a file per region, and the rules of the ledgers in those files. The other process takes no part
// in a transfer.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine.h"

ct_status ct_channel_probe(ct_peer *peer, char *reason, size_t capacity) {
    if (memcmp(peer->hello.boot_id, peer->engine->boot_id, sizeof(peer->hello.boot_id)) != 0) {
        snprintf(reason, capacity, "the peer runs on another host");
        return CT_EUNREACH;
    }
    if (!peer->has_tried_channel) {
        peer->has_tried_channel = 1;
        struct sockaddr_storage address;
        socklen_t bytes = ct_channel_address(&peer->hello.engine_id, &address);
        ct_peer_open_stream(peer, (struct sockaddr *)&address, bytes, &peer->channel);
    }
    if (peer->channel == NULL) {
        snprintf(
            reason, capacity,
            "no channel to the peer: it runs in another network namespace or as another user");
        return CT_EUNREACH;
    }
    return peer->has_channel ? CT_OK : CT_EAGAIN;
}

ct_status ct_channel_region_added(ct_peer *peer, const ct_region_change *change, int fd) {
    ct_peer_region *slot = &peer->regions[change->region.id];
    uint64_t bytes = ct_ledger_file_bytes(&change->region, !change->registered);
    struct stat file;
    int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
    // Without the seal the owner could shrink the file and a copy would die of SIGBUS.
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &file) != 0 || bytes == 0 ||
        (uint64_t)file.st_size < bytes) {
        return CT_EPROTOCOL;
    }
    slot->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    slot->file = slot->fd < 0 ? NULL : ct_map(bytes, slot->fd);
    if (slot->file == NULL) {
        if (slot->fd >= 0) {
            close(slot->fd);
        }
        return CT_ENOMEM;
    }
    slot->file_bytes = bytes;
    slot->ledger = ct_ledger_in(slot->file, &change->region, !change->registered);
    slot->address = change->address;
    if (!change->registered) {
        madvise(slot->file, bytes, MADV_HUGEPAGE);
        slot->memory = slot->file;
    }
    return CT_OK;
}

void ct_channel_region_removed(ct_peer_region *region) {
    if (region->file != NULL) {
        ct_unmap(region->file, region->file_bytes);
        close(region->fd);
    }
}

int ct_channel_reaches(const ct_peer *peer, uint32_t region_id) {
    return peer->regions[region_id].ledger != NULL;
}

void ct_channel_begin(ct_transfer *transfer, uint8_t *remote) {
    transfer->remote.base = remote;
    int reads = transfer->operation == CT_READ;
    const ct_view *source = reads ? &transfer->remote : &transfer->local;
    const ct_view *target = reads ? &transfer->local : &transfer->remote;
    uint32_t first = transfer->done_count;
    transfer->source = ct_cursor_make(source, first, transfer->block_count);
    transfer->target = ct_cursor_make(target, first, transfer->block_count);
    ct_transfer_schedule(transfer);
}

int ct_channel_cancel(ct_transfer *transfer) {
    ct_link_remove(&transfer->path_node);
    return 1;
}

// Moves, unless the peer has taken blocks back. `*holds_p` 0 says that it has, and that nothing is
// known of what a read brought; ledger.h says why that is all there is to it.
static ct_status move_current(
    ct_transfer *transfer, uint64_t limit_bytes,
    ct_status (*move)(ct_transfer *transfer, uint64_t limit_bytes), int *holds_p) {
    const ct_peer_region *region = &transfer->peer->regions[transfer->region.id];
    const ct_ledger *ledger = region->ledger;
    const ct_view *remote = &transfer->remote;
    uint32_t first = transfer->source.block;
    // The bytes may begin and end within a block.
    uint64_t count = limit_bytes / transfer->block_bytes + 2;
    uint64_t left = transfer->block_count - first;
    uint32_t end = first + (uint32_t)(count < left ? count : left);
    int writes = transfer->operation == CT_WRITE;
    uint64_t lock;
    ct_status status = writes ? ct_ledger_enter(ledger, region->fd, &lock) : CT_OK;
    if (status != CT_OK) {
        return status;
    }
    *holds_p = ct_ledger_holds(ledger, &region->region, remote, first, end, transfer->epoch);
    if (*holds_p) {
        status = move(transfer, limit_bytes);
        *holds_p = ct_ledger_holds(ledger, &region->region, remote, first, end, transfer->epoch);
    }
    if (writes) {
        ct_ledger_leave(region->fd, lock);
    }
    return status;
}

void ct_channel_advance(
    ct_transfer *transfer, uint64_t limit_bytes,
    ct_status (*move)(ct_transfer *transfer, uint64_t limit_bytes)) {
    int holds = 1;
    ct_status status = move_current(transfer, limit_bytes, move, &holds);
    if (!holds) {
        ct_transfer_fail(transfer, CT_ESTALE);
        return;
    }
    uint32_t done = transfer->source.block;
    ct_transfer_mark_done(transfer, transfer->done_count, done - transfer->done_count);
    if (status != CT_OK) {
        ct_transfer_path_failed(transfer, status);
    } else if (done == transfer->block_count) {
        ct_transfer_moved(transfer);
    } else {
        ct_transfer_schedule(transfer);
    }
}
