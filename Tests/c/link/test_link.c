// The test link does what it is asked to: delay, loss, order, copies, rate, cuts and scripts.
#include <arpa/inet.h>
#include <errno.h>
#include <sys/socket.h>

#include "link.h"
#include "support.h"

#define PROBES 2000

typedef struct probe {
    uint64_t number;
    uint64_t sent_ns;
    uint8_t padding[84];
} probe;

static uint64_t clock_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int side_socket(test_link *link, int side) {
    link_enter(link, side);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(4000)};
    inet_pton(AF_INET, side == 0 ? LINK_HOST_0 : LINK_HOST_1, &address.sin_addr);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    inet_pton(AF_INET, side == 0 ? LINK_HOST_1 : LINK_HOST_0, &address.sin_addr);
    CHECK(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    link_leave(link);
    return fd;
}

typedef struct outcome {
    uint32_t received;
    uint32_t distinct;
    uint32_t disordered;
    uint64_t least_ns;
    uint64_t all_ns;
} outcome;

static int receive_probe(int fd, probe *p, int wait_ms) {
    struct pollfd waiting = {.fd = fd, .events = POLLIN};
    return poll(&waiting, 1, wait_ms) == 1 && recv(fd, p, sizeof(*p), 0) == sizeof(*p);
}

static uint64_t settled_packets(test_link *link, int side) {
    link_counts counts = link_count(link, side);
    return counts.forwarded + counts.lost;
}

// Sends probes from one side, few enough at a time that no buffer overflows, until the relay has
// decided about all of them.
static outcome send_probes(test_link *link, const int fds[2], int from, uint32_t count) {
    static uint8_t seen[PROBES];
    memset(seen, 0, sizeof(seen));
    outcome result = {.least_ns = UINT64_MAX};
    uint64_t begin_ns = clock_ns();
    uint64_t newest = 0;
    link_counts before = link_count(link, from);
    uint64_t settled = settled_packets(link, from);
    uint64_t end_ms = now_ms() + WAIT_MS;
    for (uint32_t sent = 0;;) {
        link_counts counts = link_count(link, from);
        uint64_t taken = counts.received - before.received;
        uint64_t copies = counts.duplicated - before.duplicated;
        uint64_t open = sent + copies - (settled_packets(link, from) - settled);
        while (sent < count && open < 100) {
            probe p = {.number = sent, .sent_ns = clock_ns()};
            CHECK(send(fds[from], &p, sizeof(p), 0) == sizeof(p));
            sent++;
            open++;
        }
        probe p;
        while (receive_probe(fds[1 - from], &p, 1)) {
            CHECK(p.number < count);
            uint64_t took_ns = clock_ns() - p.sent_ns;
            result.least_ns = took_ns < result.least_ns ? took_ns : result.least_ns;
            result.received++;
            result.distinct += !seen[p.number];
            seen[p.number] = 1;
            result.disordered += p.number < newest;
            newest = p.number > newest ? p.number : newest;
        }
        if (sent == count && taken == count && open == 0) {
            break;
        }
        CHECK(now_ms() < end_ms);
    }
    // What was forwarded since is in the socket by now.
    probe p;
    while (receive_probe(fds[1 - from], &p, 0)) {
        result.received++;
        result.distinct += !seen[p.number];
        seen[p.number] = 1;
    }
    result.all_ns = clock_ns() - begin_ns;
    return result;
}

static void around(const char *what, uint32_t value, uint32_t expected, uint32_t slack) {
    printf("  %s: %u of %d, asked for %u\n", what, value, PROBES, expected);
    CHECK(value + slack >= expected && value <= expected + slack);
}

