// Memory of the caller: transfers to and from it, and its way out of the engine.
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "pair.h"

#define BLOCK_BYTES (64u << 10)
#define BLOCKS 64u

// The calls of cma.c end up here. A child stops itself at its first write, before or behind it.
static int stops_at_write;
// So many reads of more than the proof pass; the next one fails with `error`. -1: all pass.
static _Atomic int reads_left = -1;
static _Atomic int read_error;

ssize_t process_vm_writev(
    pid_t pid, const struct iovec *local, unsigned long local_count, const struct iovec *remote,
    unsigned long remote_count, unsigned long flags) {
    if (stops_at_write) {
        stops_at_write = 0;
        raise(SIGSTOP);
    }
    return syscall(
        SYS_process_vm_writev, pid, local, local_count, remote, remote_count, flags);
}

ssize_t process_vm_readv(
    pid_t pid, const struct iovec *local, unsigned long local_count, const struct iovec *remote,
    unsigned long remote_count, unsigned long flags) {
    if (local_count > 1 && atomic_load(&reads_left) >= 0 &&
        atomic_fetch_sub(&reads_left, 1) == 0) {
        errno = atomic_load(&read_error);
        return -1;
    }
    return syscall(SYS_process_vm_readv, pid, local, local_count, remote, remote_count, flags);
}

static void fail_read(int number, int error) {
    atomic_store(&read_error, error);
    atomic_store(&reads_left, number);
}

// Both ways, between plain memory on both sides.
static void both_ways(uint32_t paths, ct_path expected) {
    pair p = make_engines(BLOCK_BYTES, BLOCKS, 1);
    p.peer = start_connect(p.client, p.port, paths);
    expect_event(p.client, CT_EVENT_PEER_UP);
    p.region = only_region(p.peer);
    CHECK(p.region.size_bytes == p.bytes && p.region.block_bytes == BLOCK_BYTES);
    ct_transfer_params params = make_transfer(&p, CT_READ, BLOCKS);
    ct_event event = finish(&p, &params, CT_OK);
    CHECK(event.path == expected && event.transferred_bytes == p.bytes);
    CHECK(has_server_bytes(&p, p.bytes));
    memset(p.server_memory, 0, p.bytes);
    params.operation = CT_WRITE;
    CHECK(finish(&p, &params, CT_OK).path == expected);
    for (uint64_t i = 0; i < p.bytes; i++) {
        CHECK(p.server_memory[i] == server_byte(i));
    }
    free_pair(&p);
}

static void sizes(void) {
    ct_engine *engine = make_engine();
    uint8_t memory[100];
    ct_pool *pool;
    CHECK_STATUS(ct_region_add(engine, NULL, 100, 10, &pool), CT_EINVAL);
    CHECK_STATUS(ct_region_add(engine, memory, 100, 0, &pool), CT_EINVAL);
    CHECK_STATUS(ct_region_add(engine, memory, 9, 10, &pool), CT_EINVAL);
    CHECK_STATUS(ct_region_add(engine, memory, UINT64_MAX - 8, 10, &pool), CT_EINVAL);
    // The last block is half a block: it can be fenced.
    CHECK_STATUS(ct_region_add(engine, memory, 95, 10, &pool), CT_OK);
    CHECK(ct_pool_memory(pool) == memory && ct_pool_region(pool).size_bytes == 95);
    uint32_t block = 9;
    uint64_t epoch;
    CHECK_STATUS(ct_pool_fence(pool, &block, 1, &epoch), CT_OK);
    block = 10;
    CHECK_STATUS(ct_pool_fence(pool, &block, 1, &epoch), CT_ERANGE);
    ct_region region = ct_pool_region(pool);
    ct_pool_release(pool);
    ct_event event = expect_event(engine, CT_EVENT_REGION_GONE);
    CHECK(event.region.generation == region.generation && event.region.id == region.id);
    ct_engine_destroy(engine);
}

