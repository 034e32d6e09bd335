// Threads that stand still where it hurts: in the middle of a copy, and around the system calls
// that move blocks. What they do when they go on must harm nobody (Sources/CTransfer/ledger.h).
//
// The engine's calls of sendmsg, recvmsg and fcntl end up here, and its copy function is replaced,
// so that its thread can be held at a gate for as long as a test wants.
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "engine.h"
#include "support.h"

#define BLOCK_BYTES (4u << 20)  // more than the sockets on the way hold
#define SLICES 4                // in which one is copied
#define BLOCKS 4u
#define BYTES ((uint64_t)BLOCK_BYTES * BLOCKS)
#define HEARTBEAT_NS UINT64_C(50000000)
#define LEASE_NS UINT64_C(1000000000)

// ---- The gate ----

typedef enum place {
    NOWHERE,
    BEHIND_SEND,
    BEFORE_RECEIVE,
    BEHIND_RECEIVE,
    BEFORE_LOCK,
    IN_COPY,
} place;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    place place;
    pthread_t thread;
    const uint8_t *memory;  // NULL: any; else the call is about bytes of a pool that begins here
    int skip;               // so many calls pass
    int is_held;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static int names(const struct msghdr *message, const uint8_t *memory) {
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        const uint8_t *at = message->msg_iov[i].iov_base;
        if (at >= memory && at < memory + BYTES) {
            return 1;
        }
    }
    return 0;
}

static void pass(place here, const struct msghdr *message) {
    pthread_mutex_lock(&gate.lock);
    if (gate.place == here && pthread_equal(pthread_self(), gate.thread) &&
        (gate.memory == NULL || names(message, gate.memory)) && gate.skip-- == 0) {
        gate.is_held = 1;
        pthread_cond_broadcast(&gate.changed);
        while (gate.place == here) {
            pthread_cond_wait(&gate.changed, &gate.lock);
        }
        gate.is_held = 0;
    }
    pthread_mutex_unlock(&gate.lock);
}

static void close_gate(place where, const ct_engine *engine, const uint8_t *memory) {
    pthread_mutex_lock(&gate.lock);
    gate.place = where;
    gate.thread = engine->thread;
    gate.memory = memory;
    gate.skip = 0;
    pthread_mutex_unlock(&gate.lock);
}

static void close_gate_of_slice(int number, const ct_engine *engine) {
    close_gate(IN_COPY, engine, NULL);
    gate.skip = number;  // no transfer has begun
}

static void wait_for_arrival(void) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += WAIT_MS / 1000;
    pthread_mutex_lock(&gate.lock);
    while (!gate.is_held) {
        CHECK(pthread_cond_timedwait(&gate.changed, &gate.lock, &end) == 0);
    }
    pthread_mutex_unlock(&gate.lock);
}

static void open_gate(void) {
    pthread_mutex_lock(&gate.lock);
    gate.place = NOWHERE;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    ssize_t result = syscall(SYS_sendmsg, fd, message, flags);
    pass(BEHIND_SEND, message);
    return result;
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    pass(BEFORE_RECEIVE, message);
    ssize_t result = syscall(SYS_recvmsg, fd, message, flags);
    pass(BEHIND_RECEIVE, message);
    return result;
}

