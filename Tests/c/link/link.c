#include "link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PACKET_BYTES 1600  // the TUN devices' MTU is 1500
#define QUEUE_PACKETS 4096  // as routers do, the relay drops what finds no room

typedef struct packet {
    uint64_t due_ns;
    uint64_t order;  // among packets that are due at once
    uint32_t bytes;
    uint8_t data[PACKET_BYTES];
} packet;

// Packets of one direction: a heap of indices by the time they are due.
typedef struct direction {
    link_rule rule;
    link_counts counts;
    uint64_t wire_free_ns;  // when the rate limit lets the next packet begin
    uint64_t passed;        // since the rule began
    size_t count;
    packet *heap[QUEUE_PACKETS];
    size_t free_count;
    packet *free[QUEUE_PACKETS];
    packet packets[QUEUE_PACKETS];
} direction;

struct test_link {
    int original_namespace;
    int namespaces[2];
    int tuns[2];
    int wake_fd;
    int is_stopping;  // under the lock, as all below
    pthread_t thread;
    pthread_mutex_t lock;
    uint64_t random;
    uint64_t order;
    direction *directions[2];
    link_event events[LINK_EVENTS_MAX];
    size_t event_next;
    size_t event_count;
    uint64_t play_ns;
};

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

// SplitMix64 (Steele, Lea, Flood 2014).
static uint64_t random_word(test_link *link) {
    uint64_t z = (link->random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static int happens(test_link *link, uint32_t per_million) {
    return per_million > 0 && random_word(link) % 1000000 < per_million;
}

// ---- The queue of a direction ----

static int is_before(const packet *a, const packet *b) {
    return a->due_ns < b->due_ns || (a->due_ns == b->due_ns && a->order < b->order);
}

static void heap_push(direction *d, packet *p) {
    size_t i = d->count++;
    for (; i > 0 && is_before(p, d->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        d->heap[i] = d->heap[(i - 1) / 2];
    }
    d->heap[i] = p;
}

static packet *heap_pop(direction *d) {
    packet *first = d->heap[0];
    packet *last = d->heap[--d->count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= d->count) {
            break;
        }
        child += child + 1 < d->count && is_before(d->heap[child + 1], d->heap[child]);
        if (!is_before(d->heap[child], last)) {
            break;
        }
        d->heap[i] = d->heap[child];
        i = child;
    }
    d->heap[i] = last;
    return first;
}

static void enqueue(test_link *link, direction *d, const uint8_t *data, uint32_t bytes) {
    if (d->free_count == 0) {
        d->counts.lost++;
        return;
    }
    uint64_t at_ns = now_ns();
    const link_rule *rule = &d->rule;
    if (rule->bytes_per_second > 0) {
        uint64_t begin_ns = at_ns > d->wire_free_ns ? at_ns : d->wire_free_ns;
        at_ns = begin_ns + bytes * UINT64_C(1000000000) / rule->bytes_per_second;
        d->wire_free_ns = at_ns;
    }
    at_ns += rule->delay_ns + (rule->jitter_ns > 0 ? random_word(link) % rule->jitter_ns : 0);
    if (happens(link, rule->reorder_per_million)) {
        at_ns += rule->reorder_ns;
        d->counts.held_back++;
    }
    packet *p = d->free[--d->free_count];
    p->due_ns = at_ns;
    p->order = link->order++;
    p->bytes = bytes;
    memcpy(p->data, data, bytes);
    heap_push(d, p);
}

static void accept_packet(test_link *link, direction *d, const uint8_t *data, uint32_t bytes) {
    const link_rule *rule = &d->rule;
    d->counts.received++;
    int is_over = rule->cut_after_packets > 0 && d->passed >= rule->cut_after_packets;
    if (rule->is_cut || is_over || happens(link, rule->loss_per_million)) {
        d->counts.lost++;
        return;
    }
    d->passed++;
    enqueue(link, d, data, bytes);
    if (happens(link, rule->duplicate_per_million)) {
        d->counts.duplicated++;
        enqueue(link, d, data, bytes);
    }
}

static void drop_all(direction *d) {
    while (d->count > 0) {
        d->free[d->free_count++] = heap_pop(d);
        d->counts.lost++;
    }
}

static void apply(test_link *link, uint32_t directions, const link_rule *rule) {
    for (int side = 0; side < 2; side++) {
        direction *d = link->directions[side];
        if (!(directions >> side & 1)) {
            continue;
        }
        d->rule = *rule;
        d->passed = 0;
        d->wire_free_ns = 0;
        if (rule->is_cut) {
            drop_all(d);
        }
    }
}

// ---- The relay ----

static void play(test_link *link) {
    uint64_t since_ns = now_ns() - link->play_ns;
    while (link->event_next < link->event_count &&
           link->events[link->event_next].at_ns <= since_ns) {
        const link_event *event = &link->events[link->event_next++];
        apply(link, event->directions, &event->rule);
    }
}

// At most so many packets in one go, so that neither direction starves the other.
static void receive(test_link *link, int side) {
    for (int i = 0; i < 64; i++) {
        uint8_t data[PACKET_BYTES];
        ssize_t bytes = read(link->tuns[side], data, sizeof(data));
        if (bytes <= 0) {
            return;
        }
        // What IPv6 tells its neighbours on its own is not counted.
        if (data[0] >> 4 == 4) {
            accept_packet(link, link->directions[side], data, (uint32_t)bytes);
        }
    }
}

// Hands over what is due. A side that takes no packet, because it is down, loses it.
static void deliver(test_link *link, int side) {
    direction *d = link->directions[side];
    uint64_t at_ns = now_ns();
    while (d->count > 0 && d->heap[0]->due_ns <= at_ns) {
        packet *p = heap_pop(d);
        int is_taken = write(link->tuns[1 - side], p->data, p->bytes) == (ssize_t)p->bytes;
        d->counts.forwarded += (uint64_t)is_taken;
        d->counts.lost += (uint64_t)!is_taken;
        d->free[d->free_count++] = p;
    }
}

static uint64_t next_ns(const test_link *link) {
    uint64_t next = UINT64_MAX;
    for (int side = 0; side < 2; side++) {
        const direction *d = link->directions[side];
        if (d->count > 0 && d->heap[0]->due_ns < next) {
            next = d->heap[0]->due_ns;
        }
    }
    if (link->event_next < link->event_count) {
        uint64_t event_ns = link->play_ns + link->events[link->event_next].at_ns;
        next = event_ns < next ? event_ns : next;
    }
    return next;
}

static void *relay(void *argument) {
    test_link *link = argument;
    pthread_mutex_lock(&link->lock);
    while (!link->is_stopping) {
        play(link);
        for (int side = 0; side < 2; side++) {
            receive(link, side);
            deliver(link, side);
        }
        uint64_t next = next_ns(link);
        pthread_mutex_unlock(&link->lock);
        uint64_t at_ns = now_ns();
        uint64_t wait_ns = next > at_ns ? next - at_ns : 0;
        struct timespec wait = {
            .tv_sec = (time_t)(wait_ns / 1000000000), .tv_nsec = (long)(wait_ns % 1000000000)};
        struct pollfd sources[] = {
            {.fd = link->tuns[0], .events = POLLIN},
            {.fd = link->tuns[1], .events = POLLIN},
            {.fd = link->wake_fd, .events = POLLIN},
        };
        ppoll(sources, 3, next == UINT64_MAX ? NULL : &wait, NULL);
        uint64_t count;
        ssize_t woken = read(link->wake_fd, &count, sizeof(count));
        (void)woken;
        pthread_mutex_lock(&link->lock);
    }
    pthread_mutex_unlock(&link->lock);
    return NULL;
}

// ---- Setting up ----

static int set_up_interface(const char *name, const char *host) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    int failed = 0;
    if (host != NULL) {
        struct sockaddr_in address = {.sin_family = AF_INET};
        inet_pton(AF_INET, host, &address.sin_addr);
        memcpy(&request.ifr_addr, &address, sizeof(address));
        failed |= ioctl(fd, SIOCSIFADDR, &request);
        address.sin_addr.s_addr = htonl(0xfffffffc);
        memcpy(&request.ifr_netmask, &address, sizeof(address));
        failed |= ioctl(fd, SIOCSIFNETMASK, &request);
    }
    failed |= ioctl(fd, SIOCGIFFLAGS, &request);
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    failed |= ioctl(fd, SIOCSIFFLAGS, &request);
    close(fd);
    return failed ? -1 : 0;
}

static int open_side(test_link *link, int side, const char **reason) {
    if (unshare(CLONE_NEWNET) != 0) {
        *reason = "no network namespace can be made (root needed)";
        return -1;
    }
    link->namespaces[side] = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    link->tuns[side] = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    snprintf(request.ifr_name, sizeof(request.ifr_name), "link%d", side);
    if (link->namespaces[side] < 0 || link->tuns[side] < 0 ||
        ioctl(link->tuns[side], TUNSETIFF, &request) != 0) {
        *reason = "no TUN device can be had (/dev/net/tun)";
        return -1;
    }
    if (set_up_interface("lo", NULL) != 0 ||
        set_up_interface(request.ifr_name, side == 0 ? LINK_HOST_0 : LINK_HOST_1) != 0) {
        *reason = "a TUN device cannot be given an address";
        return -1;
    }
    return 0;
}

static void close_fd(int fd) {
    if (fd >= 0) {
        close(fd);
    }
}

static void free_link(test_link *link) {
    for (int side = 0; side < 2; side++) {
        close_fd(link->tuns[side]);
        close_fd(link->namespaces[side]);
        free(link->directions[side]);
    }
    close_fd(link->wake_fd);
    close_fd(link->original_namespace);
    pthread_mutex_destroy(&link->lock);
    free(link);
}

test_link *link_open(uint64_t seed, const char **reason) {
    test_link *link = calloc(1, sizeof(*link));
    link->random = seed;
    link->tuns[0] = link->tuns[1] = link->namespaces[0] = link->namespaces[1] = -1;
    link->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    link->original_namespace = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    pthread_mutex_init(&link->lock, NULL);
    for (int side = 0; side < 2; side++) {
        direction *d = calloc(1, sizeof(*d));
        link->directions[side] = d;
        for (size_t i = 0; i < QUEUE_PACKETS; i++) {
            d->free[d->free_count++] = &d->packets[i];
        }
    }
    int failed = open_side(link, 0, reason) != 0 || open_side(link, 1, reason) != 0;
    setns(link->original_namespace, CLONE_NEWNET);
    if (!failed && pthread_create(&link->thread, NULL, relay, link) != 0) {
        *reason = "no thread for the relay";
        failed = 1;
    }
    if (failed) {
        free_link(link);
        return NULL;
    }
    return link;
}

test_link *link_require(uint64_t seed) {
    const char *reason;
    test_link *link = link_open(seed, &reason);
    if (link == NULL) {
        const char *ci = getenv("CI");
        int is_ci = ci != NULL && *ci != 0;
        fprintf(stderr, "!! %s: %s\n", is_ci ? "FAILED" : "SKIPPED, NOT TESTED", reason);
        exit(is_ci ? 1 : 0);
    }
    return link;
}

static void wake(test_link *link) {
    uint64_t one = 1;
    ssize_t written = write(link->wake_fd, &one, sizeof(one));
    (void)written;
}

void link_close(test_link *link) {
    pthread_mutex_lock(&link->lock);
    link->is_stopping = 1;
    pthread_mutex_unlock(&link->lock);
    wake(link);
    pthread_join(link->thread, NULL);
    free_link(link);
}

static void enter(int namespace) {
    if (setns(namespace, CLONE_NEWNET) != 0) {
        perror("setns");
        abort();
    }
}

void link_enter(const test_link *link, int side) {
    enter(link->namespaces[side]);
}

void link_leave(const test_link *link) {
    enter(link->original_namespace);
}

int link_namespace(const test_link *link, int side) {
    return link->namespaces[side];
}

void link_set(test_link *link, uint32_t directions, link_rule rule) {
    pthread_mutex_lock(&link->lock);
    apply(link, directions, &rule);
    pthread_mutex_unlock(&link->lock);
    wake(link);
}

void link_play(test_link *link, const link_event *events, size_t count) {
    pthread_mutex_lock(&link->lock);
    link->event_count = count < LINK_EVENTS_MAX ? count : LINK_EVENTS_MAX;
    memcpy(link->events, events, link->event_count * sizeof(*events));
    link->event_next = 0;
    link->play_ns = now_ns();
    pthread_mutex_unlock(&link->lock);
    wake(link);
}

link_counts link_count(test_link *link, int side) {
    pthread_mutex_lock(&link->lock);
    link_counts counts = link->directions[side]->counts;
    pthread_mutex_unlock(&link->lock);
    return counts;
}