// Once it is gone, the local memory of a transfer can be unmapped: a touch would be fatal.
static void remove_local(uint32_t paths, ct_operation operation) {
    enum { TRANSFERS = 50 };
    pair p = make_engines(BLOCK_BYTES, BLOCKS, 1);
    p.peer = start_connect(p.client, p.port, paths);
    expect_event(p.client, CT_EVENT_PEER_UP);
    p.region = only_region(p.peer);
    ct_transfer_params params = make_transfer(&p, operation, BLOCKS);
    for (int i = 0; i < TRANSFERS; i++) {
        submit(&p, &params);
    }
    ct_pool_release(p.client_pool);
    int stale = 0;
    for (int i = 0; i < TRANSFERS; i++) {
        ct_event event = expect_event(p.client, CT_EVENT_TRANSFER);
        CHECK(event.status == CT_OK || event.status == CT_ESTALE);
        CHECK((event.status == CT_OK) == (event.failed_count == 0));
        stale += event.status == CT_ESTALE;
    }
    expect_event(p.client, CT_EVENT_REGION_GONE);
    CHECK(mprotect(p.client_memory, p.bytes, PROT_NONE) == 0);
    printf("  %d of %d transfers were ended\n", stale, TRANSFERS);
    // The engine goes on with other memory.
    CHECK_STATUS(ct_pool_create(p.client, BLOCK_BYTES, BLOCKS, &p.client_pool), CT_OK);
    params = make_transfer(&p, CT_READ, BLOCKS);
    finish(&p, &params, CT_OK);
    free_pair(&p);
}

// Once it is gone, the remote memory does not change any more, whoever writes to it.
static void remove_remote(uint32_t paths) {
    enum { TRANSFERS = 50 };
    pair p = make_engines(BLOCK_BYTES, BLOCKS, 1);
    p.peer = start_connect(p.client, p.port, paths);
    expect_event(p.client, CT_EVENT_PEER_UP);
    p.region = only_region(p.peer);
    memset(p.client_memory, 1, p.bytes);
    memset(p.server_memory, 2, p.bytes);
    ct_transfer_params params = make_transfer(&p, CT_WRITE, BLOCKS);
    for (int i = 0; i < TRANSFERS; i++) {
        submit(&p, &params);
    }
    wait_for_byte(p.server_memory, 1);
    ct_pool_release(p.server_pool);
    expect_event(p.server, CT_EVENT_REGION_GONE);
    memset(p.server_memory, 3, p.bytes);
    int failed = 0;
    for (int i = 0; i < TRANSFERS; i++) {
        ct_event event = next_event(p.client);
        // Over TCP the connection that was moving its bytes is closed.
        if (event.kind == CT_EVENT_PEER_DOWN) {
            CHECK(paths == CT_PATH_MASK(CT_PATH_TCP));
            i--;
            continue;
        }
        CHECK(
            event.status == CT_OK || event.status == CT_ESTALE || event.status == CT_ENOTFOUND ||
            event.status == CT_EPEERDEAD);
        failed += event.status != CT_OK;
    }
    printf("  %d of %d writes came too late\n", failed, TRANSFERS);
    for (uint64_t i = 0; i < p.bytes; i++) {
        CHECK(p.server_memory[i] == 3);
    }
    free_pair(&p);
}

// PROGRAM write PORT: stops itself where it would write, and then exits with 0 if it was told that
// the memory has been taken back.
static int write_and_stop(const char *port) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ct_engine *engine = make_engine();
    ct_peer *peer = connect_over(engine, (uint16_t)atoi(port), CT_PATH_CMA);
    uint8_t *memory = map_memory(BLOCK_BYTES);
    ct_pool *pool;
    CHECK_STATUS(ct_region_add(engine, memory, BLOCK_BYTES, BLOCK_BYTES, &pool), CT_OK);
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.operation = CT_WRITE;
    params.peer = peer;
    params.pool = pool;
    params.region = only_region(peer);
    params.block_count = 1;
    uint64_t id;
    stops_at_write = 1;
    CHECK_STATUS(ct_transfer_submit(engine, &params, &id), CT_OK);
    ct_event event = expect_event(engine, CT_EVENT_TRANSFER);
    ct_engine_destroy(engine);
    return event.status == CT_ESTALE ? 0 : 1;
}

