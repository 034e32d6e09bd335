#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"

enum {
    BACKLOG = 4096,
    /* In one turn of the loop, which others wait for. */
    MAX_ACCEPT_COUNT = 64,
};

static const uint64_t retry_ns = 100000000;

struct cn_listener {
    cn_resource resource; /* first */
    cn_deferred deferred;
    cn_loop *loop;
    int fd;
    uv_poll_t poll;    /* on `fd` */
    cn_deadline retry; /* set while there is no descriptor to accept with */
    cn_listener_config config;
    cn_listener_events events;
    cn_exchange_events exchange_events;
    void *user;
    uint16_t port;
    cn_node connections;
    uint32_t connection_count;
    bool is_destroyed;
    bool is_closed; /* the socket is */
};

/* ---- sockets */

static bool parse_address(const char *host, uint16_t port, struct sockaddr_storage *address)
{
    return uv_ip4_addr(host, port, (struct sockaddr_in *)address) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)address) == 0;
}

static socklen_t address_bytes(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static cn_status open_socket(const char *host, uint16_t port, bool shared, int *fd_p)
{
    struct sockaddr_storage address = {0};
    if (!parse_address(host, port, &address))
        return CN_INVALID_ARGUMENT;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return cn_status_from_uv(-errno);
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if ((shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0) ||
        bind(fd, (struct sockaddr *)&address, address_bytes(&address)) != 0) {
        cn_status status = cn_status_from_uv(-errno);
        close(fd);
        return status;
    }
    *fd_p = fd;
    return CN_OK;
}

cn_status cn_address_probe(const char *host, uint16_t port)
{
    int fd;
    cn_status status = open_socket(host, port, false, &fd);
    if (status != CN_OK)
        return status;
    /* Another socket that was bound, but does not listen yet, shows only here. */
    if (port != 0 && listen(fd, 1) != 0)
        status = cn_status_from_uv(-errno);
    close(fd);
    return status;
}

/* ---- connections */

static void on_connection(uv_poll_t *poll, int code, int events);

/* Accepts, unless there is no place for another connection or no descriptor to be had: newcomers
 * wait in the kernel's queue then. */
static void update_accepting(cn_listener *listener)
{
    if (uv_is_closing((uv_handle_t *)&listener->poll))
        return;
    bool wants = listener->connection_count < listener->config.max_connection_count &&
                 listener->retry.place == 0;
    if (wants)
        uv_poll_start(&listener->poll, UV_READABLE, on_connection);
    else
        uv_poll_stop(&listener->poll);
}

static void on_retry(cn_deadline *deadline)
{
    update_accepting(CN_CONTAINER(deadline, cn_listener, retry));
}

/* Without memory or descriptors. A connection of ours that ends is the way out that shows; others
 * do not show, so time is one as well. */
static void retry_later(cn_listener *listener)
{
    cn_deadline_set(listener->loop, &listener->retry, uv_hrtime() + retry_ns);
    update_accepting(listener);
}

static cn_status add_connection(cn_listener *listener, int fd)
{
    cn_connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL)
        return CN_NO_MEMORY;
    connection->listener = listener;
    cn_status status = cn_connection_init(connection, listener->loop, &listener->config.connection,
                                          &listener->exchange_events);
    if (status != CN_OK) {
        free(connection);
        return status;
    }
    cn_ring_append(&listener->connections, &connection->siblings);
    listener->connection_count++;
    uv_tcp_init(&listener->loop->uv, &connection->tcp);
    connection->tcp.data = connection;
    connection->is_open = true;
    connection->open_count = 1;
    int code = uv_tcp_open(&connection->tcp, fd);
    if (code != 0) {
        close(fd);
        cn_connection_close(connection, cn_status_from_uv(code), NULL);
        return CN_OK;
    }
    if (listener->config.connection.tls != NULL)
        cn_connection_wait(connection, CN_WAIT_HEAD, listener->config.head_timeout_ms);
    cn_connection_begin(connection);
    return CN_OK;
}

/* Whether accept tells of a newcomer that is gone already, as accept(2) lists them. */
static bool is_about_newcomer(int error)
{
    switch (error) {
    case ECONNABORTED:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case EINTR:
    case ENETDOWN:
    case ENETUNREACH:
    case ENONET:
    case ENOPROTOOPT:
    case EOPNOTSUPP:
    case EPERM:
    case EPROTO:
        return true;
    default:
        return false;
    }
}

static void on_connection(uv_poll_t *poll, int code, int events)
{
    (void)events;
    cn_listener *listener = poll->data;
    if (code != 0) {
        /* libuv has given up watching. */
        retry_later(listener);
        return;
    }
    for (int i = 0; i < MAX_ACCEPT_COUNT; i++) {
        if (listener->connection_count >= listener->config.max_connection_count)
            break;
        int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (fd < 0 && is_about_newcomer(errno))
            continue;
        if (fd >= 0 && add_connection(listener, fd) == CN_OK)
            continue;
        if (fd >= 0)
            close(fd);
        retry_later(listener);
        return;
    }
    update_accepting(listener);
}

/* ---- the end */

/* A listener without socket and connections is gone. */
static void finish_if_done(cn_listener *listener)
{
    if (!listener->is_closed || listener->connection_count > 0)
        return;
    cn_ring_remove(&listener->resource.node);
    cn_ring_remove(&listener->deferred.node);
    cn_deadline_fini(listener->loop, &listener->retry);
    cn_gone gone = listener->events.gone;
    void *user = listener->user;
    cn_tls_context_release(listener->config.connection.tls);
    free(listener);
    gone(user);
}

