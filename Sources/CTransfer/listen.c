// Addresses and listening sockets.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine.h"

#define CT_BACKLOG 128

ct_status ct_address_parse(
    const char *host, uint16_t port, struct sockaddr_storage *address_p, socklen_t *bytes_p) {
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (host != NULL && inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(address_p, &v4, sizeof(v4));
        *bytes_p = sizeof(v4);
        return CT_OK;
    }
    if (host != NULL && inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        memcpy(address_p, &v6, sizeof(v6));
        *bytes_p = sizeof(v6);
        return CT_OK;
    }
    return CT_EINVAL;
}

socklen_t ct_channel_address(const ct_engine_id *id, struct sockaddr_storage *address_p) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    // The leading zero byte makes the name abstract: it needs no file and vanishes with the socket.
    char *name = address.sun_path + 1;
    size_t room = sizeof(address.sun_path) - 1;
    size_t length = (size_t)snprintf(name, room, "llmd-transfer-");
    for (size_t i = 0; i < sizeof(id->bytes); i++) {
        length += (size_t)snprintf(name + length, room - length, "%02x", id->bytes[i]);
    }
    memcpy(address_p, &address, sizeof(address));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

int ct_socket_is_same_user(int fd) {
    struct ucred credentials;
    socklen_t bytes = sizeof(credentials);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) == 0 &&
           credentials.uid == geteuid();
}

// A listening socket, or -1 with errno set.
static int open_listener(const struct sockaddr *address, socklen_t bytes) {
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, address, bytes) != 0 || listen(fd, CT_BACKLOG) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static uint16_t bound_port(int fd) {
    struct sockaddr_storage address;
    socklen_t bytes = sizeof(address);
    getsockname(fd, (struct sockaddr *)&address, &bytes);
    return ntohs(
        address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                     : ((struct sockaddr_in6 *)&address)->sin6_port);
}

static void accept_ready(ct_source *source, uint32_t events) {
    (void)events;
    ct_listener *listener = ct_container(source, ct_listener, source);
    ct_server_accept(listener->engine, listener->fd, listener->is_local);
}

static void start_listening(ct_command *command) {
    ct_engine *engine = ct_container(command, ct_engine, listen);
    ct_listener *listeners[] = {&engine->tcp_listener, &engine->local_listener};
    for (int i = 0; i < 2; i++) {
        ct_engine_watch(engine, &listeners[i]->source, listeners[i]->fd, EPOLLIN | EPOLLET);
    }
}

ct_status ct_engine_listen(ct_engine *engine, const char *host, uint16_t port, uint16_t *port_p) {
    struct sockaddr_storage address;
    socklen_t bytes;
    ct_status status = ct_address_parse(host, port, &address, &bytes);
    if (status != CT_OK) {
        return status;
    }
    struct sockaddr_storage channel;
    socklen_t channel_bytes = ct_channel_address(&engine->id, &channel);
    int tcp = open_listener((struct sockaddr *)&address, bytes);
    if (tcp < 0) {
        int is_taken = errno == EADDRINUSE || errno == EADDRNOTAVAIL || errno == EACCES;
        return is_taken ? CT_EADDRESS : CT_ENOMEM;
    }
    // The channel's name is this engine's own: it is taken if the engine listens already.
    int local = open_listener((struct sockaddr *)&channel, channel_bytes);
    if (local < 0) {
        status = errno == EADDRINUSE ? CT_EINVAL : CT_ENOMEM;
        close(tcp);
        return status;
    }
    uint16_t real_port = bound_port(tcp);
    pthread_mutex_lock(&engine->lock);
    engine->tcp_listener = (ct_listener){{accept_ready}, engine, tcp, 0};
    engine->local_listener = (ct_listener){{accept_ready}, engine, local, 1};
    engine->listen.run = start_listening;
    ct_engine_command_locked(engine, &engine->listen);
    pthread_mutex_unlock(&engine->lock);
    *port_p = real_port;
    return CT_OK;
}

void ct_listeners_retry(ct_engine *engine, uint64_t now_ns) {
    if (engine->accept_retry_ns == 0) {
        return;
    }
    if (now_ns < engine->accept_retry_ns) {
        ct_engine_arm(engine, engine->accept_retry_ns);
        return;
    }
    engine->accept_retry_ns = 0;
    ct_server_accept(engine, engine->tcp_listener.fd, 0);
    ct_server_accept(engine, engine->local_listener.fd, 1);
}