// A process stands still on its way into a write of our memory: that is not gone before the process
// goes on, or is killed.
static void stopped_writer(int is_killed) {
    ct_engine *engine = make_engine();
    uint8_t *memory = map_memory(BLOCK_BYTES);
    ct_pool *pool;
    uint16_t port;
    CHECK_STATUS(ct_region_add(engine, memory, BLOCK_BYTES, BLOCK_BYTES, &pool), CT_OK);
    CHECK_STATUS(ct_engine_listen(engine, "127.0.0.1", 0, &port), CT_OK);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        char port_text[16];
        snprintf(port_text, sizeof(port_text), "%u", port);
        execl("/proc/self/exe", "test_regions", "write", port_text, (char *)NULL);
        _exit(127);
    }
    int status;
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    ct_pool_release(pool);
    struct pollfd waiting = {.fd = ct_engine_descriptor(engine), .events = POLLIN};
    CHECK(poll(&waiting, 1, 150) == 0);
    CHECK(kill(pid, is_killed ? SIGKILL : SIGCONT) == 0);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(is_killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
    expect_event(engine, CT_EVENT_REGION_GONE);
    munmap(memory, BLOCK_BYTES);
    ct_engine_destroy(engine);
}

// A page of the peer's is not there: what came before it is complete, and known to be.
static void hole(void) {
    pair p = make_engines(BLOCK_BYTES, BLOCKS, 1);
    connect_pair(&p, CT_PATH_MASK(CT_PATH_CMA), CT_PATH_CMA);
    CHECK(mprotect(p.server_memory + 5 * BLOCK_BYTES + 4096, 4096, PROT_NONE) == 0);
    ct_transfer_params params = make_transfer(&p, CT_READ, 8);
    ct_event event = finish(&p, &params, CT_EFAULT);
    CHECK(event.failed_count == 3 && event.failed[0] == 5 && event.failed[2] == 7);
    CHECK(event.transferred_bytes == 5 * BLOCK_BYTES);
    CHECK(has_server_bytes(&p, 5 * BLOCK_BYTES));
    CHECK(mprotect(p.server_memory, p.bytes, PROT_READ | PROT_WRITE) == 0);
    finish(&p, &params, CT_OK);
    free_pair(&p);
}

