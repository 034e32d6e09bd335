// A peer as the connecting side sees it: negotiation of the path, its regions, its end.
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "params.h"

#define CT_DEFAULT_CONNECT_NS UINT64_C(5000000000)

// In order of preference.
static const ct_path_ops *const paths[] = {&ct_memfd_ops, &ct_tcp_ops};
#define CT_PATHS (sizeof(paths) / sizeof(paths[0]))

static void connect_peer(ct_command *command);
static void release_peer(ct_command *command);

static ct_status check(const ct_connect_params *params) {
    if ((params->allowed_paths & ~CT_PATH_MASK_ANY) != 0 ||
        params->stream_count > CT_STREAMS_MAX || params->expects_id > 1) {
        return CT_EINVAL;
    }
    return CT_OK;
}

ct_status ct_peer_connect(
    ct_engine *engine, const ct_connect_params *params, ct_peer **peer_p) {
    ct_connect_params given;
    struct sockaddr_storage address;
    socklen_t address_bytes;
    ct_status status = ct_params_read(params, &given, sizeof(given));
    if (status == CT_OK) {
        status = check(&given);
    }
    if (status == CT_OK) {
        status = ct_address_parse(given.host, given.port, &address, &address_bytes);
    }
    if (status != CT_OK) {
        return status;
    }
    ct_peer *peer = calloc(1, sizeof(*peer));
    ct_event_node *up = calloc(1, sizeof(*up));
    ct_event_node *down = calloc(1, sizeof(*down));
    if (peer == NULL || up == NULL || down == NULL) {
        free(peer);
        free(up);
        free(down);
        return CT_ENOMEM;
    }
    up->allocation = up;
    down->allocation = down;
    peer->up_event = up;
    peer->down_event = down;
    peer->connect.run = connect_peer;
    peer->release.run = release_peer;
    peer->engine = engine;
    peer->allowed_paths = given.allowed_paths != 0 ? given.allowed_paths : CT_PATH_MASK_ANY;
    peer->stream_count = given.stream_count != 0 ? given.stream_count : 1;
    peer->expects_id = (uint8_t)given.expects_id;
    peer->expected_id = given.expected_id;
    peer->address = address;
    peer->address_bytes = address_bytes;
    uint64_t timeout_ns = given.timeout_ns != 0 ? given.timeout_ns : CT_DEFAULT_CONNECT_NS;
    if (__builtin_add_overflow(ct_now_ns(), timeout_ns, &peer->deadline_ns)) {
        peer->deadline_ns = UINT64_MAX;
    }
    ct_link_init(&peer->node);
    ct_link_init(&peer->transfers);
    ct_link_init(&peer->queue);
    ct_link_init(&peer->notifications);
    pthread_mutex_lock(&engine->lock);
    peer->id = ++engine->peer_serial;
    ct_engine_command_locked(engine, &peer->connect);
    pthread_mutex_unlock(&engine->lock);
    *peer_p = peer;
    return CT_OK;
}

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

static void connect_peer(ct_command *command) {
    ct_peer *peer = ct_container(command, ct_peer, connect);
    ct_link_append(&peer->engine->peers, &peer->node);
    ct_engine_arm(peer->engine, peer->deadline_ns);
    ct_status status = ct_peer_open_stream(
        peer, (const struct sockaddr *)&peer->address, peer->address_bytes, &peer->streams[0]);
    if (status != CT_OK) {
        ct_peer_down(peer, status);
    }
}

static void release_peer(ct_command *command) {
    ct_peer *peer = ct_container(command, ct_peer, release);
    // Its owner has gone: nobody waits for the event.
    free(peer->down_event);
    peer->down_event = NULL;
    ct_peer_down(peer, CT_ECANCELED);
    ct_peer_free(peer);
}

void ct_peer_free(ct_peer *peer) {
    ct_link_remove(&peer->node);
    free(peer->up_event);
    free(peer->down_event);
    free(peer);
}

ct_status ct_peer_open_stream(
    ct_peer *peer, const struct sockaddr *address, socklen_t bytes, ct_stream **stream_p) {
    int is_local = address->sa_family == AF_UNIX;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return CT_ENOMEM;
    }
    int on = 1;
    if (!is_local) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    ct_status status = CT_OK;
    if ((connect(fd, address, bytes) != 0 && errno != EINPROGRESS) ||
        (is_local && !ct_socket_is_same_user(fd))) {
        status = CT_EUNREACH;
    }
    if (status == CT_OK) {
        status = ct_stream_create(peer, fd, is_local, stream_p);
    }
    if (status != CT_OK) {
        close(fd);
    }
    return status;
}

static void forget_region(ct_peer *peer, uint32_t id) {
    if (peer->regions[id].region.generation != 0) {
        peer->path->region_removed(peer, id);
        peer->regions[id] = (ct_peer_region){0};
    }
}

static void forget_regions(ct_peer *peer) {
    for (uint32_t i = 0; i < CT_REGIONS_MAX; i++) {
        forget_region(peer, i);
    }
    pthread_mutex_lock(&peer->engine->lock);
    memset(peer->published, 0, sizeof(peer->published));
    pthread_mutex_unlock(&peer->engine->lock);
}

static void close_stream(ct_stream **stream_p, ct_status status) {
    ct_stream *stream = *stream_p;
    *stream_p = NULL;
    if (stream != NULL) {
        ct_conn_close(&stream->conn, status);
    }
}

// Closes what the path being opened has added.
static void close_path(ct_peer *peer, ct_status status) {
    close_stream(&peer->channel, status);
    for (uint32_t i = 1; i < peer->stream_count; i++) {
        close_stream(&peer->streams[i], status);
    }
    forget_regions(peer);
}

