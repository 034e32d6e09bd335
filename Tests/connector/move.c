// Loads libllmd_connector.so by dlopen, as an engine does, and moves bytes between two processes
// over every path. Itself it is linked with libc alone.
//
//   move LIBRARY          run where none of the libraries that are opened at run time is installed
//   move LIBRARY found    run where all but CUDA are
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../c/transfer/support.h"
#include "CHashing.h"
#include "ctopology.h"
#include "lconnector.h"

#define BLOCK_BYTES (16u << 10)
#define BLOCKS 512u

static void *library;

#define LOADED(name) ((__typeof__(&name))load(#name))

static void *load(const char *name) {
    void *address = dlsym(library, name);
    if (address == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        abort();
    }
    return address;
}

static uint8_t expected(uint64_t offset) {
    return (uint8_t)(offset * 131 + (offset >> 10));
}

static ct_event await(ct_engine *engine) {
    uint64_t end = now_ms() + WAIT_MS;
    for (;;) {
        ct_event event;
        size_t count;
        LOADED(ct_engine_poll)(engine, &event, 1, &count);
        if (count == 1) {
            return event;
        }
        CHECK(now_ms() < end);
        struct pollfd waiting = {.fd = LOADED(ct_engine_descriptor)(engine), .events = POLLIN};
        poll(&waiting, 1, 100);
    }
}

// The other process: a pool and plain memory with the same bytes, until `stop` is closed.
static int serve(int report, int stop) {
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    params.admits_tracers = 1;
    ct_engine *engine;
    ct_pool *pools[2];
    CHECK(LOADED(ct_engine_create)(&params, &engine) == CT_OK);
    CHECK(LOADED(ct_pool_create)(engine, BLOCK_BYTES, BLOCKS, &pools[0]) == CT_OK);
    uint8_t *plain = malloc(BLOCK_BYTES * BLOCKS);
    CHECK(LOADED(ct_region_add)(
              engine, plain, BLOCK_BYTES * BLOCKS, BLOCK_BYTES, &pools[1]) == CT_OK);
    for (int i = 0; i < 2; i++) {
        uint8_t *memory = LOADED(ct_pool_memory)(pools[i]);
        for (uint64_t j = 0; j < BLOCK_BYTES * BLOCKS; j++) {
            memory[j] = expected(j);
        }
    }
    uint16_t port;
    CHECK(LOADED(ct_engine_listen)(engine, "127.0.0.1", 0, &port) == CT_OK);
    ct_region regions[2] = {
        LOADED(ct_pool_region)(pools[0]), LOADED(ct_pool_region)(pools[1])};
    CHECK(write(report, &port, sizeof(port)) == sizeof(port));
    CHECK(write(report, regions, sizeof(regions)) == sizeof(regions));
    char byte;
    CHECK(read(stop, &byte, 1) == 0);
    LOADED(ct_engine_destroy)(engine);
    free(plain);
    return 0;
}

static void move(uint16_t port, const ct_region *region, ct_path path) {
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    ct_engine *engine;
    CHECK(LOADED(ct_engine_create)(&params, &engine) == CT_OK);
    ct_pool *pool;
    CHECK(LOADED(ct_pool_create)(engine, BLOCK_BYTES, BLOCKS, &pool) == CT_OK);
    ct_connect_params connect = CT_CONNECT_PARAMS_INIT;
    connect.host = "127.0.0.1";
    connect.port = port;
    connect.allowed_paths = CT_PATH_MASK(path);
    ct_peer *peer;
    CHECK(LOADED(ct_peer_connect)(engine, &connect, &peer) == CT_OK);
    ct_event event = await(engine);
    if (event.kind != CT_EVENT_PEER_UP) {
        ct_capability capabilities[CT_PATH_COUNT];
        LOADED(ct_peer_capabilities)(peer, capabilities);
        fprintf(
            stderr, "%s: %s\n", LOADED(ct_path_name)(path), capabilities[path].reason);
        abort();
    }
    uint32_t ids[BLOCKS];
    for (uint32_t i = 0; i < BLOCKS; i++) {
        ids[i] = (7 * i + 3) % BLOCKS;
    }
    ct_transfer_params transfer = CT_TRANSFER_PARAMS_INIT;
    transfer.operation = CT_READ;
    transfer.peer = peer;
    transfer.pool = pool;
    transfer.region = *region;
    transfer.remote.ids = ids;
    transfer.block_count = BLOCKS;
    uint64_t id;
    CHECK(LOADED(ct_transfer_submit)(engine, &transfer, &id) == CT_OK);
    event = await(engine);
    if (event.kind != CT_EVENT_TRANSFER || event.status != CT_OK || event.path != path) {
        fprintf(
            stderr, "%s: event %u, %s, over %s\n", LOADED(ct_path_name)(path), event.kind,
            LOADED(ct_status_message)(event.status), LOADED(ct_path_name)(event.path));
        abort();
    }
    const uint8_t *memory = LOADED(ct_pool_memory)(pool);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        for (uint32_t j = 0; j < BLOCK_BYTES; j++) {
            CHECK(
                memory[i * BLOCK_BYTES + j] == expected((uint64_t)ids[i] * BLOCK_BYTES + j));
        }
    }
    LOADED(ct_engine_destroy)(engine);
    printf("moved %u blocks over %s\n", BLOCKS, LOADED(ct_path_name)(path));
}

