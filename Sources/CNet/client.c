#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "connection.h"
#include "fields.h"

enum { MAX_ADDRESS_COUNT = 8 };

struct cn_client {
    cn_connection connection; /* first */
    cn_client_config config;
    cn_client_events events;
    cn_exchange_events exchange_events;
    void *user;
    char *server_name;
    uv_getaddrinfo_t resolve;
    uv_connect_t connect;
    cn_deferred begin; /* Unix sockets, which connect at once */
    struct sockaddr_storage addresses[MAX_ADDRESS_COUNT]; /* to be tried in turn */
    size_t address_count;
    size_t next_address;
};

/* ---- connecting */

static cn_status status_of_connect(int code)
{
    cn_status status = cn_status_from_uv(code);
    return status == CN_RESET || status == CN_CLOSED ? CN_CONNECT_FAILED : status;
}

static void try_next(cn_client *client);

static void on_attempt_closed(uv_handle_t *handle)
{
    cn_client *client = handle->data;
    if (--client->connection.open_count == 0 && client->connection.is_closing)
        cn_client_free(client);
    else if (!client->connection.is_closing)
        try_next(client);
}

static void on_connected(uv_connect_t *connect, int code)
{
    cn_client *client = connect->data;
    cn_connection *connection = &client->connection;
    if (connection->is_closing)
        return;
    if (code == 0) {
        cn_connection_begin(connection);
        return;
    }
    if (client->next_address == client->address_count) {
        cn_connection_close(connection, status_of_connect(code), uv_strerror(code));
        return;
    }
    connection->is_open = false;
    uv_close((uv_handle_t *)&connection->tcp, on_attempt_closed);
}

static void try_next(cn_client *client)
{
    cn_connection *connection = &client->connection;
    connection->mode = CN_MODE_CONNECTING;
    uv_tcp_init(&connection->loop->uv, &connection->tcp);
    connection->tcp.data = connection;
    connection->is_open = true;
    connection->open_count++;
    client->connect.data = client;
    const struct sockaddr *address =
        (const struct sockaddr *)&client->addresses[client->next_address++];
    int code = uv_tcp_connect(&client->connect, &connection->tcp, address, on_connected);
    if (code != 0)
        cn_connection_fail(connection, status_of_connect(code), uv_strerror(code));
}

static void on_resolved(uv_getaddrinfo_t *resolve, int code, struct addrinfo *list)
{
    cn_client *client = resolve->data;
    cn_connection *connection = &client->connection;
    connection->open_count--;
    if (!connection->is_closing) {
        for (struct addrinfo *entry = list;
             entry != NULL && client->address_count < MAX_ADDRESS_COUNT; entry = entry->ai_next)
            memcpy(&client->addresses[client->address_count++], entry->ai_addr,
                   entry->ai_addrlen);
    }
    uv_freeaddrinfo(list);
    if (connection->is_closing) {
        if (connection->open_count == 0)
            cn_client_free(client);
    } else if (code != 0 || client->address_count == 0) {
        cn_connection_close(connection, CN_RESOLVE_FAILED, code == 0 ? NULL : uv_strerror(code));
    } else {
        try_next(client);
    }
}

static void begin(cn_deferred *deferred)
{
    cn_connection_begin(&CN_CONTAINER(deferred, cn_client, begin)->connection);
}

static cn_status connect_unix(cn_client *client, const char *path)
{
    cn_connection *connection = &client->connection;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return CN_INVALID_ARGUMENT;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return cn_status_from_uv(uv_translate_sys_error(errno));
    uv_tcp_init(&connection->loop->uv, &connection->tcp);
    connection->tcp.data = connection;
    connection->is_open = true;
    connection->open_count++;
    /* libuv takes any stream socket for a TCP socket; the options that are TCP's own fail. */
    int code = connect(fd, (const struct sockaddr *)&address, sizeof address) == 0
                   ? uv_tcp_open(&connection->tcp, fd)
                   : uv_translate_sys_error(errno);
    if (code != 0) {
        close(fd);
        return status_of_connect(code);
    }
    connection->mode = CN_MODE_CONNECTING;
    cn_loop_defer(connection->loop, &client->begin);
    return CN_OK;
}

static cn_status resolve(cn_client *client, const char *host, uint16_t port)
{
    if (host[0] == '/')
        return connect_unix(client, host);
    struct sockaddr_storage *address = &client->addresses[0];
    if (uv_ip4_addr(host, port, (struct sockaddr_in *)address) == 0 ||
        uv_ip6_addr(host, port, (struct sockaddr_in6 *)address) == 0) {
        client->address_count = 1;
        try_next(client);
        return CN_OK;
    }
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    client->resolve.data = client;
    int code = uv_getaddrinfo(&client->connection.loop->uv, &client->resolve, on_resolved, host,
                              service, &hints);
    if (code != 0)
        return code == UV_ENOMEM ? CN_NO_MEMORY : CN_RESOLVE_FAILED;
    client->connection.open_count++;
    return CN_OK;
}