static void try_next_path(ct_peer *peer) {
    for (size_t i = 0; i < CT_PATHS; i++) {
        uint32_t mask = CT_PATH_MASK(paths[i]->path);
        if (!(peer->allowed_paths & mask) || (peer->tried_paths & mask)) {
            continue;
        }
        peer->tried_paths |= mask;
        peer->path = paths[i];
        if (peer->path->open(peer) == CT_OK) {
            return;
        }
        close_path(peer, CT_EUNREACH);
    }
    peer->path = NULL;
    ct_peer_down(peer, CT_EPOLICY);
}

static int same_engine(const ct_engine_id *left, const ct_engine_id *right) {
    return memcmp(left->bytes, right->bytes, sizeof(left->bytes)) == 0;
}

ct_status ct_peer_welcomed(ct_stream *stream, const ct_hello *hello) {
    ct_peer *peer = stream->peer;
    if (stream != peer->streams[0]) {
        if (!same_engine(&hello->engine_id, &peer->hello.engine_id)) {
            return CT_ESTALE;
        }
        peer->path->welcomed(peer, stream);
        return CT_OK;
    }
    if (peer->expects_id && !same_engine(&hello->engine_id, &peer->expected_id)) {
        return CT_ESTALE;
    }
    peer->hello = *hello;
    try_next_path(peer);
    return CT_OK;
}

ct_status ct_peer_region_changed(ct_peer *peer, const ct_region_change *change, int fd) {
    uint32_t id = change->region.id;
    ct_link *next;
    for (ct_link *node = peer->transfers.next; node != &peer->transfers; node = next) {
        next = node->next;
        ct_transfer *transfer = ct_container(node, ct_transfer, peer_node);
        if (transfer->phase == CT_PHASE_MOVING && transfer->region.id == id) {
            ct_transfer_fail(transfer, CT_ESTALE);
        }
    }
    forget_region(peer, id);
    ct_status status = CT_OK;
    if (!change->withdrawn) {
        peer->regions[id].region = change->region;
        status = peer->path->region_added(peer, id, fd);
        if (status != CT_OK) {
            peer->regions[id] = (ct_peer_region){0};
        }
    }
    pthread_mutex_lock(&peer->engine->lock);
    peer->published[id] = peer->regions[id].region;
    pthread_mutex_unlock(&peer->engine->lock);
    return status;
}

void ct_peer_ready(ct_peer *peer) {
    if (peer->state != CT_PEER_CONNECTING) {
        return;
    }
    ct_engine *engine = peer->engine;
    peer->state = CT_PEER_UP;
    ct_event_node *event = peer->up_event;
    peer->up_event = NULL;
    event->event = (ct_event){
        .kind = CT_EVENT_PEER_UP, .peer_id = peer->id, .path = peer->path->path};
    pthread_mutex_lock(&engine->lock);
    peer->info = (ct_peer_info){.path = peer->path->path, .engine_id = peer->hello.engine_id};
    ct_engine_push_event_locked(engine, event);
    pthread_mutex_unlock(&engine->lock);
    ct_engine_arm(engine, ct_now_ns());
    ct_link waiting;
    ct_link_take(&peer->transfers, &waiting);
    while (!ct_link_is_empty(&waiting)) {
        ct_link *node = ct_link_pop(&waiting);
        ct_link_append(&peer->transfers, node);
        ct_transfer_begin(ct_container(node, ct_transfer, peer_node));
    }
}

void ct_peer_down(ct_peer *peer, ct_status status) {
    if (peer->state == CT_PEER_DOWN) {
        return;
    }
    ct_engine *engine = peer->engine;
    peer->state = CT_PEER_DOWN;
    peer->down_status = status;
    for (ct_link *node = peer->transfers.next; node != &peer->transfers; node = node->next) {
        ct_transfer *transfer = ct_container(node, ct_transfer, peer_node);
        if (transfer->phase == CT_PHASE_MOVING) {
            peer->path->stop(transfer);
        }
    }
    // Once the connections are closed, nothing touches the transfers' blocks.
    close_stream(&peer->streams[0], status);
    close_path(peer, status);
    while (!ct_link_is_empty(&peer->transfers)) {
        ct_transfer *transfer = ct_container(peer->transfers.next, ct_transfer, peer_node);
        int has_ended = transfer->phase == CT_PHASE_DRAINING;
        ct_transfer_finish(transfer, has_ended ? transfer->status : status);
    }
    ct_event_node *event = peer->down_event;
    peer->down_event = NULL;
    pthread_mutex_lock(&engine->lock);
    peer->info = (ct_peer_info){0};
    if (event != NULL) {
        event->event =
            (ct_event){.kind = CT_EVENT_PEER_DOWN, .peer_id = peer->id, .status = status};
        ct_engine_push_event_locked(engine, event);
    }
    pthread_mutex_unlock(&engine->lock);
}

static int holds_stream(const ct_peer *peer, const ct_stream *stream) {
    for (uint32_t i = 0; i < peer->stream_count; i++) {
        if (peer->streams[i] == stream) {
            return 1;
        }
    }
    return peer->channel == stream;
}

void ct_peer_stream_closed(ct_stream *stream, ct_status status) {
    ct_peer *peer = stream->peer;
    if (!holds_stream(peer, stream)) {
        return;  // closed on purpose
    }
    if (peer->state == CT_PEER_UP || stream == peer->streams[0]) {
        ct_peer_down(peer, status);
    } else {
        close_path(peer, status);
        try_next_path(peer);
    }
}

void ct_peer_wake(ct_peer *peer) {
    for (uint32_t i = 0; i < peer->stream_count; i++) {
        if (peer->streams[i] != NULL) {
            ct_conn_wake(&peer->streams[i]->conn);
        }
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