static void rules(test_link *link, const int fds[2]) {
    outcome o = send_probes(link, fds, 0, 200);
    CHECK(o.received == 200 && o.distinct == 200 && o.disordered == 0);

    link_set(link, LINK_FROM_0, (link_rule){.delay_ns = 20000000});
    o = send_probes(link, fds, 0, 50);
    printf("  delay: %.1f ms, asked for 20\n", (double)o.least_ns / 1e6);
    CHECK(o.distinct == 50 && o.least_ns >= 20000000 && o.least_ns < 200000000);
    o = send_probes(link, fds, 1, 50);
    CHECK(o.distinct == 50 && o.least_ns < 20000000);

    // Five standard deviations either way.
    link_set(link, LINK_BOTH, (link_rule){.loss_per_million = 100000});
    o = send_probes(link, fds, 0, PROBES);
    CHECK(o.received == o.distinct && o.disordered == 0);
    around("lost", PROBES - o.distinct, PROBES / 10, 67);
    o = send_probes(link, fds, 1, PROBES);
    around("lost", PROBES - o.distinct, PROBES / 10, 67);

    link_set(link, LINK_FROM_0, (link_rule){.duplicate_per_million = 100000});
    o = send_probes(link, fds, 0, PROBES);
    CHECK(o.distinct == PROBES);
    around("duplicated", o.received - PROBES, PROBES / 10, 67);

    link_set(
        link, LINK_FROM_0, (link_rule){.reorder_per_million = 100000, .reorder_ns = 5000000});
    uint64_t held_back = link_count(link, 0).held_back;
    o = send_probes(link, fds, 0, PROBES);
    CHECK(o.distinct == PROBES && o.received == PROBES && o.disordered > 0);
    around("held back", (uint32_t)(link_count(link, 0).held_back - held_back), PROBES / 10, 67);

    // 500 packets of 128 bytes, IP and UDP headers included, at 640,000 bytes a second.
    link_set(link, LINK_FROM_0, (link_rule){.bytes_per_second = 640000});
    o = send_probes(link, fds, 0, 500);
    printf("  rate: %.1f ms, asked for 100\n", (double)o.all_ns / 1e6);
    CHECK(o.distinct == 500 && o.all_ns >= 95000000);
}

static void cuts(test_link *link, const int fds[2]) {
    link_set(link, LINK_BOTH, (link_rule){.is_cut = 1});
    CHECK(send_probes(link, fds, 0, 20).received == 0);
    CHECK(send_probes(link, fds, 1, 20).received == 0);
    link_set(link, LINK_FROM_1, (link_rule){0});
    CHECK(send_probes(link, fds, 0, 20).received == 0);
    CHECK(send_probes(link, fds, 1, 20).received == 20);
    link_set(link, LINK_BOTH, (link_rule){.cut_after_packets = 7});
    CHECK(send_probes(link, fds, 0, 20).distinct == 7);
    link_set(link, LINK_BOTH, (link_rule){0});
    CHECK(send_probes(link, fds, 0, 20).received == 20);

    // A cut takes what is on its way.
    link_set(link, LINK_FROM_0, (link_rule){.delay_ns = UINT64_C(3600000000000)});
    probe p = {0};
    uint64_t received = link_count(link, 0).received;
    CHECK(send(fds[0], &p, sizeof(p), 0) == sizeof(p));
    uint64_t end_ms = now_ms() + WAIT_MS;
    while (link_count(link, 0).received == received) {
        CHECK(now_ms() < end_ms);
        poll(NULL, 0, 1);
    }
    uint64_t lost = link_count(link, 0).lost;
    link_set(link, LINK_FROM_0, (link_rule){.is_cut = 1});
    CHECK(link_count(link, 0).lost == lost + 1);
    link_set(link, LINK_BOTH, (link_rule){0});
}

static void scripts(test_link *link, const int fds[2]) {
    const link_event script[] = {
        {.at_ns = 0, .directions = LINK_BOTH, .rule = {.is_cut = 1}},
        {.at_ns = 150000000, .directions = LINK_FROM_0, .rule = {0}},
    };
    uint64_t begin_ns = clock_ns();
    link_play(link, script, 2);
    uint32_t passed = 0;
    while (passed == 0) {
        passed = send_probes(link, fds, 0, 1).received;
        CHECK(clock_ns() - begin_ns < UINT64_C(20000000000));
    }
    CHECK(clock_ns() - begin_ns >= 150000000);
    CHECK(send_probes(link, fds, 1, 5).received == 0);
    link_set(link, LINK_BOTH, (link_rule){0});
}

int main(void) {
    random_begin();
    test_link *link = link_require(random_next());
    int fds[] = {side_socket(link, 0), side_socket(link, 1)};
    rules(link, fds);
    cuts(link, fds);
    scripts(link, fds);
    close(fds[0]);
    close(fds[1]);
    link_close(link);
    puts("ok");
    return 0;
}
