// Connecting to a peer: who it is, and which paths there are.
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "params.h"

#define CT_DEFAULT_CONNECT_NS UINT64_C(5000000000)

#define CT_DEFAULT_BACKOFF 32

static void run_connect(ct_command *command);
static void run_release(ct_command *command);

static ct_status check(const ct_connect_params *params) {
    if ((params->allowed_paths & ~CT_PATH_MASK_ANY) != 0 ||
        params->stream_count > CT_STREAMS_MAX || params->expects_id > 1 ||
        (params->reconnect_max_ns != 0 && params->reconnect_max_ns < params->reconnect_ns)) {
        return CT_EINVAL;
    }
    return CT_OK;
}

int ct_peer_prepare_events(ct_peer *peer) {
    ct_event_node **events[] = {&peer->up_event, &peer->down_event};
    for (int i = 0; i < 2; i++) {
        if (*events[i] == NULL) {
            ct_event_node *event = ct_allocate(sizeof(*event));
            if (event == NULL) {
                return 0;
            }
            event->allocation = event;
            *events[i] = event;
        }
    }
    return 1;
}

static void free_peer(ct_peer *peer) {
    if (peer != NULL) {
        free(peer->up_event);
        free(peer->down_event);
        free(peer);
    }
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
    ct_peer *peer = ct_allocate(sizeof(*peer));
    if (peer == NULL || !ct_peer_prepare_events(peer)) {
        free_peer(peer);
        return CT_ENOMEM;
    }
    peer->connect.run = run_connect;
    peer->release.run = run_release;
    peer->engine = engine;
    peer->allowed_paths = given.allowed_paths != 0 ? given.allowed_paths : CT_PATH_MASK_ANY;
    peer->stream_count = given.stream_count != 0 ? given.stream_count : 1;
    peer->expects_id = (uint8_t)given.expects_id;
    peer->expected_id = given.expected_id;
    peer->address = address;
    peer->address_bytes = address_bytes;
    peer->timeout_ns = given.timeout_ns != 0 ? given.timeout_ns : CT_DEFAULT_CONNECT_NS;
    peer->reconnect_ns = given.reconnect_ns;
    peer->reconnect_max_ns = given.reconnect_max_ns != 0
                                 ? given.reconnect_max_ns
                                 : ct_time_times(given.reconnect_ns, CT_DEFAULT_BACKOFF);
    peer->process_fd = -1;
    ct_link_init(&peer->node);
    ct_link_init(&peer->transfers);
    for (uint32_t i = 0; i < CT_PRIORITIES; i++) {
        ct_link_init(&peer->queues[i]);
    }
    ct_link_init(&peer->notifications);
    pthread_mutex_lock(&engine->lock);
    peer->id = ++engine->peer_serial;
    ct_engine_command_locked(engine, &peer->connect);
    pthread_mutex_unlock(&engine->lock);
    *peer_p = peer;
    return CT_OK;
}

void ct_peer_set_reason(ct_peer *peer, ct_path path, const char *reason) {
    pthread_mutex_lock(&peer->engine->lock);
    snprintf(peer->reasons[path], sizeof(peer->reasons[path]), "%s", reason);
    pthread_mutex_unlock(&peer->engine->lock);
}

void ct_peer_update_info(ct_peer *peer) {
    ct_path first = CT_PATH_NONE;
    for (size_t i = 0; ct_paths[i] != NULL && first == CT_PATH_NONE; i++) {
        first = peer->ready_paths & CT_PATH_MASK(ct_paths[i]->path) ? ct_paths[i]->path : first;
    }
    int is_up = peer->state == CT_PEER_UP;
    pthread_mutex_lock(&peer->engine->lock);
    peer->info.path = is_up ? first : CT_PATH_NONE;
    peer->info.paths = is_up ? peer->ready_paths : 0;
    peer->info.engine_id = is_up ? peer->hello.engine_id : (ct_engine_id){{0}};
    pthread_mutex_unlock(&peer->engine->lock);
}

void ct_peer_report(ct_peer *peer, ct_event_node **event_p, ct_event event) {
    ct_event_node *node = *event_p;
    *event_p = NULL;
    peer->told = event.kind;
    if (node == NULL) {
        return;
    }
    event.peer_id = peer->id;
    node->event = event;
    pthread_mutex_lock(&peer->engine->lock);
    ct_engine_push_event_locked(peer->engine, node);
    pthread_mutex_unlock(&peer->engine->lock);
}