static void on_closed(uv_handle_t *handle)
{
    cn_listener *listener = handle->data;
    listener->is_closed = true;
    finish_if_done(listener);
}

static void stop_accepting(cn_listener *listener)
{
    if (uv_is_closing((uv_handle_t *)&listener->poll))
        return;
    uv_close((uv_handle_t *)&listener->poll, on_closed);
    close(listener->fd);
}

void cn_listener_forget(cn_listener *listener, cn_connection *connection)
{
    cn_ring_remove(&connection->siblings);
    listener->connection_count--;
    /* Its descriptor is free by the next turn. */
    cn_deadline_clear(listener->loop, &listener->retry);
    update_accepting(listener);
    finish_if_done(listener);
}

static void close_connections(cn_listener *listener)
{
    cn_node *node = listener->connections.next;
    while (node != &listener->connections) {
        cn_node *next = node->next;
        cn_connection_close(CN_CONTAINER(node, cn_connection, siblings), CN_CANCELLED, NULL);
        node = next;
    }
}

static void drain_connection(cn_connection *connection)
{
    switch (connection->mode) {
    case CN_MODE_H2:
        cn_h2_drain(connection->h2);
        cn_connection_touch(connection);
        break;
    case CN_MODE_H1:
        connection->is_draining = true;
        if (connection->current == NULL && !connection->is_discarding &&
            !cn_h1_is_inside(&connection->h1))
            cn_connection_close_when_flushed(connection, false);
        break;
    case CN_MODE_LINGERING:
        break;
    default:
        cn_connection_close(connection, CN_CANCELLED, NULL);
        break;
    }
}

static void drain_connections(cn_listener *listener)
{
    cn_node *node = listener->connections.next;
    while (node != &listener->connections) {
        cn_node *next = node->next;
        drain_connection(CN_CONTAINER(node, cn_connection, siblings));
        node = next;
    }
}

static void stop_listener(cn_resource *resource)
{
    cn_listener *listener = (cn_listener *)resource;
    cn_ring_remove(&resource->node);
    stop_accepting(listener);
    /* Connections are resources of the loop as well: it closes them. */
}

/* What a drain or a destroy asked for. */
static void run_deferred(cn_deferred *deferred)
{
    cn_listener *listener = CN_CONTAINER(deferred, cn_listener, deferred);
    /* One more than there are, so that the listener does not go with the last of them. */
    listener->connection_count++;
    if (listener->is_destroyed)
        close_connections(listener);
    else
        drain_connections(listener);
    listener->connection_count--;
    finish_if_done(listener);
}

void cn_listener_drain(cn_listener *listener)
{
    stop_accepting(listener);
    cn_loop_defer(listener->loop, &listener->deferred);
}

void cn_listener_destroy(cn_listener *listener)
{
    if (listener == NULL)
        return;
    listener->is_destroyed = true;
    cn_listener_drain(listener);
}

/* ---- beginning */

static cn_status listen_on(cn_listener *listener, const char *host, uint16_t port, bool shared)
{
    cn_status status = open_socket(host, port, shared, &listener->fd);
    if (status != CN_OK)
        return status;
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    int code = 0;
    if (listen(listener->fd, BACKLOG) != 0 ||
        getsockname(listener->fd, (struct sockaddr *)&address, &bytes) != 0)
        code = -errno;
    if (code == 0)
        code = uv_poll_init(&listener->loop->uv, &listener->poll, listener->fd);
    if (code != 0) {
        close(listener->fd);
        return cn_status_from_uv(code);
    }
    listener->poll.data = listener;
    /* The port is at the same place in both families. */
    listener->port = ntohs(((struct sockaddr_in *)&address)->sin_port);
    return CN_OK;
}

cn_status cn_listener_create(cn_loop *loop, const char *host, uint16_t port, bool shared,
                             const cn_listener_config *config, const cn_listener_events *events,
                             const cn_exchange_events *exchange_events, void *user,
                             cn_listener **listener_p)
{
    if (loop->stopping)
        return CN_CANCELLED;
    cn_listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL)
        return CN_NO_MEMORY;
    listener->resource.stop = stop_listener;
    listener->deferred.run = run_deferred;
    listener->loop = loop;
    listener->config = *config;
    listener->events = *events;
    listener->exchange_events = *exchange_events;
    listener->user = user;
    cn_ring_init(&listener->connections);
    if (!cn_deadline_init(loop, &listener->retry, on_retry)) {
        free(listener);
        return CN_NO_MEMORY;
    }
    cn_status status = listen_on(listener, host, port, shared);
    if (status != CN_OK) {
        cn_deadline_fini(loop, &listener->retry);
        free(listener);
        return status;
    }
    if (config->connection.tls != NULL)
        cn_tls_context_retain(config->connection.tls);
    cn_loop_add(loop, &listener->resource);
    update_accepting(listener);
    *listener_p = listener;
    return CN_OK;
}

/* ---- what connections ask for */

uint16_t cn_listener_port(const cn_listener *listener)
{
    return listener->port;
}

void *cn_listener_request(cn_listener *listener, cn_exchange *exchange, const cn_head *head)
{
    return listener->events.request(listener->user, exchange, head);
}

const cn_listener_config *cn_listener_get_config(const cn_listener *listener)
{
    return &listener->config;
}
