// A test link: two network namespaces of this process, joined by a relay that does to the packets
// what bad networks do. Needs root and /dev/net/tun.
//
// A namespace belongs to a thread and is handed on to the threads it starts: enter a side, make
// what shall live there (its sockets, its engine), and leave. So both ends of a connection can be
// in one process, and their memory can be compared.
#ifndef TEST_LINK_H
#define TEST_LINK_H

#include <stddef.h>
#include <stdint.h>

// The addresses of the two sides.
#define LINK_HOST_0 "10.213.0.1"
#define LINK_HOST_1 "10.213.0.2"

// Directions, by the side that sends.
#define LINK_FROM_0 1u
#define LINK_FROM_1 2u
#define LINK_BOTH (LINK_FROM_0 | LINK_FROM_1)

// What happens to the packets of one direction. All zero: a perfect wire.
typedef struct link_rule {
    uint64_t delay_ns;
    uint64_t jitter_ns;           // added at random, up to this; may change the order
    uint32_t loss_per_million;
    uint32_t duplicate_per_million;
    uint32_t reorder_per_million;  // held back by reorder_ns more
    uint64_t reorder_ns;
    uint64_t bytes_per_second;    // 0: no limit
    uint32_t is_cut;              // 1: nothing passes, and what is on its way is lost
    uint32_t cut_after_packets;   // so many pass, then as if cut; 0: no such end
} link_rule;

// A rule that begins so long after link_play.
typedef struct link_event {
    uint64_t at_ns;
    uint32_t directions;
    link_rule rule;
} link_event;

typedef struct link_counts {
    uint64_t received;  // from the sending side
    uint64_t forwarded;
    uint64_t lost;      // by chance, by a cut, or for want of room
    uint64_t duplicated;
    uint64_t held_back;
} link_counts;

typedef struct test_link test_link;

// Makes the namespaces and starts the relay; random decisions follow from the seed. NULL where this
// machine cannot: `reason` then says why.
test_link *link_open(uint64_t seed, const char **reason);
// As link_open; where it cannot be had the program says so and ends: with success, unless CI is set
// in the environment.
test_link *link_require(uint64_t seed);
void link_close(test_link *link);

// Moves the calling thread to a side, and back to where it was before link_open.
void link_enter(const test_link *link, int side);
void link_leave(const test_link *link);
// The side's namespace, for setns in another process. Stays the link's.
int link_namespace(const test_link *link, int side);

// The rule from now on. Packets on their way keep the time they were given, unless they are cut.
void link_set(test_link *link, uint32_t directions, link_rule rule);
// Applies rules at their times, in ascending order; at most LINK_EVENTS_MAX. Replaces what is left
// of an earlier script.
#define LINK_EVENTS_MAX 64
void link_play(test_link *link, const link_event *events, size_t count);
// What has become of the packets from a side.
link_counts link_count(test_link *link, int side);

#endif
