// What the transfer tests share: checks that name their place, random numbers from a printed seed,
// and waiting for events with a deadline.
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctransfer.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);              \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define CHECK_STATUS(expression, expected)                                                         \
    do {                                                                                           \
        ct_status status_ = (expression);                                                          \
        if (status_ != (expected)) {                                                               \
            fprintf(                                                                               \
                stderr, "%s:%d: %s: %s, not %s\n", __FILE__, __LINE__, #expression,                \
                ct_status_message(status_), ct_status_message(expected));                          \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define WAIT_MS 20000

static uint64_t random_state;

// The seed of a run: TEST_SEED, or the clock.
static inline void random_begin(void) {
    const char *text = getenv("TEST_SEED");
    random_state = text != NULL ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)random_state);
    fflush(stdout);
}

// SplitMix64 (Steele, Lea, Flood 2014).
static inline uint64_t random_next(void) {
    uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline uint32_t random_below(uint32_t bound) {
    return (uint32_t)(random_next() % bound);
}

static inline void random_fill(void *memory, size_t bytes) {
    uint8_t *to = memory;
    for (size_t i = 0; i < bytes; i++) {
        to[i] = (uint8_t)random_next();
    }
}

// `count` distinct numbers below `bound`, in random order.
static inline void random_distinct(uint32_t *ids, uint32_t count, uint32_t bound) {
    uint32_t *all = malloc(bound * sizeof(*all));
    for (uint32_t i = 0; i < bound; i++) {
        all[i] = i;
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t j = i + random_below(bound - i);
        uint32_t id = all[j];
        all[j] = all[i];
        all[i] = id;
        ids[i] = id;
    }
    free(all);
}

static inline uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

// The next event; fails the test after WAIT_MS.
static inline ct_event next_event(ct_engine *engine) {
    uint64_t end = now_ms() + WAIT_MS;
    for (;;) {
        ct_event event;
        size_t count;
        ct_engine_poll(engine, &event, 1, &count);
        if (count == 1) {
            return event;
        }
        uint64_t now = now_ms();
        CHECK(now < end);
        struct pollfd waiting = {.fd = ct_engine_descriptor(engine), .events = POLLIN};
        poll(&waiting, 1, (int)(end - now));
    }
}

// The next event, which must be of this kind.
static inline ct_event expect_event(ct_engine *engine, ct_event_kind kind) {
    ct_event event = next_event(engine);
    if (event.kind != kind) {
        fprintf(
            stderr, "event %u (%s) instead of %u\n", event.kind, ct_status_message(event.status),
            kind);
        abort();
    }
    return event;
}

// A byte that another thread may be writing: only its change is waited for.
__attribute__((no_sanitize("thread"))) static inline uint8_t peek(const volatile uint8_t *byte) {
    return *byte;
}

static inline void wait_for_byte(const uint8_t *byte, uint8_t value) {
    uint64_t end = now_ms() + WAIT_MS;
    while (peek(byte) != value) {
        CHECK(now_ms() < end);
        poll(NULL, 0, 1);
    }
}

static inline ct_engine *make_engine(void) {
    ct_engine *engine;
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    CHECK_STATUS(ct_engine_create(&params, &engine), CT_OK);
    return engine;
}

static inline ct_peer *start_connect(ct_engine *engine, uint16_t port, uint32_t paths) {
    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = port;
    params.allowed_paths = paths;
    ct_peer *peer;
    CHECK_STATUS(ct_peer_connect(engine, &params, &peer), CT_OK);
    return peer;
}

// A peer that is up over the one path allowed.
static inline ct_peer *connect_over(ct_engine *engine, uint16_t port, ct_path path) {
    ct_peer *peer = start_connect(engine, port, CT_PATH_MASK(path));
    ct_event event = expect_event(engine, CT_EVENT_PEER_UP);
    CHECK(event.peer_id == ct_peer_id(peer));
    CHECK(event.path == path);
    return peer;
}

static inline ct_region only_region(ct_peer *peer) {
    ct_region regions[CT_REGIONS_MAX];
    size_t count;
    ct_peer_regions(peer, regions, &count);
    CHECK(count == 1);
    return regions[0];
}

#endif
