// Two processes: the listening engine runs in a child, which is killed, stopped and started again.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "engine.h"
#include "support.h"

#define BLOCK_BYTES (16u << 10)
#define BLOCKS 2048u  // 32 MiB

typedef struct child {
    pid_t pid;
    uint16_t port;
} child;

static uint8_t pattern(uint32_t block, uint32_t offset) {
    return (uint8_t)(block * 31 + offset * 7 + (offset >> 8));
}

static int has_pattern(const uint8_t *memory, uint32_t block) {
    for (uint32_t i = 0; i < BLOCK_BYTES; i++) {
        if (memory[i] != pattern(block, i)) {
            return 0;
        }
    }
    return 1;
}

static ct_engine *make_timed_engine(const char *heartbeat_ms, const char *lease_ms) {
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    params.heartbeat_ns = strtoull(heartbeat_ms, NULL, 10) * 1000000;
    params.lease_ns = strtoull(lease_ms, NULL, 10) * 1000000;
    ct_engine *engine;
    CHECK_STATUS(ct_engine_create(&params, &engine), CT_OK);
    return engine;
}

// The child: PROGRAM serve REPORT-FD PORT HEARTBEAT-MS LEASE-MS. Runs until it is killed.
static int serve(char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ct_engine *engine = make_timed_engine(arguments[4], arguments[5]);
    ct_pool *pool;
    CHECK_STATUS(ct_pool_create(engine, BLOCK_BYTES, BLOCKS, &pool), CT_OK);
    uint8_t *memory = ct_pool_memory(pool);
    for (uint32_t block = 0; block < BLOCKS; block++) {
        for (uint32_t i = 0; i < BLOCK_BYTES; i++) {
            memory[(uint64_t)block * BLOCK_BYTES + i] = pattern(block, i);
        }
    }
    uint16_t port;
    CHECK_STATUS(
        ct_engine_listen(engine, "127.0.0.1", (uint16_t)atoi(arguments[3]), &port), CT_OK);
    CHECK(write(atoi(arguments[2]), &port, sizeof(port)) == sizeof(port));
    for (;;) {
        struct pollfd waiting = {.fd = ct_engine_descriptor(engine), .events = POLLIN};
        poll(&waiting, 1, -1);
        ct_event event;
        size_t count;
        ct_engine_poll(engine, &event, 1, &count);
    }
}

static child start_child(uint16_t port, const char *heartbeat_ms, const char *lease_ms) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    child c = {.pid = fork()};
    CHECK(c.pid >= 0);
    if (c.pid == 0) {
        char fd_text[16];
        char port_text[16];
        snprintf(fd_text, sizeof(fd_text), "%d", ends[1]);
        snprintf(port_text, sizeof(port_text), "%u", port);
        execl(
            "/proc/self/exe", "test_processes", "serve", fd_text, port_text, heartbeat_ms, lease_ms,
            (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    CHECK(read(ends[0], &c.port, sizeof(c.port)) == sizeof(c.port));
    close(ends[0]);
    return c;
}

static void kill_child(const child *c) {
    CHECK(kill(c->pid, SIGKILL) == 0);
    CHECK(waitpid(c->pid, NULL, 0) == c->pid);
}

static void stop_child(const child *c) {
    int status;
    CHECK(kill(c->pid, SIGSTOP) == 0);
    CHECK(waitpid(c->pid, &status, WUNTRACED) == c->pid && WIFSTOPPED(status));
}

// The connecting side.
typedef struct side {
    ct_engine *engine;
    ct_pool *pool;
    uint8_t *memory;
    ct_peer *peer;
    ct_region region;
} side;

static side make_side(
    const child *c, ct_path path, const char *heartbeat_ms, const char *lease_ms) {
    side s = {.engine = make_timed_engine(heartbeat_ms, lease_ms)};
    CHECK_STATUS(ct_pool_create(s.engine, BLOCK_BYTES, BLOCKS, &s.pool), CT_OK);
    s.memory = ct_pool_memory(s.pool);
    s.peer = connect_over(s.engine, c->port, path);
    s.region = only_region(s.peer);
    return s;
}

static uint64_t submit(
    const side *s, ct_operation operation, const uint32_t *local, const uint32_t *remote,
    uint32_t count, uint64_t timeout_ms) {
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.operation = operation;
    params.peer = s->peer;
    params.pool = s->pool;
    params.region = s->region;
    params.local.ids = local;
    params.remote.ids = remote;
    params.block_count = count;
    params.timeout_ns = timeout_ms * 1000000;
    uint64_t id;
    CHECK_STATUS(ct_transfer_submit(s->engine, &params, &id), CT_OK);
    return id;
}

static ct_event end_of(const side *s, uint64_t id) {
    ct_event event = expect_event(s->engine, CT_EVENT_TRANSFER);
    CHECK(event.transfer_id == id);
    return event;
}

static void read_and_write(ct_path path) {
    child c = start_child(0, "1000", "5000");
    side s = make_side(&c, path, "1000", "5000");
    enum { COUNT = 1000 };
    uint32_t local[COUNT];
    uint32_t remote[COUNT];
    random_distinct(local, COUNT, BLOCKS);
    random_distinct(remote, COUNT, BLOCKS);
    ct_event event = end_of(&s, submit(&s, CT_READ, local, remote, COUNT, 0));
    CHECK_STATUS(event.status, CT_OK);
    CHECK(event.path == path && event.transferred_bytes == (uint64_t)COUNT * BLOCK_BYTES);
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK(has_pattern(s.memory + (uint64_t)local[i] * BLOCK_BYTES, remote[i]));
    }
    // Written one place further on, then read back from there.
    uint32_t next[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        next[i] = remote[(i + 1) % COUNT];
    }
    CHECK_STATUS(end_of(&s, submit(&s, CT_WRITE, local, next, COUNT, 0)).status, CT_OK);
    memset(s.memory, 0, (uint64_t)BLOCKS * BLOCK_BYTES);
    CHECK_STATUS(end_of(&s, submit(&s, CT_READ, local, next, COUNT, 0)).status, CT_OK);
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK(has_pattern(s.memory + (uint64_t)local[i] * BLOCK_BYTES, remote[i]));
    }
    ct_engine_destroy(s.engine);
    kill_child(&c);
}