void ct_peer_attempt(ct_peer *peer) {
    peer->state = CT_PEER_CONNECTING;
    peer->deadline_ns = ct_time_after(ct_now_ns(), peer->timeout_ns);
    peer->probing_paths = 0;
    peer->has_tried_channel = 0;
    memset(peer->lost_paths, 0, sizeof(peer->lost_paths));
    for (size_t i = 0; ct_paths[i] != NULL; i++) {
        ct_path path = ct_paths[i]->path;
        int is_allowed = peer->allowed_paths & CT_PATH_MASK(path) ? 1 : 0;
        ct_peer_set_reason(
            peer, path, is_allowed ? "not connected yet" : "not allowed for this peer");
    }
    ct_engine_arm(peer->engine, peer->deadline_ns);
    ct_status status = ct_peer_open_stream(
        peer, (const struct sockaddr *)&peer->address, peer->address_bytes, &peer->streams[0]);
    if (status != CT_OK) {
        ct_peer_down(peer, status);
    }
}

static void run_connect(ct_command *command) {
    ct_peer *peer = ct_container(command, ct_peer, connect);
    ct_link_append(&peer->engine->peers, &peer->node);
    peer->retry_wait_ns = peer->reconnect_ns;
    ct_peer_attempt(peer);
}

static void run_release(ct_command *command) {
    ct_peer *peer = ct_container(command, ct_peer, release);
    // Its owner has gone: nobody waits for the event.
    free(peer->down_event);
    peer->down_event = NULL;
    ct_peer_down(peer, CT_ECANCELED);
    ct_peer_free(peer);
}

void ct_peer_free(ct_peer *peer) {
    ct_link_remove(&peer->node);
    free_peer(peer);
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

static int uses_channel(uint32_t paths) {
    for (size_t i = 0; ct_paths[i] != NULL; i++) {
        if (ct_paths[i]->uses_channel && (paths & CT_PATH_MASK(ct_paths[i]->path))) {
            return 1;
        }
    }
    return 0;
}

// Asks for the region table where it brings most.
static void subscribe(ct_peer *peer) {
    if (!uses_channel(peer->ready_paths)) {
        ct_stream_end(&peer->channel, CT_ECANCELED);
        peer->has_channel = 0;
    }
    ct_stream_subscribe(peer->has_channel ? peer->channel : peer->streams[0]);
}

void ct_peer_probe_paths(ct_peer *peer) {
    for (size_t i = 0; ct_paths[i] != NULL; i++) {
        ct_path path = ct_paths[i]->path;
        if (!(peer->probing_paths & CT_PATH_MASK(path))) {
            continue;
        }
        char reason[sizeof(peer->reasons[0])] = "in use";
        ct_status status = ct_paths[i]->probe(peer, reason, sizeof(reason));
        if (status == CT_EAGAIN) {
            continue;
        }
        peer->probing_paths &= ~CT_PATH_MASK(path);
        peer->ready_paths |= status == CT_OK ? CT_PATH_MASK(path) : 0;
        if (status != CT_OK) {
            ct_paths[i]->end(peer);
        }
        ct_peer_set_reason(peer, path, reason);
    }
    if (peer->probing_paths != 0) {
        return;
    }
    if (peer->ready_paths == 0) {
        ct_peer_down(peer, CT_EPOLICY);
    } else {
        subscribe(peer);
    }
}

static int same_engine(const ct_engine_id *left, const ct_engine_id *right) {
    return memcmp(left->bytes, right->bytes, sizeof(left->bytes)) == 0;
}

ct_status ct_peer_welcomed(ct_stream *stream, const ct_hello *hello) {
    ct_peer *peer = stream->peer;
    if (stream == peer->streams[0]) {
        if (peer->expects_id && !same_engine(&hello->engine_id, &peer->expected_id)) {
            return CT_ESTALE;
        }
        peer->hello = *hello;
        peer->probing_paths = peer->allowed_paths;
    } else if (!same_engine(&hello->engine_id, &peer->hello.engine_id)) {
        return CT_ESTALE;
    }
    if (stream == peer->channel) {
        peer->has_channel = 1;
        peer->channel_hello = *hello;
    }
    ct_peer_probe_paths(peer);
    return CT_OK;
}

void ct_peer_ready(ct_peer *peer) {
    // A table that was asked for again finds the peer up.
    if (peer->state != CT_PEER_CONNECTING) {
        return;
    }
    peer->state = CT_PEER_UP;
    peer->retry_wait_ns = peer->reconnect_ns;
    ct_peer_update_info(peer);
    ct_peer_report(
        peer, &peer->up_event, (ct_event){.kind = CT_EVENT_PEER_UP, .path = peer->info.path});
    ct_engine_arm(peer->engine, ct_now_ns());
    ct_link waiting;
    ct_link_take(&peer->transfers, &waiting);
    while (!ct_link_is_empty(&waiting)) {
        ct_link *node = ct_link_pop(&waiting);
        ct_link_append(&peer->transfers, node);
        ct_transfer_begin(ct_container(node, ct_transfer, peer_node));
    }
}
