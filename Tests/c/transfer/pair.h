// Two engines of one process, connected, with memory of any kind on either side.
#ifndef TEST_PAIR_H
#define TEST_PAIR_H

#include <sys/mman.h>

#include "engine.h"
#include "support.h"

typedef struct pair {
    ct_engine *server;
    ct_engine *client;
    ct_pool *server_pool;
    ct_pool *client_pool;
    uint8_t *server_memory;
    uint8_t *client_memory;
    ct_peer *peer;
    ct_region region;
    uint64_t bytes;
    uint64_t block_bytes;
    uint16_t port;
    int is_registered;
} pair;

static inline uint8_t *map_memory(uint64_t bytes) {
    void *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

// Every byte of the server's memory, block by block.
static inline uint8_t server_byte(uint64_t offset) {
    return (uint8_t)(offset * 31 + (offset >> 9));
}

static inline void fill_server(const pair *p) {
    for (uint64_t i = 0; i < p->bytes; i++) {
        p->server_memory[i] = server_byte(i);
    }
}

// Not connected yet. `is_registered`: plain memory instead of pools.
static inline pair make_engines(uint64_t block_bytes, uint32_t blocks, int is_registered) {
    pair p = {
        .server = make_engine(),
        .client = make_engine(),
        .bytes = block_bytes * blocks,
        .block_bytes = block_bytes,
        .is_registered = is_registered,
    };
    if (is_registered) {
        p.server_memory = map_memory(p.bytes);
        p.client_memory = map_memory(p.bytes);
        CHECK_STATUS(
            ct_region_add(p.server, p.server_memory, p.bytes, block_bytes, &p.server_pool), CT_OK);
        CHECK_STATUS(
            ct_region_add(p.client, p.client_memory, p.bytes, block_bytes, &p.client_pool), CT_OK);
    } else {
        CHECK_STATUS(ct_pool_create(p.server, block_bytes, blocks, &p.server_pool), CT_OK);
        CHECK_STATUS(ct_pool_create(p.client, block_bytes, blocks, &p.client_pool), CT_OK);
        p.server_memory = ct_pool_memory(p.server_pool);
        p.client_memory = ct_pool_memory(p.client_pool);
    }
    fill_server(&p);
    CHECK_STATUS(ct_engine_listen(p.server, "127.0.0.1", 0, &p.port), CT_OK);
    return p;
}

static inline void connect_pair(pair *p, uint32_t paths, ct_path expected) {
    p->peer = start_connect(p->client, p->port, paths);
    CHECK(expect_event(p->client, CT_EVENT_PEER_UP).path == expected);
    p->region = only_region(p->peer);
}

static inline pair make_pair(uint64_t block_bytes, uint32_t blocks, int is_registered) {
    pair p = make_engines(block_bytes, blocks, is_registered);
    connect_pair(&p, 0, CT_PATH_MEMFD);
    return p;
}

static inline void free_pair(pair *p) {
    ct_engine_destroy(p->client);
    ct_engine_destroy(p->server);
    if (p->is_registered) {
        munmap(p->server_memory, p->bytes);
        munmap(p->client_memory, p->bytes);
    }
}

static inline ct_transfer_params make_transfer(
    const pair *p, ct_operation operation, uint32_t count) {
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.operation = operation;
    params.peer = p->peer;
    params.pool = p->client_pool;
    params.region = p->region;
    params.block_count = count;
    return params;
}

static inline uint64_t submit(const pair *p, const ct_transfer_params *params) {
    uint64_t id;
    CHECK_STATUS(ct_transfer_submit(p->client, params, &id), CT_OK);
    return id;
}

// The end of the only transfer in flight.
static inline ct_event finish(const pair *p, const ct_transfer_params *params, ct_status status) {
    uint64_t id = submit(p, params);
    ct_event event = expect_event(p->client, CT_EVENT_TRANSFER);
    CHECK(event.transfer_id == id);
    CHECK_STATUS(event.status, status);
    return event;
}

// Whether the client's first bytes are the server's.
static inline int has_server_bytes(const pair *p, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i++) {
        if (p->client_memory[i] != server_byte(i)) {
            return 0;
        }
    }
    return 1;
}

#endif
