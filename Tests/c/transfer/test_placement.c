// Pools on a node and of huge pages.
#include <numaif.h>
#include <sys/syscall.h>

#include "pair.h"
#include "placement.h"

#define BLOCK_BYTES (64u << 10)
#define BLOCKS 64u

static ct_pool_params pool_params(void) {
    ct_pool_params params = CT_POOL_PARAMS_INIT;
    params.block_bytes = BLOCK_BYTES;
    params.block_count = BLOCKS;
    return params;
}

// The node and the policy of a page.
static void check_node(void *memory, int expected) {
    int policy;
    int node;
    CHECK(syscall(SYS_get_mempolicy, &policy, NULL, 0, memory, MPOL_F_ADDR) == 0);
    CHECK(policy == MPOL_BIND);
    CHECK(syscall(
              SYS_get_mempolicy, &node, NULL, 0, memory, MPOL_F_ADDR | MPOL_F_NODE) == 0);
    CHECK(node == expected);
}

static size_t resident_pages(void *memory, size_t bytes) {
    static unsigned char pages[BLOCK_BYTES * BLOCKS / 4096];
    CHECK(mincore(memory, bytes, pages) == 0);
    size_t resident = 0;
    for (size_t i = 0; i < bytes / 4096; i++) {
        resident += pages[i] & 1;
    }
    return resident;
}

static void test_node(ct_engine *engine) {
    ct_pool_params params = pool_params();
    ct_pool *pool;
    CHECK_STATUS(ct_pool_create_placed(engine, &params, &pool), CT_OK);
    CHECK(resident_pages(ct_pool_memory(pool), BLOCK_BYTES * BLOCKS) < BLOCKS * 16);
    ct_pool_release(pool);

    params.has_node = 1;
    CHECK_STATUS(ct_pool_create_placed(engine, &params, &pool), CT_OK);
    CHECK(resident_pages(ct_pool_memory(pool), BLOCK_BYTES * BLOCKS) == BLOCKS * 16);
    uint8_t *memory = ct_pool_memory(pool);
    check_node(memory, 0);
    check_node(memory + BLOCK_BYTES * (BLOCKS - 1), 0);
    for (uint64_t i = 0; i < BLOCK_BYTES * BLOCKS; i++) {
        CHECK(memory[i] == 0);
    }
    ct_pool_release(pool);
}

static void test_refusals(ct_engine *engine) {
    ct_pool *pool = NULL;
    ct_pool_params params = pool_params();
    params.has_node = 1;
    params.node = 1023;
    CHECK_STATUS(ct_pool_create_placed(engine, &params, &pool), CT_EINVAL);
    params.node = UINT32_MAX;
    CHECK_STATUS(ct_pool_create_placed(engine, &params, &pool), CT_EINVAL);
    params = pool_params();
    params.has_node = 2;
    CHECK_STATUS(ct_pool_create_placed(engine, &params, &pool), CT_EINVAL);
    params = pool_params();
    params.pages = CT_PAGES_1G + 1;
    CHECK_STATUS(ct_pool_create_placed(engine, &params, &pool), CT_EINVAL);
    params = pool_params();
    params.block_count = 0;
    CHECK_STATUS(ct_pool_create_placed(engine, &params, &pool), CT_EINVAL);
    // More of them than any machine has.
    params = pool_params();
    params.pages = CT_PAGES_1G;
    params.block_count = UINT64_C(1) << 30;
    ct_status status = ct_pool_create_placed(engine, &params, &pool);
    CHECK(status == CT_ENOMEM || status == CT_ENOTSUP);
    CHECK(pool == NULL);
}

static void test_rounding(void) {
    uint64_t bytes;
    CHECK_STATUS(ct_placement_round(CT_PAGES_ADVISED, 5, &bytes), CT_OK);
    CHECK(bytes == 5);
    CHECK_STATUS(ct_placement_round(CT_PAGES_2M, 5, &bytes), CT_OK);
    CHECK(bytes == 2 << 20);
    CHECK_STATUS(ct_placement_round(CT_PAGES_2M, 4 << 20, &bytes), CT_OK);
    CHECK(bytes == 4 << 20);
    CHECK_STATUS(ct_placement_round(CT_PAGES_1G, (1 << 30) + 1, &bytes), CT_OK);
    CHECK(bytes == UINT64_C(2) << 30);
}

static uint64_t free_huge_pages(void) {
    unsigned long long count = 0;
    FILE *file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "re");
    if (file != NULL) {
        CHECK(fscanf(file, "%llu", &count) == 1);
        fclose(file);
    }
    return count;
}

// Where the machine has huge pages reserved: a peer maps such a pool, reads, and lets it go.
static void test_huge(ct_engine *engine) {
    ct_pool_params params = pool_params();
    params.pages = CT_PAGES_2M;
    uint64_t free_count = free_huge_pages();
    ct_pool *pool;
    if (free_count < 6) {
        CHECK_STATUS(ct_pool_create_placed(engine, &params, &pool), CT_ENOMEM);
        puts("placement: no huge pages are reserved here, pools of them were not tried");
        return;
    }
    for (params.has_node = 0; params.has_node <= 1; params.has_node++) {
        pair p = make_pair(BLOCK_BYTES, BLOCKS, 0);
        CHECK_STATUS(ct_pool_create_placed(p.server, &params, &pool), CT_OK);
        memset(ct_pool_memory(pool), 0x5a, BLOCK_BYTES * BLOCKS);
        ct_transfer_params transfer = make_transfer(&p, CT_READ, BLOCKS);
        transfer.region = ct_pool_region(pool);
        ct_event event;
        do {
            // Until the client has heard of it.
            uint64_t id = submit(&p, &transfer);
            event = expect_event(p.client, CT_EVENT_TRANSFER);
            CHECK(event.transfer_id == id);
        } while (event.status == CT_ENOTFOUND);
        CHECK_STATUS(event.status, CT_OK);
        CHECK(event.path == CT_PATH_MEMFD);
        CHECK(p.client_memory[BLOCK_BYTES * BLOCKS - 1] == 0x5a);
        free_pair(&p);
        // Nothing holds them any more, on either side.
        uint64_t end = now_ms() + WAIT_MS;
        while (free_huge_pages() != free_count) {
            CHECK(now_ms() < end);
            poll(NULL, 0, 1);
        }
    }
}

int main(void) {
    test_rounding();
    ct_engine *engine = make_engine();
    test_node(engine);
    test_refusals(engine);
    test_huge(engine);
    ct_engine_destroy(engine);
    puts("placement: ok");
    return 0;
}