int fcntl(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (command == F_OFD_SETLK) {
        pass(BEFORE_LOCK, NULL);
    }
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

// Half a block, the gate, the other half.
static void gated_copy(void *target, const void *source, size_t bytes) {
    memcpy(target, source, bytes / 2);
    pass(IN_COPY, NULL);
    memcpy((uint8_t *)target + bytes / 2, (const uint8_t *)source + bytes / 2, bytes - bytes / 2);
}

// ---- Two engines ----

typedef struct pair {
    ct_engine *server;
    ct_pool *server_pool;
    uint8_t *server_memory;
    ct_engine *client;
    ct_pool *client_pool;
    uint8_t *client_memory;
    uint16_t port;
    ct_peer *peer;
    ct_region region;
} pair;

// The server's blocks hold 1, the client's 2.
static pair make_pair(ct_path path, uint64_t lease_ns) {
    pair p;
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    params.heartbeat_ns = HEARTBEAT_NS;
    params.lease_ns = lease_ns;
    CHECK_STATUS(ct_engine_create(&params, &p.server), CT_OK);
    CHECK_STATUS(ct_engine_create(&params, &p.client), CT_OK);
    CHECK_STATUS(ct_pool_create(p.server, BLOCK_BYTES, BLOCKS, &p.server_pool), CT_OK);
    CHECK_STATUS(ct_pool_create(p.client, BLOCK_BYTES, BLOCKS, &p.client_pool), CT_OK);
    p.server_memory = ct_pool_memory(p.server_pool);
    p.client_memory = ct_pool_memory(p.client_pool);
    memset(p.server_memory, 1, BYTES);
    memset(p.client_memory, 2, BYTES);
    CHECK_STATUS(ct_engine_listen(p.server, "127.0.0.1", 0, &p.port), CT_OK);
    p.peer = connect_over(p.client, p.port, path);
    p.region = only_region(p.peer);
    p.client->streaming_copy = gated_copy;  // read when a transfer starts, and none has
    return p;
}

static pair make_patient_pair(ct_path path) {
    return make_pair(path, UINT64_C(100000000000));
}

static void free_pair(pair *p) {
    ct_engine_destroy(p->client);
    ct_engine_destroy(p->server);
}

static uint64_t submit(const pair *p, ct_operation operation, uint32_t count, uint64_t epoch) {
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.operation = operation;
    params.peer = p->peer;
    params.pool = p->client_pool;
    params.region = p->region;
    params.epoch = epoch;
    params.block_count = count;
    uint64_t id;
    CHECK_STATUS(ct_transfer_submit(p->client, &params, &id), CT_OK);
    return id;
}

static ct_event end_of(const pair *p, uint64_t id, ct_status status) {
    ct_event event = expect_event(p->client, CT_EVENT_TRANSFER);
    CHECK(event.transfer_id == id);
    CHECK_STATUS(event.status, status);
    return event;
}

static void check_bytes(const uint8_t *memory, uint32_t block, uint8_t value) {
    for (uint64_t i = 0; i < BLOCK_BYTES; i++) {
        CHECK(memory[block * (uint64_t)BLOCK_BYTES + i] == value);
    }
}

static uint64_t fence(const pair *p, uint32_t block) {
    uint64_t epoch;
    CHECK_STATUS(ct_pool_fence(p->server_pool, &block, 1, &epoch), CT_OK);
    return epoch;
}

static void wait_for_settled(const pair *p, uint64_t epoch) {
    uint64_t end = now_ms() + WAIT_MS;
    while (ct_pool_settled(p->server_pool) < epoch) {
        CHECK(now_ms() < end);
        poll(NULL, 0, 1);
    }
}

// The owner uses a block for something else.
static void reuse(const pair *p, uint32_t block) {
    memset(p->server_memory + block * (uint64_t)BLOCK_BYTES, 5, BLOCK_BYTES);
}

// ---- Tests ----

// A fence ends what was given before it, block by block, and nothing else.
static void epochs(ct_path path) {
    pair p = make_patient_pair(path);
    CHECK(ct_pool_epoch(p.server_pool) == 0);
    uint64_t epoch = fence(&p, 2);
    CHECK(epoch == 1 && ct_pool_epoch(p.server_pool) == 1);
    uint64_t later;
    uint32_t outside = BLOCKS;
    CHECK_STATUS(ct_pool_fence(p.server_pool, &outside, 1, &later), CT_ERANGE);
    wait_for_settled(&p, epoch);
    for (ct_operation operation = CT_READ; operation <= CT_WRITE; operation++) {
        memset(p.client_memory, 2, BYTES);
        end_of(&p, submit(&p, operation, 2, 0), CT_OK);
        ct_event event = end_of(&p, submit(&p, operation, 3, 0), CT_ESTALE);
        CHECK(event.failed_count >= 1 && event.failed[event.failed_count - 1] == 2);
        check_bytes(p.server_memory, 2, 1);
        end_of(&p, submit(&p, operation, 3, epoch), CT_OK);
    }
    fence(&p, 0);
    end_of(&p, submit(&p, CT_READ, 1, epoch), CT_ESTALE);
    end_of(&p, submit(&p, CT_READ, 1, epoch + 1), CT_OK);
    free_pair(&p);
}

// The reader stands in the middle of a block's last slice while its owner reuses it.
static void read_over_memfd(void) {
    pair p = make_patient_pair(CT_PATH_MEMFD);
    close_gate_of_slice(SLICES - 1, p.client);
    uint64_t id = submit(&p, CT_READ, 1, 0);
    wait_for_arrival();
    wait_for_settled(&p, fence(&p, 0));  // who reads is not waited for
    reuse(&p, 0);
    open_gate();
    ct_event event = end_of(&p, id, CT_ESTALE);
    CHECK(event.failed_count == 1 && event.transferred_bytes == 0);
    free_pair(&p);
}

// The writer stands in the middle of a block: its owner sees that, and waits.
static void write_over_memfd(void) {
    pair p = make_patient_pair(CT_PATH_MEMFD);
    close_gate_of_slice(0, p.client);
    uint64_t id = submit(&p, CT_WRITE, 2, 0);
    wait_for_arrival();
    uint64_t first = fence(&p, 3);
    uint64_t epoch = fence(&p, 0);
    // Once the engine's thread has heard of the fences, only the writer stands against them.
    uint64_t end = now_ms() + WAIT_MS;
    while (atomic_load(&p.server_pool->served_epoch) < epoch) {
        CHECK(now_ms() < end);
        poll(NULL, 0, 1);
    }
    CHECK(ct_pool_settled(p.server_pool) < first);
    open_gate();
    wait_for_settled(&p, epoch);
    reuse(&p, 0);
    ct_event event = end_of(&p, id, CT_ESTALE);
    CHECK(event.failed_count == 2);
    check_bytes(p.server_memory, 0, 5);
    free_pair(&p);
}

// The writer stands before its lock: its owner sees nobody and reuses the block.
static void late_lock(void) {
    pair p = make_patient_pair(CT_PATH_MEMFD);
    close_gate(BEFORE_LOCK, p.client, NULL);
    uint64_t id = submit(&p, CT_WRITE, 1, 0);
    wait_for_arrival();
    wait_for_settled(&p, fence(&p, 0));
    reuse(&p, 0);
    open_gate();
    end_of(&p, id, CT_ESTALE);
    check_bytes(p.server_memory, 0, 5);
    free_pair(&p);
}

// The listening side has sent half a block when its owner reuses it.
static void read_over_tcp(void) {
    pair p = make_patient_pair(CT_PATH_TCP);
    close_gate(BEFORE_RECEIVE, p.client, p.client_memory);
    uint64_t id = submit(&p, CT_READ, BLOCKS, 0);
    wait_for_arrival();
    for (uint32_t block = 0; block < BLOCKS; block++) {
        fence(&p, block);
        reuse(&p, block);
    }
    open_gate();
    CHECK(end_of(&p, id, CT_ESTALE).failed_count == BLOCKS);
    free_pair(&p);
}

// The connecting side has sent half a block when its owner takes it back.
static void write_over_tcp(void) {
    pair p = make_patient_pair(CT_PATH_TCP);
    close_gate(BEHIND_SEND, p.client, p.client_memory);
    uint64_t id = submit(&p, CT_WRITE, 1, 0);
    wait_for_arrival();
    wait_for_byte(p.server_memory, 2);
    wait_for_settled(&p, fence(&p, 0));
    reuse(&p, 0);
    open_gate();
    CHECK(end_of(&p, id, CT_ESTALE).failed_count == 1);
    check_bytes(p.server_memory, 0, 5);
    // The connection goes on.
    end_of(&p, submit(&p, CT_WRITE, 1, 1), CT_OK);
    check_bytes(p.server_memory, 0, 2);
    free_pair(&p);
}

// All bytes are in when their block is taken back: too late for a success.
static void write_at_the_end(void) {
    pair p = make_patient_pair(CT_PATH_TCP);
    close_gate(BEHIND_RECEIVE, p.server, p.server_memory);
    // Little enough to come in one piece.
    ct_plane plane = {.stride_bytes = BLOCK_BYTES, .length_bytes = 512};
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.operation = CT_WRITE;
    params.peer = p.peer;
    params.pool = p.client_pool;
    params.region = p.region;
    params.local.planes = &plane;
    params.remote.planes = &plane;
    params.plane_count = 1;
    params.block_count = 1;
    uint64_t id;
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_OK);
    wait_for_arrival();
    CHECK(p.server_memory[511] == 2);
    fence(&p, 0);
    open_gate();
    CHECK(end_of(&p, id, CT_ESTALE).failed_count == 1);
    free_pair(&p);
}

