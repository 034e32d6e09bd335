/* Loops, listeners and processes where Swift tests cannot go: out of file descriptors, with their
 * memory counted, and with parents that die. */
#include <arpa/inet.h>
#include <poll.h>
#include <sanitizer/allocator_interface.h>
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

static void start(server *server)
{
    CHECK(cn_loop_start("server", on_wake, on_stop, server, &server->loop) == CN_OK);
    cn_loop_wake(server->loop);
    while (server->port == 0)
        sched_yield();
}

static void stop(server *server)
{
    cn_loop_stop(server->loop);
    cn_loop_join(server->loop);
    CHECK(server->is_gone);
    cn_loop_destroy(server->loop);
}

static int open_client(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    struct timeval timeout = {.tv_sec = 60};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    return fd;
}

static void connect_client(int fd, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
}

static int connect_to(int port)
{
    int fd = open_client();
    connect_client(fd, port);
    return fd;
}

static void ask(int fd)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    CHECK(send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == sizeof request - 1);
}

static bool is_answered(int fd)
{
    char response[512];
    ssize_t count = recv(fd, response, sizeof response, 0);
    return count > 12 && memcmp(response, "HTTP/1.1 404", 12) == 0;
}

static bool is_served(int fd)
{
    ask(fd);
    return is_answered(fd);
}

/* Out of descriptors, newcomers wait, and are served once there is room: because somebody else gave
 * a descriptor back, or because a connection ended. */
static void out_of_descriptors(void)
{
    server server = {0};
    start(&server);
    int first = connect_to(server.port), second = connect_to(server.port);
    CHECK(is_served(first));
    CHECK(is_served(second));
    /* Room for the client's side of two more connections, not for the server's. */
    struct rlimit old, tight;
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    int third = dup(0), fourth = dup(0);
    close(third);
    close(fourth);
    tight = old;
    tight.rlim_cur = (rlim_t)fourth + 1;
    CHECK(setrlimit(RLIMIT_NOFILE, &tight) == 0);
    third = open_client();
    fourth = open_client();
    CHECK(dup(0) < 0);
    connect_client(third, server.port);
    connect_client(fourth, server.port);
    ask(third);
    ask(fourth);
    /* Others are served meanwhile, for more than one round of trying to accept. */
    for (int i = 0; i < 300; i++) {
        CHECK(is_served(first));
        CHECK(poll(&(struct pollfd){.fd = third, .events = POLLIN}, 1, 1) == 0);
    }
    tight.rlim_cur++;
    CHECK(setrlimit(RLIMIT_NOFILE, &tight) == 0);
    CHECK(is_answered(third));
    close(second);
    CHECK(is_answered(fourth));
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
    stop(&server);
    close(first);
    close(third);
    close(fourth);
}

/* What a connection holds while it waits, by the sanitizer's own count. */
static void idle_connections_are_cheap(void)
{
    enum { COUNT = 400 };
    static int fds[COUNT];
    server server = {0};
    start(&server);
    int first = connect_to(server.port);
    CHECK(is_served(first));
    size_t before = __sanitizer_get_current_allocated_bytes();
    for (int i = 0; i < COUNT; i++) {
        fds[i] = connect_to(server.port);
        CHECK(is_served(fds[i]));
    }
    size_t after = __sanitizer_get_current_allocated_bytes();
    printf("an idle connection holds %zu bytes\n", (after - before) / COUNT);
    CHECK(after - before < COUNT * 2048);
    stop(&server);
    for (int i = 0; i < COUNT; i++)
        close(fds[i]);
    close(first);
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
    idle_connections_are_cheap();
    return 0;
}
