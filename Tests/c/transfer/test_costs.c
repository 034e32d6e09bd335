// What the engine promises not to do: allocate or dawdle in a submit, and wake while idle. Its
// arena and its copy, alone.
#include <dirent.h>
#include <stdatomic.h>

#include "pair.h"

#define BLOCK_BYTES (16u << 10)
#define BLOCKS 2048u
#define LISTED 1024u

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SANITIZED 1
#endif
#endif
#ifndef IS_SANITIZED
#define IS_SANITIZED 0
#endif

static _Atomic uint64_t allocations;

static int count_allocation(void) {
    atomic_fetch_add(&allocations, 1);
    return 1;
}

static int by_value(const void *left, const void *right) {
    uint64_t l = *(const uint64_t *)left;
    uint64_t r = *(const uint64_t *)right;
    return (l > r) - (l < r);
}

// A list of 1024 blocks, from the first submit on.
static void submitting(ct_path path) {
    enum { TRANSFERS = 200 };
    pair p = make_engines(BLOCK_BYTES, BLOCKS, 0);
    connect_pair(&p, CT_PATH_MASK(path), path);
    ct_transfer_params params = make_transfer(&p, CT_READ, LISTED);
    uint32_t local[LISTED];
    uint32_t remote[LISTED];
    random_distinct(local, LISTED, BLOCKS);
    random_distinct(remote, LISTED, BLOCKS);
    params.local.ids = local;
    params.remote.ids = remote;
    uint64_t times[TRANSFERS];
    atomic_store(&allocations, 0);
    ct_memory_set_gate(count_allocation);
    for (int i = 0; i < TRANSFERS; i++) {
        uint64_t begin = ct_now_ns();
        uint64_t id = submit(&p, &params);
        times[i] = ct_now_ns() - begin;
        ct_event event = expect_event(p.client, CT_EVENT_TRANSFER);
        CHECK(event.transfer_id == id && event.status == CT_OK);
    }
    ct_memory_set_gate(NULL);
    CHECK(atomic_load(&allocations) == 0);
    qsort(times, TRANSFERS, sizeof(times[0]), by_value);
    printf(
        "  %s: a submit of %u blocks takes %.1f us (median), no allocation\n", ct_path_name(path),
        LISTED, (double)times[TRANSFERS / 2] / 1000);
    CHECK(times[TRANSFERS / 2] <= (IS_SANITIZED ? 200000 : 10000));
    free_pair(&p);
}

// Transfers that were polled last keep their lists; room for them is not taken from others'.
static void lists_are_bounded(void) {
    pair p = {.server = make_engine(), .bytes = BLOCKS * 16, .block_bytes = 16};
    ct_engine_params engine_params = CT_ENGINE_PARAMS_INIT;
    engine_params.transfers_max = 2;
    engine_params.list_bytes = 64 << 10;
    CHECK_STATUS(ct_engine_create(&engine_params, &p.client), CT_OK);
    CHECK_STATUS(ct_pool_create(p.server, 16, BLOCKS, &p.server_pool), CT_OK);
    CHECK_STATUS(ct_pool_create(p.client, 16, BLOCKS, &p.client_pool), CT_OK);
    CHECK_STATUS(ct_engine_listen(p.server, "127.0.0.1", 0, &p.port), CT_OK);
    connect_pair(&p, 0, CT_PATH_MEMFD);
    ct_transfer_params params = make_transfer(&p, CT_READ, LISTED);
    for (int round = 0; round < 20; round++) {
        uint64_t id;
        submit(&p, &params);
        submit(&p, &params);
        CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EAGAIN);
        expect_event(p.client, CT_EVENT_TRANSFER);
        expect_event(p.client, CT_EVENT_TRANSFER);
    }
    uint64_t id;
    uint32_t ids[BLOCKS];
    random_distinct(ids, BLOCKS, BLOCKS);
    params.remote.ids = ids;
    params.block_count = BLOCKS;
    uint64_t first = submit(&p, &params);  // 32 KiB of 64, and the last polled has 16
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EAGAIN);
    CHECK(expect_event(p.client, CT_EVENT_TRANSFER).transfer_id == first);
    params.remote.ids = NULL;
    params.local.ids = NULL;
    params.block_count = UINT32_MAX / 16;
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_ERANGE);
    ct_pool *large;
    CHECK_STATUS(ct_pool_create(p.client, 16, 20000, &large), CT_OK);
    params.pool = large;
    params.block_count = 20000;
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EINVAL);
    ct_engine_destroy(p.client);
    ct_engine_destroy(p.server);
}

