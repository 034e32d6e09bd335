#include <arpa/inet.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "CScrapeFloor.h"

enum { READ_BYTES = 256 << 10, HEAD_BYTES = 4 << 10, EVENTS = 64 };

typedef struct page {
    int socket;
    int64_t due_ns;
    size_t head_bytes;
    size_t left; /* of the body; not known before the head is complete */
    bool is_running, has_head;
    char head[HEAD_BYTES + 1];
} page;

static char read_bytes[READ_BYTES];
static page *pages;
static int poller;

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static bool connect_all(const uint16_t *ports, size_t count)
{
    pages = calloc(count, sizeof *pages);
    poller = epoll_create1(0);
    if (pages == NULL || poller < 0)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(ports[i])};
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        pages[i].socket = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(pages[i].socket, (struct sockaddr *)&address, sizeof address) != 0)
            return false;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &pages[i]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, pages[i].socket, &event) != 0)
            return false;
    }
    return true;
}

static bool ask(page *page)
{
    static const char request[] = "GET /metrics HTTP/1.1\r\nhost: engine\r\n\r\n";
    page->is_running = true;
    page->has_head = false;
    page->head_bytes = page->left = 0;
    return send(page->socket, request, sizeof request - 1, 0) == sizeof request - 1;
}

/* False if the connection has failed. */
static bool take(page *page)
{
    ssize_t size = recv(page->socket, read_bytes, READ_BYTES, MSG_DONTWAIT);
    if (size <= 0)
        return false;
    size_t body = (size_t)size;
    if (!page->has_head) {
        size_t room = HEAD_BYTES - page->head_bytes, copied = body < room ? body : room;
        memcpy(page->head + page->head_bytes, read_bytes, copied);
        page->head[page->head_bytes + copied] = 0;
        const char *end = strstr(page->head, "\r\n\r\n");
        const char *length = strcasestr(page->head, "content-length:");
        if (end == NULL || length == NULL)
            return page->head_bytes += copied, copied == body;
        page->has_head = true;
        page->left = strtoul(length + 15, NULL, 10);
        body -= (size_t)(end + 4 - page->head) - page->head_bytes;
    }
    page->left -= body;
    page->is_running = page->left > 0;
    return true;
}

int csf_scrape(const uint16_t *ports, size_t count, int interval_ms, int duration_ms)
{
    if (pages == NULL && !connect_all(ports, count))
        return -1;
    int64_t interval = interval_ms * 1000000ll, start = now_ns();
    int64_t end = start + duration_ms * 1000000ll;
    for (size_t i = 0; i < count; i++)
        pages[i].due_ns = start + interval * (int64_t)i / (int64_t)count;
    int done = 0, running = 0;
    for (int64_t now = start; now < end || running > 0; now = now_ns()) {
        int64_t next = end;
        for (size_t i = 0; i < count && now < end; i++) {
            if (!pages[i].is_running && pages[i].due_ns <= now) {
                if (!ask(&pages[i]))
                    return -1;
                running++;
                pages[i].due_ns += interval;
            }
            if (pages[i].due_ns < next)
                next = pages[i].due_ns;
        }
        /* By whole milliseconds, so that what is due at nearly the same time is one wake-up. */
        int wait_ms = next > now ? (int)((next - now + 999999) / 1000000) : 1;
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, wait_ms);
        for (int i = 0; i < ready; i++) {
            page *page = events[i].data.ptr;
            if (!take(page))
                return -1;
            running -= !page->is_running;
            done += !page->is_running;
        }
    }
    return done;
}
