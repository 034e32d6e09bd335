// Engines over a bad network. Whatever it does, every transfer ends in time with the exact list of
// its failed blocks, memory is left alone after the final event, and when the network heals the
// peer is reached again.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "link.h"
#include "stamp.h"

#define BLOCK_BYTES (16u << 10)
#define LOT 160u       // blocks of a transfer: several requests
#define TRANSFERS 6u   // of a storm
#define STORM_BLOCKS (LOT * TRANSFERS)
#define BLOCKS (STORM_BLOCKS + LOT)  // the last are probes of a healed network
#define DEADLINE_MS 600u
#define HEARTBEAT_MS 100u
#define LEASE_MS 1000u
// How much later than promised an event may come: the machine may be busy with other things.
#define SLACK_MS 4000u
#define MS UINT64_C(1000000)

#define CANARY UINT64_C(0xcafe0000cafe0000)

typedef struct world {
    test_link *link;
    ct_engine *engines[2];  // the second is NULL where another process has that side
    ct_pool *pools[2];
    ct_peer *peer;  // the second engine, as the first sees it
    ct_region region;
    uint32_t timeout_ms;
    uint32_t lease_ms;
    uint64_t round;
    uint16_t port;
} world;

typedef struct lot {
    uint64_t id;
    ct_operation operation;
    uint32_t local[LOT];
    uint32_t remote[LOT];
    uint8_t is_failed[LOT];
} lot;

static uint8_t *block_at(const world *w, int side, uint32_t block) {
    return (uint8_t *)ct_pool_memory(w->pools[side]) + (uint64_t)block * BLOCK_BYTES;
}

static ct_engine *make_timed(uint32_t heartbeat_ms, uint32_t lease_ms) {
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    params.heartbeat_ns = heartbeat_ms * MS;
    params.lease_ns = lease_ms * MS;
    ct_engine *engine;
    CHECK_STATUS(ct_engine_create(&params, &engine), CT_OK);
    return engine;
}

static ct_event event_by(ct_engine *engine, uint64_t end_ms) {
    for (;;) {
        ct_event event;
        size_t count;
        ct_engine_poll(engine, &event, 1, &count);
        if (count == 1) {
            return event;
        }
        uint64_t now = now_ms();
        CHECK(now < end_ms);
        struct pollfd waiting = {.fd = ct_engine_descriptor(engine), .events = POLLIN};
        poll(&waiting, 1, (int)(end_ms - now));
    }
}

static void connect_world(world *w, uint32_t reconnect_ms) {
    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = LINK_HOST_1;
    params.port = w->port;
    params.allowed_paths = CT_PATH_MASK(CT_PATH_TCP);
    params.stream_count = 2;
    params.reconnect_ns = reconnect_ms * MS;
    params.reconnect_max_ns = 4 * params.reconnect_ns;
    params.timeout_ns = 2000 * MS;
    uint64_t end_ms = now_ms() + WAIT_MS;
    for (;;) {
        CHECK_STATUS(ct_peer_connect(w->engines[0], &params, &w->peer), CT_OK);
        ct_event event = event_by(w->engines[0], end_ms);
        if (event.kind == CT_EVENT_PEER_UP) {
            break;
        }
        CHECK(event.kind == CT_EVENT_PEER_DOWN);
        ct_peer_release(w->peer);
    }
    w->region = only_region(w->peer);
}

// Both sides in this process.
static world make_world(uint32_t heartbeat_ms, uint32_t lease_ms, uint32_t timeout_ms) {
    world w = {
        .link = link_require(random_next()), .timeout_ms = timeout_ms, .lease_ms = lease_ms};
    for (int side = 0; side < 2; side++) {
        link_enter(w.link, side);
        w.engines[side] = make_timed(heartbeat_ms, lease_ms);
        CHECK_STATUS(
            ct_pool_create(w.engines[side], BLOCK_BYTES, BLOCKS, &w.pools[side]), CT_OK);
        if (side == 1) {
            CHECK_STATUS(ct_engine_listen(w.engines[1], LINK_HOST_1, 0, &w.port), CT_OK);
        }
        link_leave(w.link);
    }
    return w;
}

static void end_world(world *w) {
    ct_engine_destroy(w->engines[0]);
    ct_engine_destroy(w->engines[1]);
    link_close(w->link);
}