// Pieces of random sizes never overlap, and all of it is there again in the end.
static void arena(void) {
    enum { PIECES = 200, BYTES = 1 << 20 };
    ct_arena a;
    CHECK_STATUS(ct_arena_open(&a, 0), CT_EINVAL);
    CHECK_STATUS(ct_arena_open(&a, UINT64_MAX), CT_EINVAL);
    CHECK_STATUS(ct_arena_open(&a, BYTES - 5), CT_OK);
    CHECK(a.bytes == BYTES);
    uint8_t *pieces[PIECES] = {0};
    size_t bytes[PIECES];
    for (int i = 0; i < 100000; i++) {
        uint32_t at = random_below(PIECES);
        if (pieces[at] != NULL) {
            for (size_t j = 0; j < bytes[at]; j++) {
                CHECK(pieces[at][j] == (uint8_t)at);
            }
            ct_arena_give(&a, pieces[at]);
            pieces[at] = NULL;
        } else {
            bytes[at] = 1 + random_below(1u << random_below(16));
            pieces[at] = ct_arena_take(&a, bytes[at]);
            if (pieces[at] != NULL) {
                memset(pieces[at], (int)at, bytes[at]);
            }
        }
    }
    for (int i = 0; i < PIECES; i++) {
        ct_arena_give(&a, pieces[i]);
    }
    CHECK(ct_arena_take(&a, BYTES + 1) == NULL);
    void *all = ct_arena_take(&a, BYTES);
    CHECK(all != NULL && ct_arena_take(&a, 1) == NULL);
    ct_arena_give(&a, all);
    ct_arena_close(&a);
}

// Every length around the steps of the streaming copy, at every alignment of a line.
static void copies(void) {
    static uint8_t from[300 << 10];
    static uint8_t to[300 << 10];
    static const size_t lengths[] = {0, 1, 31, 64, 65, 16383, 16384, 16500, 65536, 131071, 131500};
    random_fill(from, sizeof(from));
    for (size_t i = 0; i < 64 * sizeof(lengths) / sizeof(lengths[0]); i++) {
        size_t bytes = lengths[i / 64];
        size_t at = 64 + i % 64;
        size_t source = random_below(64);
        memset(to, 0xee, sizeof(to));
        ct_copy_streaming()(to + at, from + source, bytes);
        CHECK(memcmp(to + at, from + source, bytes) == 0);
        CHECK(to[at - 1] == 0xee && to[at + bytes] == 0xee);
    }
}

// How often the engines' threads have gone to sleep and so been woken.
static uint64_t wakeups(void) {
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    uint64_t sum = 0;
    struct dirent *entry;
    while ((entry = readdir(tasks)) != NULL) {
        char path[300];
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file == NULL) {
            continue;
        }
        char line[200];
        int is_engine = 0;
        unsigned long long count;
        while (fgets(line, sizeof(line), file) != NULL) {
            is_engine |= strcmp(line, "Name:\tllmd-transfer\n") == 0;
            if (is_engine && sscanf(line, "voluntary_ctxt_switches: %llu", &count) == 1) {
                sum += count;
            }
        }
        fclose(file);
    }
    closedir(tasks);
    return sum;
}

// Two engines with every path between them and nothing to do.
static void idle(void) {
    enum { SECONDS = 3 };
    pair p = make_engines(BLOCK_BYTES, BLOCKS, 0);
    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = p.port;
    params.stream_count = 4;
    CHECK_STATUS(ct_peer_connect(p.client, &params, &p.peer), CT_OK);
    expect_event(p.client, CT_EVENT_PEER_UP);
    poll(NULL, 0, 200);
    uint64_t before = wakeups();
    poll(NULL, 0, SECONDS * 1000);
    double per_second = (double)(wakeups() - before) / SECONDS / 2;
    printf("  idle: %.1f wake-ups per engine and second\n", per_second);
    CHECK(per_second > 0 && per_second <= 10);
    free_pair(&p);
}

int main(void) {
    random_begin();
    arena();
    copies();
    for (ct_path path = CT_PATH_MEMFD; path < CT_PATH_COUNT; path++) {
        submitting(path);
    }
    lists_are_bounded();
    idle();
    puts("ok");
    return 0;
}