static void check_capabilities(int are_found) {
    char text[8192];
    size_t length = LOADED(lc_capabilities)(text, sizeof(text));
    CHECK(length == strlen(text));
    CHECK(LOADED(lc_capabilities)(NULL, 0) == length);
    char beginning[11];
    CHECK(LOADED(lc_capabilities)(beginning, sizeof(beginning)) == length);
    CHECK(strncmp(text, beginning, 10) == 0 && beginning[10] == '\0');
    fputs(text, stdout);
    static const char *const names[] = {"ucx", "hwloc", "numa", "openssl"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        char missing[64];
        snprintf(missing, sizeof(missing), "library %s: missing", names[i]);
        CHECK((strstr(text, missing) == NULL) == are_found);
    }
}

// What cannot be had is refused with a reason, not with a crash.
static void check_refusals(void) {
    ct_topology_params params = CT_TOPOLOGY_PARAMS_INIT;
    ct_topology *topology;
    char problem[CT_PROBLEM_BYTES] = "";
    CHECK(LOADED(ct_topology_create)(&params, &topology, problem) == CT_ENOTSUP);
    CHECK(strstr(problem, "libhwloc.so.15") != NULL);
    ct_engine_params engine_params = CT_ENGINE_PARAMS_INIT;
    ct_engine *engine;
    CHECK(LOADED(ct_engine_create)(&engine_params, &engine) == CT_OK);
    ct_pool_params pool_params = CT_POOL_PARAMS_INIT;
    pool_params.block_bytes = 4096;
    pool_params.block_count = 1;
    pool_params.has_node = 1;
    ct_pool *pool;
    CHECK(LOADED(ct_pool_create_placed)(engine, &pool_params, &pool) == CT_ENOTSUP);
    LOADED(ct_engine_destroy)(engine);
}

static void check_hashing(void) {
    static const uint8_t abc[4] = {0xba, 0x78, 0x16, 0xbf};  // FIPS 180-2, B.1
    uint8_t digest[32];
    LOADED(ch_sha256)((ch_bytes){"abc", 3}, digest);
    CHECK(memcmp(digest, abc, sizeof(abc)) == 0);
}

int main(int argument_count, char **arguments) {
    CHECK(argument_count >= 2);
    int are_found = argument_count > 2;
    library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    CHECK(dlsym(RTLD_DEFAULT, "ct_engine_create") == NULL);
    CHECK(LOADED(lc_abi_version)() == LC_ABI_VERSION);
    CHECK(strcmp(LOADED(lc_version)(), LC_VERSION) == 0);
    int report[2];
    int stop[2];
    CHECK(pipe(report) == 0 && pipe(stop) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        close(stop[1]);
        return serve(report[1], stop[0]);
    }
    close(report[1]);
    uint16_t port;
    ct_region regions[2];
    CHECK(read(report[0], &port, sizeof(port)) == sizeof(port));
    CHECK(read(report[0], regions, sizeof(regions)) == sizeof(regions));
    move(port, &regions[0], CT_PATH_MEMFD);
    move(port, &regions[0], CT_PATH_TCP);
    move(port, &regions[1], CT_PATH_CMA);
    close(stop[1]);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    check_hashing();
    check_capabilities(are_found);
    if (!are_found) {
        check_refusals();
    }
    return 0;
}
