#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"

enum { BACKLOG = 4096 };

struct cn_listener {
    cn_resource resource; /* first */
    cn_deferred deferred;
    cn_loop *loop;
    uv_tcp_t tcp;
    cn_listener_config config;
    cn_listener_events events;
    cn_exchange_events exchange_events;
    void *user;
    uint16_t port;
    cn_node connections;
    uint32_t connection_count;
    bool accept_is_owed; /* a connection waits for a place */
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

static void accept_connection(cn_listener *listener)
{
    listener->accept_is_owed = listener->connection_count >= listener->config.max_connection_count;
    if (listener->accept_is_owed || uv_is_closing((uv_handle_t *)&listener->tcp))
        return;
    cn_connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL)
        return;
    connection->listener = listener;
    if (cn_connection_init(connection, listener->loop, &listener->config.connection,
                           &listener->exchange_events) != CN_OK) {
        free(connection);
        return;
    }
    cn_ring_append(&listener->connections, &connection->siblings);
    listener->connection_count++;
    uv_tcp_init(&listener->loop->uv, &connection->tcp);
    connection->tcp.data = connection;
    connection->is_open = true;
    connection->open_count = 1;
    if (uv_accept((uv_stream_t *)&listener->tcp, (uv_stream_t *)&connection->tcp) != 0) {
        cn_connection_close(connection, CN_SYSTEM, NULL);
        return;
    }
    if (listener->config.connection.tls != NULL)
        cn_connection_wait(connection, CN_WAIT_HEAD, listener->config.head_timeout_ms);
    cn_connection_begin(connection);
}

static void on_connection(uv_stream_t *stream, int code)
{
    /* Out of file descriptors, libuv has closed the newcomers by a descriptor kept for that. */
    if (code == 0)
        accept_connection(stream->data);
}

/* ---- the end */

/* A listener without socket and connections is gone. */
static void finish_if_done(cn_listener *listener)
{
    if (!listener->is_closed || listener->connection_count > 0)
        return;
    cn_ring_remove(&listener->resource.node);
    cn_ring_remove(&listener->deferred.node);
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
    if (!uv_is_closing((uv_handle_t *)&listener->tcp))
        uv_close((uv_handle_t *)&listener->tcp, on_closed);
}

void cn_listener_forget(cn_listener *listener, cn_connection *connection)
{
    cn_ring_remove(&connection->siblings);
    listener->connection_count--;
    if (listener->accept_is_owed)
        accept_connection(listener);
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
    int fd;
    cn_status status = open_socket(host, port, shared, &fd);
    if (status != CN_OK)
        return status;
    struct sockaddr_storage address;
    int bytes = sizeof address;
    int code = uv_tcp_open(&listener->tcp, fd);
    if (code != 0)
        close(fd);
    else
        code = uv_listen((uv_stream_t *)&listener->tcp, BACKLOG, on_connection);
    if (code == 0)
        code = uv_tcp_getsockname(&listener->tcp, (struct sockaddr *)&address, &bytes);
    /* The port is at the same place in both families. */
    if (code == 0)
        listener->port = ntohs(((struct sockaddr_in *)&address)->sin_port);
    return cn_status_from_uv(code);
}

static void on_failed(uv_handle_t *handle)
{
    free(handle->data);
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
    uv_tcp_init(&loop->uv, &listener->tcp);
    listener->tcp.data = listener;
    cn_status status = listen_on(listener, host, port, shared);
    if (status != CN_OK) {
        uv_close((uv_handle_t *)&listener->tcp, on_failed);
        return status;
    }
    if (config->connection.tls != NULL)
        cn_tls_context_retain(config->connection.tls);
    cn_loop_add(loop, &listener->resource);
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