// kill -9 in the middle: every transfer ends with its failed blocks, at once, and what is not
// listed as failed is right.
static void killed(ct_path path, ct_operation operation) {
    // Enough that a tester who is kept waiting still kills in the middle.
    enum { TRANSFERS = 100 };
    child c = start_child(0, "1000", "5000");
    side s = make_side(&c, path, "1000", "5000");
    memset(s.memory, 0, (uint64_t)BLOCKS * BLOCK_BYTES);
    uint32_t ids[BLOCKS];
    random_distinct(ids, BLOCKS, BLOCKS);
    uint64_t small = submit(&s, operation, ids, ids, 1, 0);
    uint64_t submitted_ms = now_ms();
    for (int i = 0; i < TRANSFERS; i++) {
        submit(&s, operation, ids, ids, BLOCKS, 0);
    }
    CHECK_STATUS(end_of(&s, small).status, CT_OK);
    uint64_t killed_ms = now_ms();
    kill_child(&c);
    uint64_t last_ms = 0;
    int dead = 0;
    int is_down = 0;
    uint8_t done[BLOCKS] = {0};
    for (int i = 0; i < TRANSFERS + 1; i++) {
        ct_event event = next_event(s.engine);
        if (event.kind == CT_EVENT_PEER_DOWN) {
            CHECK_STATUS(event.status, CT_EPEERDEAD);
            is_down = 1;
            continue;
        }
        CHECK(event.kind == CT_EVENT_TRANSFER);
        CHECK(event.status == CT_OK || event.status == CT_EPEERDEAD);
        CHECK((event.status == CT_OK) == (event.failed_count == 0));
        dead += event.status == CT_EPEERDEAD;
        uint64_t final_ms = submitted_ms + event.elapsed_ns / 1000000;
        last_ms = final_ms > last_ms ? final_ms : last_ms;
        uint32_t failed = 0;
        for (uint32_t j = 0; j < BLOCKS; j++) {
            if (failed < event.failed_count && event.failed[failed] == j) {
                failed++;
            } else {
                done[j] = 1;
            }
        }
        CHECK(failed == event.failed_count);
    }
    for (uint32_t j = 0; j < BLOCKS && operation == CT_READ; j++) {
        CHECK(!done[j] || has_pattern(s.memory + (uint64_t)ids[j] * BLOCK_BYTES, ids[j]));
    }
    CHECK(is_down && dead > 0);
    printf(
        "  %s %s: %d of %d failed, the last %lld ms after the kill\n", ct_path_name(path),
        operation == CT_READ ? "read" : "write", dead, TRANSFERS, (long long)(last_ms - killed_ms));
    // The blocks are the caller's: a new child's bytes arrive, nothing else does.
    memset(s.memory, 0xa5, (uint64_t)BLOCKS * BLOCK_BYTES);
    ct_event event = end_of(&s, submit(&s, operation, ids, ids, 1, 0));
    CHECK(event.status == CT_EPEERDEAD && event.failed_count == 1);
    ct_peer_release(s.peer);
    c = start_child(0, "1000", "5000");
    s.peer = connect_over(s.engine, c.port, path);
    s.region = only_region(s.peer);
    CHECK_STATUS(end_of(&s, submit(&s, CT_READ, ids, ids, 1, 0)).status, CT_OK);
    for (uint64_t i = 0; i < (uint64_t)BLOCKS * BLOCK_BYTES; i += 64) {
        CHECK(i / BLOCK_BYTES == ids[0] || s.memory[i] == 0xa5);
    }
    ct_engine_destroy(s.engine);
    kill_child(&c);
}

