// Which path a transfer takes, which transfer goes first, and what comes back by itself.
#include <pthread.h>
#include <sys/socket.h>

#include "pair.h"

#define BLOCK_BYTES (256u << 10)
#define BLOCKS 64u

// Every copy passes here. The first one waits until a test has said all that it has to say.
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int is_closed;
    int copies_left;  // until the channel of `victim` breaks
    ct_peer *victim;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void set_gate(int is_closed) {
    pthread_mutex_lock(&gate.lock);
    gate.is_closed = is_closed;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
}

static void gated_copy(void *target, const void *source, size_t bytes) {
    pthread_mutex_lock(&gate.lock);
    while (gate.is_closed) {
        pthread_cond_wait(&gate.changed, &gate.lock);
    }
    if (gate.victim != NULL && gate.copies_left-- == 0) {
        shutdown(gate.victim->channel->conn.fd, SHUT_RDWR);
        gate.victim = NULL;
    }
    pthread_mutex_unlock(&gate.lock);
    memcpy(target, source, bytes);
}

static pair make_gated_pair(void) {
    pair p = make_pair(BLOCK_BYTES, BLOCKS, 0);
    p.client->streaming_copy = gated_copy;  // read when a transfer starts, and none has
    return p;
}

// One transfer may be held to a path that others do not take.
static void required_paths(void) {
    pair p = make_pair(BLOCK_BYTES, BLOCKS, 0);
    ct_transfer_params params = make_transfer(&p, CT_READ, BLOCKS);
    CHECK(finish(&p, &params, CT_OK).path == CT_PATH_MEMFD);
    for (ct_path path = CT_PATH_MEMFD; path < CT_PATH_COUNT; path++) {
        memset(p.client_memory, 0, p.bytes);
        params.allowed_paths = CT_PATH_MASK(path);
        ct_event event = finish(&p, &params, CT_OK);
        CHECK(event.path == path && has_server_bytes(&p, p.bytes));
        CHECK(
            event.elapsed_ns ==
            event.queue_ns + event.post_ns + event.wire_ns + event.notify_ns);
        CHECK(event.wire_ns > 0 && event.notify_ns == 0);
        ct_path_stats stats = ct_engine_stats(p.client).paths[path];
        CHECK(stats.wire_ns >= event.wire_ns && stats.failovers == 0);
    }
    params.allowed_paths = CT_PATH_MASK(CT_PATH_COUNT);
    uint64_t id;
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EINVAL);
    params.allowed_paths = 0;
    params.priority = 3;
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EINVAL);
    params.priority = 0;
    params.forbids_failover = 2;
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EINVAL);
    params.forbids_failover = 0;
    params.notification = "n";
    params.notification_bytes = 1;
    CHECK(finish(&p, &params, CT_OK).notify_ns > 0);
    free_pair(&p);

    // What the peer may not use, no transfer can have.
    p = make_engines(BLOCK_BYTES, BLOCKS, 0);
    connect_pair(&p, CT_PATH_MASK(CT_PATH_TCP), CT_PATH_TCP);
    params = make_transfer(&p, CT_READ, 1);
    params.allowed_paths = CT_PATH_MASK(CT_PATH_MEMFD) | CT_PATH_MASK(CT_PATH_CMA);
    CHECK(finish(&p, &params, CT_EPOLICY).failed_count == 1);
    ct_capability all[CT_PATH_COUNT];
    ct_peer_capabilities(p.peer, all);
    CHECK(all[CT_PATH_TCP].is_possible && !all[CT_PATH_MEMFD].is_possible);
    CHECK(strcmp(all[CT_PATH_MEMFD].reason, "not allowed for this peer") == 0);
    free_pair(&p);

    // Pools are no pools to who may not map them; registered memory is not mapped.
    p = make_engines(BLOCK_BYTES, BLOCKS, 1);
    connect_pair(&p, CT_PATH_MASK(CT_PATH_MEMFD), CT_PATH_MEMFD);
    params = make_transfer(&p, CT_READ, 1);
    finish(&p, &params, CT_EPOLICY);
    free_pair(&p);
}