static uint64_t submit_lot(world *w, const lot *l, uint32_t timeout_ms) {
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.operation = l->operation;
    params.peer = w->peer;
    params.pool = w->pools[0];
    params.region = w->region;
    params.epoch = w->pools[1] != NULL ? ct_pool_epoch(w->pools[1]) : 0;
    params.local.ids = l->local;
    params.remote.ids = l->remote;
    params.block_count = LOT;
    params.timeout_ns = timeout_ms * MS;
    uint64_t id;
    CHECK_STATUS(ct_transfer_submit(w->engines[0], &params, &id), CT_OK);
    return id;
}

// The bytes that a transfer of this round brings to a block of this number.
static uint64_t stamp_of(const world *w, uint32_t block) {
    return w->round << 32 | block;
}

// Reads and writes in turn, over blocks in random order, all under way at once.
static void begin_storm(world *w, lot lots[TRANSFERS]) {
    static uint32_t local[STORM_BLOCKS];
    static uint32_t remote[STORM_BLOCKS];
    random_distinct(local, STORM_BLOCKS, STORM_BLOCKS);
    random_distinct(remote, STORM_BLOCKS, STORM_BLOCKS);
    w->round++;
    for (uint32_t i = 0; i < TRANSFERS; i++) {
        lot *l = &lots[i];
        l->operation = i % 2 == 0 ? CT_READ : CT_WRITE;
        memcpy(l->local, local + i * LOT, sizeof(l->local));
        memcpy(l->remote, remote + i * LOT, sizeof(l->remote));
        for (uint32_t j = 0; j < LOT; j++) {
            int source = l->operation == CT_READ;
            uint32_t from = source ? l->remote[j] : l->local[j];
            uint32_t to = source ? l->local[j] : l->remote[j];
            stamp_fill(block_at(w, source, from), BLOCK_BYTES, stamp_of(w, from));
            stamp_fill(block_at(w, !source, to), BLOCK_BYTES, 0);
        }
    }
    for (uint32_t i = 0; i < TRANSFERS; i++) {
        lots[i].id = submit_lot(w, &lots[i], w->timeout_ms);
    }
}

// A block that is not in the list is whole; and from now on the local blocks are ours.
static void take_final(world *w, lot *l, const ct_event *event) {
    check_final(event, LOT, BLOCK_BYTES);
    CHECK(event->elapsed_ns <= (w->timeout_ms + w->lease_ms + SLACK_MS) * MS);
    CHECK(event->status != CT_ETIMEDOUT || event->elapsed_ns >= w->timeout_ms * MS);
    memset(l->is_failed, 0, sizeof(l->is_failed));
    for (uint32_t i = 0; i < event->failed_count; i++) {
        l->is_failed[event->failed[i]] = 1;
    }
    for (uint32_t i = 0; i < LOT; i++) {
        int reads = l->operation == CT_READ;
        uint32_t source = reads ? l->remote[i] : l->local[i];
        uint32_t target = reads ? l->local[i] : l->remote[i];
        CHECK(
            l->is_failed[i] ||
            stamp_holds(block_at(w, !reads, target), BLOCK_BYTES, stamp_of(w, source)));
    }
    for (uint32_t i = 0; i < LOT; i++) {
        stamp_fill(block_at(w, 0, l->local[i]), BLOCK_BYTES, CANARY | l->local[i]);
    }
}

typedef struct toll {
    uint32_t failed_transfers;
    uint32_t failed_blocks;
    int is_down;
} toll;

static toll end_storm(world *w, lot lots[TRANSFERS]) {
    toll t = {0};
    uint64_t end_ms = now_ms() + w->timeout_ms + w->lease_ms + SLACK_MS;
    for (uint32_t left = TRANSFERS; left > 0;) {
        ct_event event = event_by(w->engines[0], end_ms);
        if (event.kind != CT_EVENT_TRANSFER) {
            t.is_down = event.kind == CT_EVENT_PEER_DOWN;
            continue;
        }
        lot *l = lots;
        while (l < lots + TRANSFERS && l->id != event.transfer_id) {
            l++;
        }
        CHECK(l < lots + TRANSFERS);
        take_final(w, l, &event);
        l->id = 0;
        left--;
        t.failed_transfers += event.status != CT_OK;
        t.failed_blocks += event.failed_count;
    }
    return t;
}