// A process that comes back on the same port is another engine.
static void restarted(ct_path path) {
    child c = start_child(0, "1000", "5000");
    side s = make_side(&c, path, "1000", "5000");
    ct_engine_id old_id = ct_peer_describe(s.peer).engine_id;
    ct_region old_region = s.region;
    kill_child(&c);
    CHECK_STATUS(expect_event(s.engine, CT_EVENT_PEER_DOWN).status, CT_EPEERDEAD);
    CHECK(ct_peer_describe(s.peer).path == CT_PATH_NONE);
    ct_peer_release(s.peer);
    c = start_child(c.port, "1000", "5000");

    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = c.port;
    params.expects_id = 1;
    params.expected_id = old_id;
    CHECK_STATUS(ct_peer_connect(s.engine, &params, &s.peer), CT_OK);
    CHECK_STATUS(expect_event(s.engine, CT_EVENT_PEER_DOWN).status, CT_ESTALE);
    ct_peer_release(s.peer);

    s.peer = connect_over(s.engine, c.port, path);
    s.region = old_region;
    ct_event event = end_of(&s, submit(&s, CT_READ, NULL, NULL, 3, 0));
    CHECK(event.status == CT_ESTALE && event.failed_count == 3);
    s.region = only_region(s.peer);
    CHECK(s.region.generation != old_region.generation);
    CHECK_STATUS(end_of(&s, submit(&s, CT_READ, NULL, NULL, 3, 0)).status, CT_OK);
    ct_engine_destroy(s.engine);
    kill_child(&c);
}

// Stands still once, in the middle of the first block.
static void copy_and_stop(void *target, const void *source, size_t bytes) {
    static int has_stopped;
    memcpy(target, source, bytes / 2);
    if (!has_stopped) {
        has_stopped = 1;
        raise(SIGSTOP);
    }
    memcpy((uint8_t *)target + bytes / 2, (const uint8_t *)source + bytes / 2, bytes - bytes / 2);
}

// The other child: PROGRAM write PORT. Writes the last block first, standing still within it, and
// exits with 0 if told that it was taken back.
static int write_and_stop(const char *port) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    child parent = {.port = (uint16_t)atoi(port)};
    side s = make_side(&parent, CT_PATH_MEMFD, "1000", "5000");
    s.engine->streaming_copy = copy_and_stop;
    uint32_t ids[BLOCKS];
    for (uint32_t i = 0; i < BLOCKS; i++) {
        ids[i] = BLOCKS - 1 - i;
    }
    ct_event event = end_of(&s, submit(&s, CT_WRITE, NULL, ids, BLOCKS, 0));
    ct_engine_destroy(s.engine);
    return event.status == CT_ESTALE ? 0 : 1;
}

static pid_t start_writer(uint16_t port) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        char port_text[16];
        snprintf(port_text, sizeof(port_text), "%u", port);
        execl("/proc/self/exe", "test_processes", "write", port_text, (char *)NULL);
        _exit(127);
    }
    int status;
    CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    return pid;
}

static void wait_for_settled(const ct_pool *pool, uint64_t epoch) {
    uint64_t end = now_ms() + WAIT_MS;
    while (ct_pool_settled(pool) < epoch) {
        CHECK(now_ms() < end);
        poll(NULL, 0, 1);
    }
}