// The channel breaks in the middle of a copy: what is left comes over TCP.
static void lost_channel(int forbids_failover) {
    pair p = make_gated_pair();
    ct_transfer_params params = make_transfer(&p, CT_READ, BLOCKS);
    params.forbids_failover = (uint32_t)forbids_failover;
    pthread_mutex_lock(&gate.lock);
    gate.victim = p.peer;
    gate.copies_left = 10;
    pthread_mutex_unlock(&gate.lock);
    if (forbids_failover) {
        ct_event event = finish(&p, &params, CT_EPEERDEAD);
        CHECK(event.path == CT_PATH_MEMFD && event.failed_count > 0);
        CHECK(event.failed_count <= BLOCKS - 10);
    } else {
        ct_event event = finish(&p, &params, CT_OK);
        CHECK(event.path == CT_PATH_TCP && has_server_bytes(&p, p.bytes));
        CHECK(ct_engine_stats(p.client).paths[CT_PATH_MEMFD].failovers == 1);
        CHECK(ct_engine_stats(p.server).served_bytes < p.bytes);
    }
    CHECK(ct_peer_describe(p.peer).paths == CT_PATH_MASK(CT_PATH_TCP));
    CHECK(ct_peer_describe(p.peer).path == CT_PATH_TCP);
    // The peer still hears what comes and goes.
    uint64_t version = ct_peer_describe(p.peer).regions_version;
    ct_pool *second;
    CHECK_STATUS(ct_pool_create(p.server, BLOCK_BYTES, 3, &second), CT_OK);
    memset(ct_pool_memory(second), 77, 3 * BLOCK_BYTES);
    uint64_t end = now_ms() + WAIT_MS;
    while (ct_peer_describe(p.peer).regions_version == version) {
        CHECK(now_ms() < end);
        poll(NULL, 0, 1);
    }
    params.region = ct_pool_region(second);
    params.block_count = 3;
    CHECK(finish(&p, &params, CT_OK).path == CT_PATH_TCP);
    CHECK(p.client_memory[0] == 77 && p.client_memory[3 * BLOCK_BYTES - 1] == 77);
    free_pair(&p);
}

// Of equal transfers that wait, the one of high priority is over first, the one of low last.
static void priorities(ct_path path) {
    enum { TRANSFERS = 12 };
    pair p = make_gated_pair();
    ct_transfer_params params = make_transfer(&p, CT_READ, BLOCKS);
    params.allowed_paths = CT_PATH_MASK(path);
    // Another one keeps the thread until all have been submitted.
    ct_transfer_params first = make_transfer(&p, CT_READ, 2);
    set_gate(1);
    uint64_t first_id = submit(&p, &first);
    params.priority = CT_PRIORITY_LOW;
    uint64_t low = submit(&p, &params);
    params.priority = CT_PRIORITY_NORMAL;
    for (int i = 0; i < TRANSFERS; i++) {
        submit(&p, &params);
    }
    params.priority = CT_PRIORITY_HIGH;
    uint64_t high = submit(&p, &params);
    set_gate(0);
    uint64_t order[TRANSFERS + 3];
    for (int i = 0; i < TRANSFERS + 3; i++) {
        ct_event event = expect_event(p.client, CT_EVENT_TRANSFER);
        CHECK_STATUS(event.status, CT_OK);
        order[i] = event.transfer_id;
    }
    // The small one may come before or behind.
    CHECK(order[0] == high || (order[0] == first_id && order[1] == high));
    CHECK(order[TRANSFERS + 2] == low);
    free_pair(&p);
}

static ct_peer *connect_again(pair *p, uint64_t wait_ms, uint64_t wait_max_ms) {
    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = p->port;
    params.reconnect_ns = wait_ms * 1000000;
    params.reconnect_max_ns = wait_max_ms * 1000000;
    CHECK_STATUS(ct_peer_connect(p->client, &params, &p->peer), CT_OK);
    return p->peer;
}

static void wait_for_attempts(const pair *p, uint64_t count) {
    uint64_t end = now_ms() + WAIT_MS;
    while (ct_engine_stats(p->client).reconnects < count) {
        CHECK(now_ms() < end);
        poll(NULL, 0, 1);
    }
}