// The remote blocks of failed writes are their owner's again once they are fenced and settled.
static void reclaim(world *w, const lot lots[TRANSFERS]) {
    uint32_t blocks[STORM_BLOCKS];
    size_t count = 0;
    for (uint32_t i = 0; i < TRANSFERS; i++) {
        for (uint32_t j = 0; j < LOT && lots[i].operation == CT_WRITE; j++) {
            if (lots[i].is_failed[j]) {
                blocks[count++] = lots[i].remote[j];
            }
        }
    }
    uint64_t epoch;
    CHECK_STATUS(ct_pool_fence(w->pools[1], blocks, count, &epoch), CT_OK);
    uint64_t end_ms = now_ms() + WAIT_MS;
    while (ct_pool_settled(w->pools[1]) < epoch) {
        CHECK(now_ms() < end_ms);
        poll(NULL, 0, 1);
    }
    for (size_t i = 0; i < count; i++) {
        stamp_fill(block_at(w, 1, blocks[i]), BLOCK_BYTES, CANARY | blocks[i]);
    }
}

// Nothing has written to what a final event gave back.
static void check_canaries(const world *w, const lot lots[TRANSFERS]) {
    for (uint32_t i = 0; i < TRANSFERS; i++) {
        for (uint32_t j = 0; j < LOT; j++) {
            const lot *l = &lots[i];
            CHECK(stamp_holds(
                block_at(w, 0, l->local[j]), BLOCK_BYTES, CANARY | l->local[j]));
            if (l->operation == CT_WRITE && w->pools[1] != NULL) {
                uint64_t stamp = l->is_failed[j] ? CANARY | l->remote[j]
                                                 : stamp_of(w, l->local[j]);
                CHECK(stamp_holds(block_at(w, 1, l->remote[j]), BLOCK_BYTES, stamp));
            }
        }
    }
}

// Reads the last blocks; what has to do with the peer coming and going is waited out.
static void probe(world *w) {
    lot l = {.operation = CT_READ};
    for (uint32_t i = 0; i < LOT; i++) {
        l.local[i] = l.remote[i] = STORM_BLOCKS + i;
        if (w->pools[1] != NULL) {
            stamp_fill(block_at(w, 1, l.remote[i]), BLOCK_BYTES, l.remote[i]);
        }
    }
    uint64_t end_ms = now_ms() + WAIT_MS;
    for (;;) {
        l.id = submit_lot(w, &l, WAIT_MS);
        ct_event event = event_by(w->engines[0], end_ms);
        while (event.kind != CT_EVENT_TRANSFER || event.transfer_id != l.id) {
            CHECK(event.kind == CT_EVENT_PEER_UP || event.kind == CT_EVENT_PEER_DOWN);
            event = event_by(w->engines[0], end_ms);
        }
        if (event.status == CT_OK) {
            break;
        }
        CHECK(event.status == CT_EPEERDEAD || event.status == CT_EUNREACH);
        poll(NULL, 0, 10);
    }
    for (uint32_t i = 0; i < LOT; i++) {
        CHECK(stamp_holds(block_at(w, 0, l.local[i]), BLOCK_BYTES, l.remote[i]));
    }
}

static void describe(const char *name, const toll *t, uint64_t began_ms) {
    printf(
        "  %s: %u of %u transfers and %u blocks failed%s, %llu ms\n", name, t->failed_transfers,
        TRANSFERS, t->failed_blocks, t->is_down ? ", peer down" : "",
        (unsigned long long)(now_ms() - began_ms));
    fflush(stdout);
}

// A network that is bad, but that a patient engine gets everything through.
static void endured(const char *name, link_rule rule, uint32_t heals_after_ms) {
    uint32_t descriptors = open_descriptors();
    uint64_t began_ms = now_ms();
    world w = make_world(1000, 15000, WAIT_MS);
    lot lots[TRANSFERS];
    connect_world(&w, 0);
    link_set(w.link, LINK_BOTH, rule);
    if (heals_after_ms > 0) {
        const link_event heals = {.at_ns = heals_after_ms * MS, .directions = LINK_BOTH};
        link_play(w.link, &heals, 1);
    }
    begin_storm(&w, lots);
    toll t = end_storm(&w, lots);
    describe(name, &t, began_ms);
    CHECK(t.failed_transfers == 0 && !t.is_down);
    check_canaries(&w, lots);
    end_world(&w);
    CHECK(open_descriptors() == descriptors);
}

typedef enum ending { CONNECTS_ANEW, RECONNECTS, STAYS_UP } ending;