// The listening side stands between its check and the receive into the block. By the time it goes
// on, the write has been given up and its owner wants to reuse the block.
static void late_receive(void) {
    pair p = make_pair(CT_PATH_TCP, LEASE_NS);
    close_gate(BEFORE_RECEIVE, p.server, p.server_memory);
    uint64_t id = submit(&p, CT_WRITE, 1, 0);
    wait_for_arrival();
    CHECK(end_of(&p, id, CT_EPEERDEAD).failed_count == 1);
    CHECK_STATUS(expect_event(p.client, CT_EVENT_PEER_DOWN).status, CT_EPEERDEAD);
    uint64_t epoch = fence(&p, 0);
    CHECK(ct_pool_settled(p.server_pool) < epoch);
    open_gate();
    wait_for_settled(&p, epoch);
    reuse(&p, 0);
    ct_peer_release(p.peer);
    p.peer = connect_over(p.client, p.port, CT_PATH_TCP);
    end_of(&p, submit(&p, CT_READ, 1, epoch), CT_OK);
    check_bytes(p.client_memory, 0, 5);
    free_pair(&p);
}

// The listening side stands behind a system call. What was sent to it meanwhile and given up, it
// throws away: that it comes back is no sign of life of its peer.
static void late_return(place where) {
    pair p = make_pair(CT_PATH_TCP, LEASE_NS);
    close_gate(where, p.server, NULL);
    wait_for_arrival();
    uint64_t id = submit(&p, CT_WRITE, 1, 0);
    CHECK(end_of(&p, id, CT_EPEERDEAD).failed_count == 1);
    CHECK_STATUS(expect_event(p.client, CT_EVENT_PEER_DOWN).status, CT_EPEERDEAD);
    open_gate();
    ct_peer_release(p.peer);
    p.peer = connect_over(p.client, p.port, CT_PATH_TCP);
    end_of(&p, submit(&p, CT_READ, BLOCKS, 0), CT_OK);
    check_bytes(p.client_memory, 0, 1);
    check_bytes(p.server_memory, 0, 1);
    free_pair(&p);
}

