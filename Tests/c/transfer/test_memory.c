// Memory runs out at every place in turn: calls say so, nothing leaks, and nothing breaks.
#include <stdatomic.h>

#include "pair.h"

#define BLOCK_BYTES 4096u
#define BLOCKS 64u

static _Atomic int64_t passes_left;  // the allocation behind them fails, and only that one
static _Atomic uint64_t refusals;

static int refuse_one(void) {
    if (atomic_fetch_sub(&passes_left, 1) != 0) {
        return 1;
    }
    atomic_fetch_add(&refusals, 1);
    return 0;
}

static int is_memory(ct_status status) {
    CHECK(status == CT_OK || status == CT_ENOMEM);
    return status == CT_OK;
}

// The next event of a kind, or of what replaces it where memory has run out.
static ct_event next_of(ct_engine *engine, ct_event_kind kind, ct_event_kind other) {
    for (;;) {
        ct_event event = next_event(engine);
        if (event.kind == kind || event.kind == other) {
            return event;
        }
    }
}

static void transfer(
    ct_engine *client, ct_engine *server, ct_peer *peer, ct_pool *pool, ct_path path) {
    ct_region regions[CT_REGIONS_MAX];
    size_t count;
    ct_peer_regions(peer, regions, &count);
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.operation = CT_READ;
    params.peer = peer;
    params.pool = pool;
    params.block_count = count > 0 ? BLOCKS : 0;
    params.region = regions[0];
    params.epoch = 1;  // a block was fenced
    params.allowed_paths = CT_PATH_MASK(path);
    params.notification = "done";
    params.notification_bytes = 4;
    uint64_t id;
    if (!is_memory(ct_transfer_submit(client, &params, &id))) {
        return;
    }
    // The peer may have no memory to keep the notification in, or to map the region.
    ct_event event = next_of(client, CT_EVENT_TRANSFER, 0);
    CHECK(event.transfer_id == id);
    CHECK(
        event.status == CT_OK || event.status == CT_ENOMEM || event.status == CT_EPOLICY ||
        event.status == CT_EPEERDEAD);
    if (event.status == CT_OK) {
        CHECK(next_of(server, CT_EVENT_NOTIFICATION, 0).notification_bytes == 4);
    }
    ct_transfer_cancel(client, id);
}

static void with_peer(
    ct_engine *client, ct_engine *server, ct_pool *pool, uint16_t port, uint32_t paths) {
    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = port;
    params.allowed_paths = paths;
    params.stream_count = 2;
    params.timeout_ns = UINT64_C(2000000000);
    ct_peer *peer;
    if (!is_memory(ct_peer_connect(client, &params, &peer))) {
        return;
    }
    ct_event event = next_of(client, CT_EVENT_PEER_UP, CT_EVENT_PEER_DOWN);
    if (event.kind == CT_EVENT_PEER_UP) {
        for (ct_path path = CT_PATH_MEMFD; path < CT_PATH_COUNT; path++) {
            transfer(client, server, peer, pool, path);
        }
        ct_capability all[CT_PATH_COUNT];
        ct_peer_capabilities(peer, all);
        ct_capabilities(client, all);
        ct_peer_describe(peer);
        ct_engine_stats(client);
    }
    ct_peer_release(peer);
}

// Every public call that needs memory.
static void scenario(void) {
    static uint8_t memory[BLOCKS * BLOCK_BYTES];
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    ct_engine *server = NULL;
    ct_engine *client = NULL;
    ct_pool *pool = NULL;
    ct_pool *registered = NULL;
    uint16_t port;
    uint64_t epoch;
    uint32_t block = 0;
    int is_ready =
        is_memory(ct_engine_create(&params, &server)) &&
        is_memory(ct_engine_create(&params, &client)) &&
        is_memory(ct_pool_create(server, BLOCK_BYTES, BLOCKS, &pool)) &&
        is_memory(ct_pool_fence(pool, &block, 1, &epoch)) &&
        is_memory(ct_region_add(client, memory, sizeof(memory), BLOCK_BYTES, &registered)) &&
        is_memory(ct_engine_listen(server, "127.0.0.1", 0, &port));
    if (is_ready) {
        with_peer(client, server, registered, port, 0);
        with_peer(client, server, registered, port, CT_PATH_MASK(CT_PATH_TCP));
    }
    ct_pool_release(registered);
    if (registered != NULL) {
        next_of(client, CT_EVENT_REGION_GONE, 0);
    }
    ct_pool_release(pool);
    ct_engine_destroy(client);
    ct_engine_destroy(server);
}

int main(void) {
    int64_t n = 0;
    uint64_t before;
    do {
        before = atomic_load(&refusals);
        atomic_store(&passes_left, n++);
        ct_memory_set_gate(refuse_one);
        scenario();
        ct_memory_set_gate(NULL);
    } while (atomic_load(&refusals) > before);
    printf("  each of %lld allocations failed once\n", (long long)n - 1);
    CHECK(n > 20);
    puts("ok");
    return 0;
}