// A process is stopped in the middle of writing to a block of ours, for longer than any lease: the
// block is not ours until the process is killed, or goes on and learns that we took it back.
static void stopped_writer(int is_killed) {
    ct_engine *engine = make_timed_engine("50", "150");
    ct_pool *pool;
    uint16_t port;
    CHECK_STATUS(ct_pool_create(engine, BLOCK_BYTES, BLOCKS, &pool), CT_OK);
    CHECK_STATUS(ct_engine_listen(engine, "127.0.0.1", 0, &port), CT_OK);
    pid_t writer = start_writer(port);
    uint32_t block = BLOCKS - 1;
    uint64_t epoch;
    CHECK_STATUS(ct_pool_fence(pool, &block, 1, &epoch), CT_OK);
    uint64_t end = now_ms() + WAIT_MS;
    while (atomic_load(&pool->served_epoch) < epoch) {
        CHECK(now_ms() < end);
        poll(NULL, 0, 1);
    }
    // Longer than the lease: its connections have been closed.
    for (uint64_t over = now_ms() + 200; now_ms() < over;) {
        poll(NULL, 0, 10);
        CHECK(ct_pool_settled(pool) < epoch);
    }
    int status;
    CHECK(kill(writer, is_killed ? SIGKILL : SIGCONT) == 0);
    CHECK(waitpid(writer, &status, 0) == writer);
    CHECK(is_killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
    wait_for_settled(pool, epoch);
    ct_engine_destroy(engine);
}

// A host that falls silent without closing anything, as one that vanished does.
static void silent(void) {
    child c = start_child(0, "50", "600");
    side s = make_side(&c, CT_PATH_TCP, "50", "600");
    stop_child(&c);
    uint64_t begin_ms = now_ms();
    // A read ends at its deadline; a write only when the peer is given up.
    uint64_t writing = submit(&s, CT_WRITE, NULL, NULL, 8, 100);
    uint64_t reading = submit(&s, CT_READ, NULL, NULL, 8, 100);
    ct_event event = end_of(&s, reading);
    CHECK(event.status == CT_ETIMEDOUT && event.failed_count == 8);
    CHECK(now_ms() - begin_ms >= 100);
    event = end_of(&s, writing);
    CHECK(event.status == CT_ETIMEDOUT && event.failed_count == 8);
    CHECK(now_ms() - begin_ms >= 500);
    CHECK_STATUS(expect_event(s.engine, CT_EVENT_PEER_DOWN).status, CT_EPEERDEAD);
    ct_peer_release(s.peer);
    // Back again after its lease, it must not apply the write that was given up.
    while (now_ms() - begin_ms <= 600) {
        poll(NULL, 0, 1);
    }
    CHECK(kill(c.pid, SIGCONT) == 0);
    s.peer = connect_over(s.engine, c.port, CT_PATH_TCP);
    CHECK_STATUS(end_of(&s, submit(&s, CT_READ, NULL, NULL, 8, 0)).status, CT_OK);
    for (uint32_t i = 0; i < 8; i++) {
        CHECK(has_pattern(s.memory + i * BLOCK_BYTES, i));
    }
    ct_engine_destroy(s.engine);
    kill_child(&c);

    // Over memfd the peer takes no part: its blocks can be read while it stands still.
    c = start_child(0, "1000", "5000");
    s = make_side(&c, CT_PATH_MEMFD, "1000", "5000");
    stop_child(&c);
    CHECK_STATUS(end_of(&s, submit(&s, CT_READ, NULL, NULL, BLOCKS, 0)).status, CT_OK);
    CHECK(has_pattern(s.memory + (BLOCKS - 1) * (uint64_t)BLOCK_BYTES, BLOCKS - 1));
    ct_engine_destroy(s.engine);
    kill_child(&c);
}

int main(int count, char **arguments) {
    if (count == 6 && strcmp(arguments[1], "serve") == 0) {
        return serve(arguments);
    }
    if (count == 3 && strcmp(arguments[1], "write") == 0) {
        return write_and_stop(arguments[2]);
    }
    random_begin();
    for (ct_path path = CT_PATH_MEMFD; path < CT_PATH_COUNT; path++) {
        read_and_write(path);
        killed(path, CT_READ);
        killed(path, CT_WRITE);
        restarted(path);
    }
    stopped_writer(0);
    stopped_writer(1);
    silent();
    puts("ok");
    return 0;
}