// A network that breaks in the middle, or is too slow for the deadline. In the end the caller
// connects anew, or the engine finds its peer again by itself, or has never given it up.
static void broken(const char *name, link_rule from_0, link_rule from_1, ending ending) {
    uint32_t descriptors = open_descriptors();
    uint64_t began_ms = now_ms();
    world w = make_world(HEARTBEAT_MS, ending == STAYS_UP ? WAIT_MS : LEASE_MS, DEADLINE_MS);
    lot lots[TRANSFERS];
    connect_world(&w, ending == RECONNECTS ? 20 : 0);
    link_set(w.link, LINK_FROM_0, from_0);
    link_set(w.link, LINK_FROM_1, from_1);
    begin_storm(&w, lots);
    toll t = end_storm(&w, lots);
    describe(name, &t, began_ms);
    CHECK(t.failed_transfers > 0 && !(t.is_down && ending == STAYS_UP));
    reclaim(&w, lots);
    link_set(w.link, LINK_BOTH, (link_rule){0});
    if (ending == CONNECTS_ANEW) {
        ct_peer_release(w.peer);
        connect_world(&w, 0);
    }
    // What was on its way is given the time to arrive where it must not.
    uint64_t end_ms = now_ms() + 300;
    do {
        probe(&w);
    } while (now_ms() < end_ms);
    check_canaries(&w, lots);
    w.timeout_ms = WAIT_MS;
    begin_storm(&w, lots);
    end_storm(&w, lots);
    end_world(&w);
    CHECK(open_descriptors() == descriptors);
}

// ---- A host that vanishes ----

// The other process: PROGRAM serve REPORT-FD NAMESPACE-FD PORT. Runs until it is killed.
static int serve(char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    CHECK(setns(atoi(arguments[3]), CLONE_NEWNET) == 0);
    ct_engine *engine = make_timed(HEARTBEAT_MS, LEASE_MS);
    ct_pool *pool;
    uint16_t port;
    CHECK_STATUS(ct_pool_create(engine, BLOCK_BYTES, BLOCKS, &pool), CT_OK);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        uint8_t *memory = ct_pool_memory(pool);
        stamp_fill(memory + (uint64_t)i * BLOCK_BYTES, BLOCK_BYTES, i);
    }
    CHECK_STATUS(
        ct_engine_listen(engine, LINK_HOST_1, (uint16_t)atoi(arguments[4]), &port), CT_OK);
    CHECK(write(atoi(arguments[2]), &port, sizeof(port)) == sizeof(port));
    for (;;) {
        pause();
    }
}

