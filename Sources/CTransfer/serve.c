// The listening side of a connection: answers requests one after another, from and into its own
// pools. Nothing that comes in is trusted before it is checked against the region table.
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"

#define CT_ACCEPT_RETRY_NS UINT64_C(100000000)

static ct_status frame(ct_conn *conn);
static ct_status payload(ct_conn *conn);
static void sent(ct_conn *conn);
static ct_status idle(ct_conn *conn);
static void closed(ct_conn *conn, ct_status status);

static const ct_conn_ops ops = {frame, payload, sent, idle, closed};

static void answer(ct_server *server, ct_header header, const ct_cursor *cursor) {
    header.request = server->conn.header.request;
    ct_conn_send(&server->conn, &header, cursor, -1);
}

static ct_status hello(ct_server *server) {
    const ct_engine *engine = server->conn.engine;
    ct_hello theirs;
    ct_status status = ct_hello_decode(&server->conn.header, server->conn.body, &theirs);
    if (server->is_welcomed || status != CT_OK) {
        return CT_EPROTOCOL;
    }
    server->sender = theirs.engine_id;
    server->is_welcomed = 1;
    server->is_refused = theirs.version != CT_PROTOCOL_VERSION;
    ct_hello ours = {.version = CT_PROTOCOL_VERSION, .engine_id = engine->id};
    memcpy(ours.boot_id, engine->boot_id, sizeof(ours.boot_id));
    if (server->conn.is_local) {
        ours.proof_address = (uintptr_t)engine->proof;
        memcpy(ours.proof, engine->proof, sizeof(ours.proof));
    }
    ct_header header = {
        .type = CT_FRAME_WELCOME,
        .status = server->is_refused ? CT_EVERSION : CT_OK,
        .body_bytes = ct_hello_encode(&ours, ct_conn_body(&server->conn)),
    };
    answer(server, header, NULL);
    return CT_OK;
}

// Whether the blocks in hand are still those that the peer was given.
static int are_current(const ct_server *server) {
    return ct_ledger_holds(
        server->pool->ledger, &server->pool->region, &server->view, 0, server->list.block_count,
        server->list.epoch);
}

// Finds the blocks that a request names, and counts the request.
static ct_status locate(ct_server *server) {
    ct_engine *engine = server->conn.engine;
    const ct_list *list = &server->list;
    ct_status status = CT_OK;
    const ct_region_slot *slot =
        list->region_id < CT_REGIONS_MAX ? &engine->regions[list->region_id] : NULL;
    if (slot == NULL || slot->region.generation == 0) {
        status = CT_ENOTFOUND;
    } else if (slot->pool == NULL || slot->region.generation != list->generation) {
        status = CT_ESTALE;
    } else {
        const uint32_t *ids = list->has_ids ? list->ids : NULL;
        status = ct_blocks_check(
            list->planes, list->plane_count, ids, list->block_count, slot->region.size_bytes);
        server->pool = slot->pool;
        server->view = (ct_view){
            .base = slot->pool->memory,
            .planes = list->planes,
            .ids = ids,
            .plane_count = list->plane_count,
        };
        status = status == CT_OK && !are_current(server) ? CT_ESTALE : status;
    }
    pthread_mutex_lock(&engine->lock);
    engine->stats.refused_requests += status != CT_OK;
    engine->stats.served_requests += status == CT_OK;
    engine->stats.served_bytes += status == CT_OK ? list->total_bytes : 0;
    pthread_mutex_unlock(&engine->lock);
    return status;
}

static ct_status blocks(ct_server *server) {
    ct_conn *conn = &server->conn;
    ct_status status = ct_list_decode(&conn->header, conn->body, &server->list);
    if (status != CT_OK) {
        return status;
    }
    server->status = locate(server);
    ct_cursor cursor = ct_cursor_make(&server->view, 0, server->list.block_count);
    if (conn->header.type == CT_FRAME_WRITE) {
        if (server->status == CT_OK) {
            ct_conn_receive(conn, cursor);
        }
        return CT_OK;
    }
    ct_header header = {
        .type = CT_FRAME_DATA,
        .status = server->status,
        .payload_bytes = server->status == CT_OK ? server->list.total_bytes : 0,
    };
    server->sends_data = server->status == CT_OK;
    answer(server, header, &cursor);
    return CT_OK;
}

