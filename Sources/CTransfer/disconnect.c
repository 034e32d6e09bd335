// The loss of a peer, or of a path to it, and coming back.
#include <stdlib.h>

#include "engine.h"

// Whether another attempt may end otherwise.
static int is_worth_retrying(ct_status status) {
    return status != CT_ECANCELED && status != CT_ESTALE && status != CT_EVERSION &&
           status != CT_EPOLICY;
}

static void plan_retry(ct_peer *peer) {
    peer->retry_ns = ct_time_after(ct_now_ns(), peer->retry_wait_ns);
    uint64_t wait_ns = ct_time_times(peer->retry_wait_ns, 2);
    peer->retry_wait_ns = wait_ns < peer->reconnect_max_ns ? wait_ns : peer->reconnect_max_ns;
    ct_engine_arm(peer->engine, peer->retry_ns);
}

static void retry(ct_peer *peer) {
    ct_engine *engine = peer->engine;
    peer->retry_ns = 0;
    if (!ct_peer_prepare_events(peer)) {
        plan_retry(peer);
        return;
    }
    pthread_mutex_lock(&engine->lock);
    engine->stats.reconnects++;
    pthread_mutex_unlock(&engine->lock);
    ct_peer_attempt(peer);
}

static void end_paths(ct_peer *peer) {
    peer->ready_paths = 0;
    peer->probing_paths = 0;
    peer->has_channel = 0;
    for (size_t i = 0; ct_paths[i] != NULL; i++) {
        ct_paths[i]->end(peer);
        // Where no path was found, each has said why.
        if (peer->down_status != CT_EPOLICY &&
            (peer->allowed_paths & CT_PATH_MASK(ct_paths[i]->path))) {
            ct_peer_set_reason(peer, ct_paths[i]->path, ct_status_message(peer->down_status));
        }
    }
}

void ct_peer_down(ct_peer *peer, ct_status status) {
    if (peer->state == CT_PEER_DOWN) {
        return;
    }
    peer->state = CT_PEER_DOWN;
    peer->down_status = status;
    for (ct_link *node = peer->transfers.next; node != &peer->transfers; node = node->next) {
        ct_transfer *transfer = ct_container(node, ct_transfer, peer_node);
        if (transfer->phase == CT_PHASE_MOVING) {
            transfer->path->cancel(transfer);
        }
    }
    // Once the connections are closed, nothing touches the transfers' blocks.
    for (uint32_t i = 0; i < peer->stream_count; i++) {
        ct_stream_end(&peer->streams[i], status);
    }
    ct_stream_end(&peer->channel, status);
    end_paths(peer);
    ct_peer_forget_regions(peer);
    while (!ct_link_is_empty(&peer->transfers)) {
        ct_transfer *transfer = ct_container(peer->transfers.next, ct_transfer, peer_node);
        int has_ended = transfer->phase == CT_PHASE_DRAINING;
        ct_transfer_finish(transfer, has_ended ? transfer->status : status);
    }
    ct_peer_update_info(peer);
    if (peer->told != CT_EVENT_PEER_DOWN) {
        ct_peer_report(
            peer, &peer->down_event, (ct_event){.kind = CT_EVENT_PEER_DOWN, .status = status});
    }
    if (peer->reconnect_ns != 0 && is_worth_retrying(status)) {
        plan_retry(peer);
    }
}

void ct_peer_lose_path(ct_peer *peer, const ct_path_ops *path, ct_status status) {
    if (peer->ready_paths & CT_PATH_MASK(path->path)) {
        peer->ready_paths &= ~CT_PATH_MASK(path->path);
        peer->lost_paths[path->path] = status;
        ct_peer_set_reason(peer, path->path, ct_status_message(status));
        ct_peer_update_info(peer);
    }
}

// Transfers that the channel served go on over what is left.
static void move_transfers(ct_peer *peer, ct_status status) {
    ct_link *next;
    for (ct_link *node = peer->transfers.next; node != &peer->transfers; node = next) {
        next = node->next;
        ct_transfer *transfer = ct_container(node, ct_transfer, peer_node);
        if (transfer->phase == CT_PHASE_MOVING && transfer->path->uses_channel) {
            transfer->path->cancel(transfer);
            ct_transfer_path_failed(transfer, status);
        }
    }
}

static void channel_closed(ct_peer *peer, ct_status status) {
    peer->channel = NULL;
    peer->has_channel = 0;
    for (size_t i = 0; ct_paths[i] != NULL; i++) {
        if (ct_paths[i]->uses_channel) {
            ct_peer_lose_path(peer, ct_paths[i], status);
        }
    }
    if (peer->probing_paths != 0) {
        ct_peer_probe_paths(peer);
        return;
    }
    if (peer->ready_paths == 0) {
        ct_peer_down(peer, status);
        return;
    }
    move_transfers(peer, status);
    ct_peer_unmap_regions(peer);
    ct_stream_subscribe(peer->streams[0]);
}

static int holds_stream(const ct_peer *peer, const ct_stream *stream) {
    for (uint32_t i = 0; i < peer->stream_count; i++) {
        if (peer->streams[i] == stream) {
            return 1;
        }
    }
    return 0;
}

void ct_peer_stream_closed(ct_stream *stream, ct_status status) {
    ct_peer *peer = stream->peer;
    // One that is neither was closed on purpose.
    if (stream == peer->channel) {
        channel_closed(peer, status);
    } else if (holds_stream(peer, stream)) {
        ct_peer_down(peer, status);
    }
}

static void expire_transfers(ct_peer *peer, uint64_t now_ns) {
    ct_link *next;
    for (ct_link *node = peer->transfers.next; node != &peer->transfers; node = next) {
        next = node->next;
        ct_transfer *transfer = ct_container(node, ct_transfer, peer_node);
        if (now_ns >= transfer->deadline_ns) {
            ct_transfer_fail(transfer, CT_ETIMEDOUT);
        } else {
            ct_engine_arm(peer->engine, transfer->deadline_ns);
        }
    }
}

void ct_peer_timers(ct_peer *peer, uint64_t now_ns) {
    if (peer->state == CT_PEER_DOWN && peer->retry_ns != 0) {
        if (now_ns >= peer->retry_ns) {
            retry(peer);
        } else {
            ct_engine_arm(peer->engine, peer->retry_ns);
        }
    }
    if (peer->state == CT_PEER_CONNECTING) {
        if (now_ns >= peer->deadline_ns) {
            ct_peer_down(peer, CT_ETIMEDOUT);
        } else {
            ct_engine_arm(peer->engine, peer->deadline_ns);
        }
    }
    // A stream that has fallen silent takes the peer down, and all its streams with it.
    for (uint32_t i = 0; i < peer->stream_count; i++) {
        if (peer->streams[i] != NULL) {
            ct_stream_timers(peer->streams[i], now_ns);
        }
    }
    if (peer->channel != NULL) {
        ct_stream_timers(peer->channel, now_ns);
    }
    expire_transfers(peer, now_ns);
}