static pid_t start_host(world *w) {
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        char texts[3][16];
        // Copies, unlike the originals, stay open over the exec.
        snprintf(texts[0], 16, "%d", dup(ends[1]));
        snprintf(texts[1], 16, "%d", dup(link_namespace(w->link, 1)));
        snprintf(texts[2], 16, "%u", w->port);
        execl(
            "/proc/self/exe", "test_faults", "serve", texts[0], texts[1], texts[2], (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    CHECK(read(ends[0], &w->port, sizeof(w->port)) == sizeof(w->port));
    close(ends[0]);
    return pid;
}

static void kill_host(pid_t pid) {
    CHECK(kill(pid, SIGKILL) == 0);
    CHECK(waitpid(pid, NULL, 0) == pid);
}

// No word of the end gets out: neither reset nor end of stream.
static void vanished(void) {
    uint32_t descriptors = open_descriptors();
    world w = {
        .link = link_require(random_next()), .timeout_ms = DEADLINE_MS, .lease_ms = LEASE_MS};
    link_enter(w.link, 0);
    w.engines[0] = make_timed(HEARTBEAT_MS, LEASE_MS);
    link_leave(w.link);
    CHECK_STATUS(ct_pool_create(w.engines[0], BLOCK_BYTES, BLOCKS, &w.pools[0]), CT_OK);
    pid_t host = start_host(&w);
    connect_world(&w, 0);
    probe(&w);
    lot lots[TRANSFERS];
    for (uint32_t i = 0; i < TRANSFERS; i++) {
        lots[i].operation = i % 2 == 0 ? CT_READ : CT_WRITE;
        for (uint32_t j = 0; j < LOT; j++) {
            lots[i].local[j] = lots[i].remote[j] = i * LOT + j;
            stamp_fill(block_at(&w, 0, i * LOT + j), BLOCK_BYTES, i * LOT + j);
        }
    }
    link_rule rule = {.bytes_per_second = 4 << 20, .cut_after_packets = 1500};
    link_set(w.link, LINK_BOTH, rule);
    for (uint32_t i = 0; i < TRANSFERS; i++) {
        lots[i].id = submit_lot(&w, &lots[i], DEADLINE_MS);
    }
    uint64_t end_ms = now_ms() + WAIT_MS;
    while (link_count(w.link, 0).lost + link_count(w.link, 1).lost == 0) {
        CHECK(now_ms() < end_ms);
        poll(NULL, 0, 1);
    }
    link_set(w.link, LINK_BOTH, (link_rule){.is_cut = 1});
    kill_host(host);
    uint64_t vanished_ms = now_ms();
    uint32_t failed = 0;
    int is_down = 0;
    for (uint32_t left = TRANSFERS + 1; left > 0; left--) {
        ct_event event = event_by(
            w.engines[0], vanished_ms + DEADLINE_MS + LEASE_MS + HEARTBEAT_MS + SLACK_MS);
        if (event.kind == CT_EVENT_PEER_DOWN) {
            CHECK_STATUS(event.status, CT_EPEERDEAD);
            printf(
                "  vanished: known %llu ms later, lease %u ms\n",
                (unsigned long long)(now_ms() - vanished_ms), LEASE_MS);
            is_down = 1;
            continue;
        }
        check_final(&event, LOT, BLOCK_BYTES);
        lot *l = lots;
        while (l < lots + TRANSFERS && l->id != event.transfer_id) {
            l++;
        }
        CHECK(l < lots + TRANSFERS);
        memset(l->is_failed, 0, sizeof(l->is_failed));
        for (uint32_t i = 0; i < event.failed_count; i++) {
            l->is_failed[event.failed[i]] = 1;
        }
        for (uint32_t i = 0; i < LOT; i++) {
            uint8_t *block = block_at(&w, 0, l->local[i]);
            CHECK(l->is_failed[i] || stamp_holds(block, BLOCK_BYTES, l->local[i]));
            stamp_fill(block, BLOCK_BYTES, CANARY | l->local[i]);
        }
        failed += event.status != CT_OK;
    }
    CHECK(failed > 0 && is_down);

    // Back on the same address, the host is another engine, and the old region is none of its own.
    ct_region old_region = w.region;
    ct_peer_release(w.peer);
    host = start_host(&w);
    link_set(w.link, LINK_BOTH, (link_rule){0});
    connect_world(&w, 0);
    CHECK(w.region.generation != old_region.generation);
    probe(&w);
    check_canaries(&w, lots);
    w.region = old_region;
    lots[0].id = submit_lot(&w, &lots[0], WAIT_MS);
    ct_event event = event_by(w.engines[0], now_ms() + WAIT_MS);
    CHECK(event.transfer_id == lots[0].id && event.failed_count == LOT);
    CHECK_STATUS(event.status, CT_ESTALE);
    check_canaries(&w, lots);
    ct_engine_destroy(w.engines[0]);
    link_close(w.link);
    kill_host(host);
    CHECK(open_descriptors() == descriptors);
}

int main(int count, char **arguments) {
    if (count == 5 && strcmp(arguments[1], "serve") == 0) {
        return serve(arguments);
    }
    random_begin();
    link_rule good = {0};
    link_rule cut = {.is_cut = 1};
    link_rule cut_later = {.cut_after_packets = 1500};
    endured("1 ms and 1 % loss", (link_rule){.delay_ns = MS, .loss_per_million = 10000}, 0);
    endured(
        "order and copies",
        (link_rule){
            .jitter_ns = MS / 5,
            .reorder_per_million = 50000,
            .reorder_ns = 2 * MS,
            .duplicate_per_million = 50000},
        0);
    endured("a short cut", (link_rule){.cut_after_packets = 1500}, 300);
    broken("a cut in the middle", cut_later, cut_later, RECONNECTS);
    broken("a cut in the middle, connected anew", cut_later, cut_later, CONNECTS_ANEW);
    broken("a black hole", cut, cut, RECONNECTS);
    broken("a hole on the way there", cut, good, RECONNECTS);
    broken("a hole on the way back", good, cut, RECONNECTS);
    broken("a hole on the way there in the middle", cut_later, good, CONNECTS_ANEW);
    broken("a hole on the way back in the middle", good, cut_later, RECONNECTS);
    link_rule slow = {.bytes_per_second = 3 << 20};
    broken("a deadline in the middle", slow, slow, STAYS_UP);
    vanished();
    puts("ok");
    return 0;
}