// The kernel has copied the last byte of an answer. Only now is it known what the bytes are worth.
static void sent(ct_conn *conn) {
    ct_server *server = ct_container(conn, ct_server, conn);
    if (server->sends_data) {
        server->sends_data = 0;
        ct_header header = {
            .type = CT_FRAME_DONE, .status = are_current(server) ? CT_OK : CT_ESTALE};
        answer(server, header, NULL);
    }
}

static ct_status payload(ct_conn *conn) {
    ct_server *server = ct_container(conn, ct_server, conn);
    if (server->status == CT_OK && !are_current(server)) {
        server->status = CT_ESTALE;
    }
    answer(server, (ct_header){.type = CT_FRAME_DONE, .status = server->status}, NULL);
    return CT_OK;
}

// Queues what a peer sent for the caller of ct_engine_poll.
static ct_status deliver(ct_server *server) {
    ct_engine *engine = server->conn.engine;
    size_t bytes = server->conn.header.body_bytes;
    ct_event_node *node = ct_allocate(sizeof(*node) + bytes);
    if (node == NULL) {
        return CT_ENOMEM;
    }
    memcpy(node + 1, server->conn.body, bytes);
    node->allocation = node;
    node->event = (ct_event){
        .kind = CT_EVENT_NOTIFICATION,
        .sender = server->sender,
        .notification = (const uint8_t *)(node + 1),
        .notification_bytes = bytes,
    };
    pthread_mutex_lock(&engine->lock);
    int is_full = engine->notification_count == engine->params.notifications_max;
    if (!is_full) {
        engine->notification_count++;
        engine->stats.notifications_received++;
        ct_engine_push_event_locked(engine, node);
    }
    pthread_mutex_unlock(&engine->lock);
    if (is_full) {
        free(node);
    }
    return is_full ? CT_EAGAIN : CT_OK;
}

static ct_status frame(ct_conn *conn) {
    ct_server *server = ct_container(conn, ct_server, conn);
    if (!server->is_welcomed && conn->header.type != CT_FRAME_HELLO) {
        return CT_EPROTOCOL;
    }
    switch (conn->header.type) {
    case CT_FRAME_HELLO:
        return hello(server);
    case CT_FRAME_SUBSCRIBE:
        server->is_subscribed = 1;
        return CT_OK;
    case CT_FRAME_PING:
        answer(server, (ct_header){.type = CT_FRAME_PONG}, NULL);
        return CT_OK;
    case CT_FRAME_READ:
    case CT_FRAME_WRITE:
        return blocks(server);
    case CT_FRAME_NOTIFY:
        answer(server, (ct_header){.type = CT_FRAME_DONE, .status = deliver(server)}, NULL);
        return CT_OK;
    default:
        return CT_EPROTOCOL;
    }
}

// The earliest change of the region table that the peer has not heard of; NULL: none.
static const ct_region_slot *next_change(const ct_server *server) {
    const ct_engine *engine = server->conn.engine;
    const ct_region_slot *next = NULL;
    for (uint32_t i = 0; i < CT_REGIONS_MAX; i++) {
        const ct_region_slot *slot = &engine->regions[i];
        if (slot->change > server->region_change && (next == NULL || slot->change < next->change)) {
            next = slot;
        }
    }
    return next;
}

// A description of the same file for one peer alone: locks belong to descriptions (ledger.h).
static int reopen(int fd) {
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_RDWR | O_CLOEXEC);
}