// A peer that asked for it is up again by itself when another engine listens where it was.
static void reconnect(void) {
    pair p = make_engines(BLOCK_BYTES, BLOCKS, 0);
    connect_again(&p, 5, 20);
    expect_event(p.client, CT_EVENT_PEER_UP);
    p.region = only_region(p.peer);
    ct_engine_id old = ct_peer_describe(p.peer).engine_id;
    ct_engine_destroy(p.server);
    CHECK_STATUS(expect_event(p.client, CT_EVENT_PEER_DOWN).status, CT_EPEERDEAD);
    CHECK(ct_peer_describe(p.peer).path == CT_PATH_NONE);
    ct_transfer_params params = make_transfer(&p, CT_READ, 1);
    // Every attempt that fails is silent; 5, 10, 20, 20 ms lie between them.
    uint64_t begin_ms = now_ms();
    wait_for_attempts(&p, 4);
    CHECK(now_ms() - begin_ms >= 30);

    p.server = make_engine();
    CHECK_STATUS(ct_pool_create(p.server, BLOCK_BYTES, BLOCKS, &p.server_pool), CT_OK);
    uint16_t port;
    CHECK_STATUS(ct_engine_listen(p.server, "127.0.0.1", p.port, &port), CT_OK);
    expect_event(p.client, CT_EVENT_PEER_UP);
    ct_engine_id now = ct_peer_describe(p.peer).engine_id;
    CHECK(memcmp(&now, &old, sizeof(old)) != 0);
    finish(&p, &params, CT_ESTALE);
    params.region = only_region(p.peer);
    finish(&p, &params, CT_OK);
    // And once more.
    ct_engine_destroy(p.server);
    CHECK_STATUS(expect_event(p.client, CT_EVENT_PEER_DOWN).status, CT_EPEERDEAD);
    finish(&p, &params, CT_EPEERDEAD);
    p.server = make_engine();
    CHECK_STATUS(ct_engine_listen(p.server, "127.0.0.1", p.port, &port), CT_OK);
    expect_event(p.client, CT_EVENT_PEER_UP);
    ct_peer_release(p.peer);
    free_pair(&p);
}

// A peer that was never there is waited for too, but not one that is another.
static void reconnect_at_first(void) {
    pair p = make_engines(BLOCK_BYTES, BLOCKS, 0);
    ct_engine_id other = ct_engine_identity(p.server);
    ct_engine_destroy(p.server);
    connect_again(&p, 2, 0);
    CHECK_STATUS(expect_event(p.client, CT_EVENT_PEER_DOWN).status, CT_EUNREACH);
    wait_for_attempts(&p, 3);
    p.server = make_engine();
    uint16_t port;
    CHECK_STATUS(ct_engine_listen(p.server, "127.0.0.1", p.port, &port), CT_OK);
    expect_event(p.client, CT_EVENT_PEER_UP);
    ct_peer_release(p.peer);

    uint64_t attempts = ct_engine_stats(p.client).reconnects;
    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = p.port;
    params.reconnect_ns = 1000000;
    params.reconnect_max_ns = 999999;
    CHECK_STATUS(ct_peer_connect(p.client, &params, &p.peer), CT_EINVAL);
    params.reconnect_max_ns = 0;
    params.expects_id = 1;
    params.expected_id = other;
    CHECK_STATUS(ct_peer_connect(p.client, &params, &p.peer), CT_OK);
    CHECK_STATUS(expect_event(p.client, CT_EVENT_PEER_DOWN).status, CT_ESTALE);
    poll(NULL, 0, 20);
    CHECK(ct_engine_stats(p.client).reconnects == attempts);
    free_pair(&p);
}

int main(void) {
    required_paths();
    lost_channel(0);
    lost_channel(1);
    priorities(CT_PATH_MEMFD);
    priorities(CT_PATH_CMA);
    priorities(CT_PATH_TCP);
    reconnect();
    reconnect_at_first();
    puts("ok");
    return 0;
}
