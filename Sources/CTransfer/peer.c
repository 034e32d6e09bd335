// A peer as its owner sees it: the handle and its regions.
#include <string.h>

#include "engine.h"

void ct_peer_release(ct_peer *peer) {
    if (peer == NULL) {
        return;
    }
    pthread_mutex_lock(&peer->engine->lock);
    ct_engine_command_locked(peer->engine, &peer->release);
    pthread_mutex_unlock(&peer->engine->lock);
}

uint64_t ct_peer_id(const ct_peer *peer) {
    return peer->id;
}

ct_peer_info ct_peer_describe(ct_peer *peer) {
    pthread_mutex_lock(&peer->engine->lock);
    ct_peer_info info = peer->info;
    pthread_mutex_unlock(&peer->engine->lock);
    return info;
}

void ct_peer_regions(ct_peer *peer, ct_region regions[CT_REGIONS_MAX], size_t *count_p) {
    size_t count = 0;
    pthread_mutex_lock(&peer->engine->lock);
    for (uint32_t i = 0; i < CT_REGIONS_MAX; i++) {
        if (peer->published[i].generation != 0) {
            regions[count++] = peer->published[i];
        }
    }
    pthread_mutex_unlock(&peer->engine->lock);
    *count_p = count;
}

static void forget_region(ct_peer *peer, uint32_t id) {
    ct_channel_region_removed(&peer->regions[id]);
    peer->regions[id] = (ct_peer_region){0};
}

void ct_peer_forget_regions(ct_peer *peer) {
    for (uint32_t i = 0; i < CT_REGIONS_MAX; i++) {
        forget_region(peer, i);
    }
    pthread_mutex_lock(&peer->engine->lock);
    memset(peer->published, 0, sizeof(peer->published));
    peer->info.regions_version++;
    pthread_mutex_unlock(&peer->engine->lock);
}

void ct_peer_unmap_regions(ct_peer *peer) {
    for (uint32_t i = 0; i < CT_REGIONS_MAX; i++) {
        ct_region region = peer->regions[i].region;
        forget_region(peer, i);
        peer->regions[i].region = region;
    }
}

static void end_transfers(ct_peer *peer, uint32_t region_id) {
    ct_link *next;
    for (ct_link *node = peer->transfers.next; node != &peer->transfers; node = next) {
        next = node->next;
        ct_transfer *transfer = ct_container(node, ct_transfer, peer_node);
        if (transfer->phase == CT_PHASE_MOVING && transfer->region.id == region_id) {
            ct_transfer_fail(transfer, CT_ESTALE);
        }
    }
}

ct_status ct_peer_region_changed(ct_stream *stream, const ct_region_change *change, int fd) {
    ct_peer *peer = stream->peer;
    uint32_t id = change->region.id;
    uint64_t known = peer->regions[id].region.generation;
    if (!change->withdrawn && known == change->region.generation) {
        return CT_OK;  // told again, after the channel was lost
    }
    end_transfers(peer, id);
    forget_region(peer, id);
    ct_status status = CT_OK;
    if (!change->withdrawn) {
        peer->regions[id].region = change->region;
        if (stream == peer->channel) {
            status = ct_channel_region_added(peer, change, fd);
        }
        if (status == CT_EPROTOCOL) {
            peer->regions[id] = (ct_peer_region){0};
        }
    }
    pthread_mutex_lock(&peer->engine->lock);
    peer->published[id] = peer->regions[id].region;
    peer->info.regions_version++;
    pthread_mutex_unlock(&peer->engine->lock);
    // Without memory for a mapping the region is there for other paths.
    return status == CT_EPROTOCOL ? status : CT_OK;
}

void ct_peer_wake(ct_peer *peer) {
    for (uint32_t i = 0; i < peer->stream_count; i++) {
        if (peer->streams[i] != NULL) {
            ct_conn_wake(&peer->streams[i]->conn);
        }
    }
}