cn_status cn_client_connect(cn_loop *loop, const char *host, uint16_t port,
                            const cn_client_config *config, const cn_client_events *events,
                            const cn_exchange_events *exchange_events, void *user,
                            cn_client **client_p)
{
    if (loop->stopping)
        return CN_CANCELLED;
    cn_client *client = calloc(1, sizeof *client);
    if (client == NULL)
        return CN_NO_MEMORY;
    client->config = *config;
    client->events = *events;
    client->exchange_events = *exchange_events;
    client->user = user;
    client->server_name = strdup(config->server_name != NULL ? config->server_name : host);
    cn_connection *connection = &client->connection;
    connection->client = client;
    client->begin.run = begin;
    cn_status status = client->server_name == NULL ? CN_NO_MEMORY : CN_OK;
    if (status == CN_OK)
        status = cn_connection_init(connection, loop, &client->config.connection,
                                    &client->exchange_events);
    if (status != CN_OK) {
        free(client->server_name);
        free(client);
        return status;
    }
    if (config->connection.tls != NULL)
        cn_tls_context_retain(config->connection.tls);
    cn_connection_wait(connection, CN_WAIT_CONNECT, config->connect_timeout_ms);
    status = resolve(client, host, port);
    if (status != CN_OK)
        cn_connection_fail(connection, status, NULL);
    *client_p = client;
    return CN_OK;
}

void cn_client_free(cn_client *client)
{
    cn_tls_context_release(client->config.connection.tls);
    free(client->server_name);
    free(client);
}

void cn_client_close(cn_client *client)
{
    cn_connection_fail(&client->connection, CN_CANCELLED, NULL);
}

/* ---- exchanges */

size_t cn_client_capacity(const cn_client *client)
{
    const cn_connection *connection = &client->connection;
    if (connection->is_closing || connection->failure != CN_OK || connection->closes_when_flushed)
        return 0;
    switch (connection->mode) {
    case CN_MODE_H1:
    case CN_MODE_BYTES:
        return connection->current == NULL ? 1 : 0;
    case CN_MODE_H2:
        return cn_h2_capacity(connection->h2);
    default:
        return 0;
    }
}

static cn_status start_h2(cn_exchange *exchange, const cn_head *head, int64_t body_bytes)
{
    cn_connection *connection = exchange->connection;
    exchange->is_head_request = cn_is_head_method(head->method);
    exchange->out_finished = body_bytes == 0;
    exchange->was_sent = true;
    return cn_h2_request(connection->h2, head, connection->tls == NULL ? "http" : "https",
                         body_bytes != 0, exchange, &exchange->stream);
}

cn_status cn_client_start(cn_client *client, const cn_head *head, int64_t body_bytes, void *user,
                          cn_exchange **exchange_p)
{
    if (cn_client_capacity(client) == 0)
        return CN_REFUSED;
    cn_connection *connection = &client->connection;
    cn_exchange *exchange = cn_exchange_new(connection);
    if (exchange == NULL)
        return CN_NO_MEMORY;
    exchange->user = user;
    if (connection->mode == CN_MODE_BYTES) {
        connection->current = exchange;
    } else if (connection->mode == CN_MODE_H1) {
        cn_connection_h1_start(exchange, head, body_bytes);
    } else {
        cn_status status = start_h2(exchange, head, body_bytes);
        if (status != CN_OK) {
            exchange->is_detached = true;
            cn_exchange_close(exchange, status, NULL);
            return status;
        }
    }
    cn_exchange_arm(exchange);
    cn_connection_touch(connection);
    *exchange_p = exchange;
    return CN_OK;
}

/* ---- what connections ask for and report */

void cn_client_ready(cn_client *client)
{
    if (client->connection.failure != CN_OK)
        return;
    client->connection.is_ready = true;
    cn_connection_wait(&client->connection, CN_WAIT_IDLE, client->config.keep_alive_ms);
    client->events.connected(client->user, client->connection.mode == CN_MODE_H2);
}

void cn_client_report_available(cn_client *client)
{
    if (cn_client_capacity(client) > 0)
        client->events.available(client->user);
}

void cn_client_closed(cn_client *client, cn_status status, const char *detail)
{
    cn_ring_remove(&client->begin.node);
    client->events.closed(client->user, status, detail);
}

uint32_t cn_client_response_timeout(const cn_client *client)
{
    return client->config.response_timeout_ms;
}

uint32_t cn_client_keep_alive(const cn_client *client)
{
    return client->config.keep_alive_ms;
}

cn_codec cn_client_codec(const cn_client *client)
{
    return client->config.codec;
}

const char *cn_client_server_name(const cn_client *client)
{
    return client->server_name;
}
