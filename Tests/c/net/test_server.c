/* Loops, listeners and processes where Swift tests cannot go: out of file descriptors, and with
 * parents that die. */
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "cnet.h"

typedef struct server {
    cn_loop *loop;
    cn_listener *listener;
    _Atomic(int) port; /* 0: not yet */
    _Atomic(bool) is_gone;
} server;

static void *on_request(void *user, cn_exchange *exchange, const cn_head *head)
{
    (void)user;
    (void)exchange;
    (void)head;
    return NULL;
}

static void on_gone(void *user)
{
    ((server *)user)->is_gone = true;
}

static void on_wake(void *user)
{
    server *server = user;
    if (server->listener != NULL)
        return;
    const cn_listener_config config = {
        .connection = {.max_head_bytes = 4096, .high_water_bytes = 4096, .low_water_bytes = 1024},
        .max_connection_count = 1000,
    };
    const cn_listener_events events = {on_request, on_gone};
    const cn_exchange_events exchange_events = {0};
    CHECK(cn_listener_create(server->loop, "127.0.0.1", 0, false, &config, &events,
                             &exchange_events, server, &server->listener) == CN_OK);
    server->port = cn_listener_port(server->listener);
}

static void on_stop(void *user)
{
    (void)user;
}

static int connect_to(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval timeout = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    CHECK(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

/* Whether the server answers on this connection; false if it closed it. */
static bool is_served(int fd)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    char response[512];
    if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0)
        return false;
    ssize_t count = recv(fd, response, sizeof response, 0);
    CHECK(count >= 0 || errno == ECONNRESET);
    return count > 12 && memcmp(response, "HTTP/1.1 404", 12) == 0;
}

/* Newcomers are turned away at once, and served again as soon as there is room. */
static void out_of_descriptors(void)
{
    server server = {0};
    CHECK(cn_loop_start("server", on_wake, on_stop, &server, &server.loop) == CN_OK);
    cn_loop_wake(server.loop);
    while (server.port == 0)
        sched_yield();
    int first = connect_to(server.port), second = connect_to(server.port);
    CHECK(is_served(first));
    CHECK(is_served(second));
    /* Room for the client's side of one more connection, not for the server's. */
    struct rlimit old, tight;
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    int third = dup(0);
    close(third);
    tight = old;
    tight.rlim_cur = (rlim_t)third + 1;
    CHECK(setrlimit(RLIMIT_NOFILE, &tight) == 0);
    third = connect_to(server.port);
    CHECK(third >= 0 && !is_served(third));
    CHECK(is_served(first));
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
    int fourth = connect_to(server.port);
    CHECK(is_served(fourth));
    cn_loop_stop(server.loop);
    cn_loop_join(server.loop);
    CHECK(server.is_gone);
    cn_loop_destroy(server.loop);
    close(first);
    close(second);
    close(third);
    close(fourth);
}

/* A process that follows its parent ends with it, even if the parent is killed. */
static void following_the_parent(void)
{
    int alive[2]; /* its write end is open as long as a grandchild lives */
    CHECK(pipe(alive) == 0);
    pid_t parent = fork();
    CHECK(parent >= 0);
    if (parent == 0) {
        pid_t self = getpid();
        if (fork() == 0) {
            cn_follow_parent(self, SIGKILL);
            CHECK(write(alive[1], "x", 1) == 1);
            for (;;)
                pause();
        }
        close(alive[1]);
        for (;;)
            pause();
    }
    close(alive[1]);
    char byte;
    CHECK(read(alive[0], &byte, 1) == 1);
    kill(parent, SIGKILL);
    CHECK(waitpid(parent, NULL, 0) == parent);
    alarm(10);
    CHECK(read(alive[0], &byte, 1) == 0);
    alarm(0);
    close(alive[0]);
}

int main(void)
{
    following_the_parent();
    out_of_descriptors();
    return 0;
}