// The system refuses in the middle: the rest goes over TCP, unless that is forbidden.
static void refused(void) {
    enum { COUNT = 64, BYTES = 1 << 20 };  // four calls
    pair p = make_engines(BYTES / 4, COUNT, 1);
    connect_pair(&p, 0, CT_PATH_MEMFD);
    ct_transfer_params params = make_transfer(&p, CT_READ, COUNT);
    CHECK(finish(&p, &params, CT_OK).path == CT_PATH_CMA);
    memset(p.client_memory, 0, p.bytes);
    params.forbids_failover = 1;
    fail_read(2, ENOMEM);
    ct_event event = finish(&p, &params, CT_ENOMEM);
    CHECK(event.path == CT_PATH_CMA && event.failed_count == COUNT / 2);
    for (uint32_t i = 0; i < COUNT / 2; i++) {
        CHECK(event.failed[i] == COUNT / 2 + i);
    }
    CHECK(has_server_bytes(&p, p.bytes / 2));
    params.forbids_failover = 0;
    params.allowed_paths = CT_PATH_MASK(CT_PATH_CMA);
    fail_read(1, ENOMEM);
    CHECK(finish(&p, &params, CT_ENOMEM).failed_count == COUNT / 4 * 3);

    params.allowed_paths = 0;
    memset(p.client_memory, 0, p.bytes);
    fail_read(2, EPERM);
    event = finish(&p, &params, CT_OK);
    CHECK(event.path == CT_PATH_TCP && has_server_bytes(&p, p.bytes));
    ct_stats stats = ct_engine_stats(p.client);
    CHECK(stats.paths[CT_PATH_CMA].failovers == 1);
    // Half of it had come already.
    CHECK(ct_engine_stats(p.server).served_bytes == p.bytes / 2);
    ct_capability capabilities[CT_PATH_COUNT];
    ct_peer_capabilities(p.peer, capabilities);
    CHECK(!capabilities[CT_PATH_CMA].is_possible && capabilities[CT_PATH_TCP].is_possible);
    CHECK(strcmp(capabilities[CT_PATH_CMA].reason, ct_status_message(CT_EPERM)) == 0);
    CHECK(!(ct_peer_describe(p.peer).paths & CT_PATH_MASK(CT_PATH_CMA)));
    // It is not tried again; who requires it is told why not.
    CHECK(finish(&p, &params, CT_OK).path == CT_PATH_TCP);
    params.allowed_paths = CT_PATH_MASK(CT_PATH_CMA);
    CHECK(finish(&p, &params, CT_EPERM).path == CT_PATH_NONE);
    free_pair(&p);
}

// Another process, or another program in the same one, answers to the number of the peer's.
static void other_process(ct_operation operation) {
    pair p = make_engines(BLOCK_BYTES, BLOCKS, 1);
    connect_pair(&p, CT_PATH_MASK(CT_PATH_CMA), CT_PATH_CMA);
    memset(p.client_memory, 9, p.bytes);
    p.server->proof[3] ^= 1;
    ct_transfer_params params = make_transfer(&p, operation, BLOCKS);
    CHECK(finish(&p, &params, CT_EPEERDEAD).failed_count == BLOCKS);
    if (operation == CT_WRITE) {
        for (uint64_t i = 0; i < p.bytes; i++) {
            CHECK(p.server_memory[i] == server_byte(i));
        }
    }
    free_pair(&p);
}

static void capabilities(void) {
    pair p = make_engines(BLOCK_BYTES, BLOCKS, 1);
    p.peer = start_connect(p.client, p.port, CT_PATH_MASK_ANY);
    expect_event(p.client, CT_EVENT_PEER_UP);
    CHECK(ct_peer_describe(p.peer).paths == CT_PATH_MASK_ANY);
    ct_capability all[CT_PATH_COUNT];
    ct_capabilities(p.client, all);
    for (ct_path path = CT_PATH_MEMFD; path < CT_PATH_COUNT; path++) {
        printf("  %s: %s\n", ct_path_name(path), all[path].reason);
        CHECK(all[path].is_possible && all[path].reason[0] != 0);
    }
    CHECK(!all[CT_PATH_NONE].is_possible);
    free_pair(&p);
}

int main(int count, char **arguments) {
    if (count == 3 && strcmp(arguments[1], "write") == 0) {
        return write_and_stop(arguments[2]);
    }
    random_begin();
    sizes();
    both_ways(0, CT_PATH_CMA);
    both_ways(CT_PATH_MASK(CT_PATH_TCP), CT_PATH_TCP);
    static const uint32_t masks[] = {CT_PATH_MASK(CT_PATH_CMA), CT_PATH_MASK(CT_PATH_TCP)};
    for (int i = 0; i < 2; i++) {
        remove_local(masks[i], CT_READ);
        remove_local(masks[i], CT_WRITE);
        remove_remote(masks[i]);
    }
    stopped_writer(0);
    stopped_writer(1);
    hole();
    refused();
    other_process(CT_READ);
    other_process(CT_WRITE);
    capabilities();
    puts("ok");
    return 0;
}