static ct_status send_change(ct_server *server, const ct_region_slot *slot) {
    ct_conn *conn = &server->conn;
    int fd = -1;
    if (conn->is_local && slot->pool != NULL) {
        fd = reopen(slot->pool->fd);
        if (fd < 0) {
            return CT_ENOMEM;
        }
    }
    ct_region_change change = {.region = slot->region, .withdrawn = slot->pool == NULL};
    if (slot->pool != NULL) {
        change.registered = slot->pool->is_registered;
        change.address = conn->is_local ? (uintptr_t)slot->pool->memory : 0;
    }
    ct_header header = {
        .type = CT_FRAME_REGION,
        .body_bytes = ct_region_change_encode(&change, ct_conn_body(conn)),
    };
    server->region_change = slot->change;
    ct_conn_send(conn, &header, NULL, fd);
    return CT_OK;
}

static ct_status idle(ct_conn *conn) {
    ct_server *server = ct_container(conn, ct_server, conn);
    if (server->is_refused) {
        return CT_EVERSION;
    }
    if (conn->input != CT_INPUT_PAYLOAD) {
        server->pool = NULL;
    }
    if (!server->is_subscribed) {
        return CT_OK;
    }
    const ct_region_slot *slot = next_change(server);
    if (slot != NULL) {
        return send_change(server, slot);
    }
    if (!server->has_sent_ready) {
        server->has_sent_ready = 1;
        ct_conn_send(conn, &(ct_header){.type = CT_FRAME_READY}, NULL, -1);
    }
    return CT_OK;
}

static void closed(ct_conn *conn, ct_status status) {
    ct_engine *engine = conn->engine;
    engine->server_count--;
    pthread_mutex_lock(&engine->lock);
    engine->stats.protocol_errors += status == CT_EPROTOCOL;
    pthread_mutex_unlock(&engine->lock);
}

static void adopt(ct_engine *engine, int fd, int is_local) {
    int on = 1;
    ct_server *server = NULL;
    if (engine->server_count < engine->params.connections_max &&
        (!is_local || ct_socket_is_same_user(fd))) {
        server = ct_allocate(sizeof(*server));
    }
    if (server == NULL) {
        close(fd);
        return;
    }
    if (!is_local) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    if (ct_conn_open(&server->conn, engine, &ops, fd, is_local, 1) != CT_OK) {
        close(fd);
        free(server);
        return;
    }
    ct_link_append(&engine->servers, &server->conn.node);
    engine->server_count++;
    ct_engine_arm(engine, server->conn.sent_ns + engine->params.lease_ns);
}

void ct_server_accept(ct_engine *engine, int listener, int is_local) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            adopt(engine, fd, is_local);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            // What waits stays in the backlog without a new edge.
            engine->accept_retry_ns = ct_now_ns() + CT_ACCEPT_RETRY_NS;
            ct_engine_arm(engine, engine->accept_retry_ns);
            return;
        } else if (errno == EAGAIN) {
            return;
        }
    }
}

void ct_server_timers(ct_server *server, uint64_t now_ns) {
    ct_engine *engine = server->conn.engine;
    uint64_t end_ns = server->conn.sent_ns + engine->params.lease_ns;
    if (now_ns > end_ns) {
        ct_conn_close(&server->conn, CT_EPEERDEAD);
    } else {
        ct_engine_arm(engine, end_ns + 1);
    }
}

void ct_servers_region_changed(ct_engine *engine, const ct_pool *withdrawn) {
    ct_link *next;
    for (ct_link *node = engine->servers.next; node != &engine->servers; node = next) {
        next = node->next;
        ct_server *server = ct_container(node, ct_server, conn.node);
        if (withdrawn != NULL && server->pool == withdrawn) {
            ct_conn_close(&server->conn, CT_ESTALE);
        } else if (server->is_subscribed) {
            ct_conn_wake(&server->conn);
        }
    }
}

void ct_servers_fenced(ct_engine *engine, const ct_pool *pool) {
    for (ct_link *node = engine->servers.next; node != &engine->servers; node = node->next) {
        ct_server *server = ct_container(node, ct_server, conn.node);
        int is_writing = server->pool == pool && server->conn.input == CT_INPUT_PAYLOAD &&
                         server->status == CT_OK;
        if (is_writing && !are_current(server)) {
            server->status = CT_ESTALE;
            ct_conn_discard(&server->conn);
        }
    }
}