// A read is cancelled while the connecting side stands before the receive into its block; when the
// event is out, the thread is past the receive and does no other.
static void late_answer(void) {
    pair p = make_patient_pair(CT_PATH_TCP);
    close_gate(BEFORE_RECEIVE, p.client, p.client_memory);
    uint64_t id = submit(&p, CT_READ, BLOCKS, 0);
    wait_for_arrival();
    ct_transfer_cancel(p.client, id);
    ct_event event;
    size_t count;
    ct_engine_poll(p.client, &event, 1, &count);
    CHECK(count == 0);
    open_gate();
    end_of(&p, id, CT_ECANCELED);
    memset(p.client_memory, 6, BYTES);
    end_of(&p, submit(&p, CT_WRITE, 1, 0), CT_OK);  // behind whatever still came
    for (uint32_t block = 0; block < BLOCKS; block++) {
        check_bytes(p.client_memory, block, 6);
    }
    free_pair(&p);
}

int main(void) {
    for (ct_path path = CT_PATH_MEMFD; path < CT_PATH_COUNT; path++) {
        epochs(path);
    }
    read_over_memfd();
    write_over_memfd();
    late_lock();
    read_over_tcp();
    write_over_tcp();
    write_at_the_end();
    late_receive();
    late_return(BEHIND_SEND);
    late_return(BEFORE_RECEIVE);
    late_answer();
    puts("ok");
    return 0;
}
