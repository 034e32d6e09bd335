// Two engines in one process, over each path.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "support.h"

#define BLOCKS 300

// An engine that listens with one pool, and one that is connected to it.
typedef struct pair {
    ct_engine *server;
    ct_pool *server_pool;
    uint8_t *server_memory;
    ct_engine *client;
    ct_pool *client_pool;
    uint8_t *client_memory;
    ct_peer *peer;
    ct_region region;
    uint64_t bytes;
} pair;

static pair make_pair_with(
    ct_path path, uint64_t block_bytes, uint32_t block_count, uint16_t streams,
    ct_engine_params server_params, ct_engine_params client_params) {
    pair p = {.bytes = block_bytes * block_count};
    CHECK_STATUS(ct_engine_create(&server_params, &p.server), CT_OK);
    CHECK_STATUS(ct_engine_create(&client_params, &p.client), CT_OK);
    CHECK_STATUS(ct_pool_create(p.server, block_bytes, block_count, &p.server_pool), CT_OK);
    CHECK_STATUS(ct_pool_create(p.client, block_bytes, block_count, &p.client_pool), CT_OK);
    p.server_memory = ct_pool_memory(p.server_pool);
    p.client_memory = ct_pool_memory(p.client_pool);
    uint16_t port;
    CHECK_STATUS(ct_engine_listen(p.server, "127.0.0.1", 0, &port), CT_OK);
    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = port;
    params.allowed_paths = CT_PATH_MASK(path);
    params.stream_count = streams;
    CHECK_STATUS(ct_peer_connect(p.client, &params, &p.peer), CT_OK);
    CHECK(expect_event(p.client, CT_EVENT_PEER_UP).path == path);
    p.region = only_region(p.peer);
    CHECK(p.region.size_bytes == p.bytes && p.region.block_bytes == block_bytes);
    return p;
}

static pair make_pair(ct_path path, uint64_t block_bytes, uint32_t block_count) {
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    return make_pair_with(path, block_bytes, block_count, 1, params, params);
}

static void free_pair(pair *p) {
    ct_peer_release(p->peer);
    ct_pool_release(p->client_pool);
    ct_pool_release(p->server_pool);
    ct_engine_destroy(p->client);
    ct_engine_destroy(p->server);
}

static ct_transfer_params make_transfer(const pair *p, ct_operation operation) {
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.operation = operation;
    params.peer = p->peer;
    params.pool = p->client_pool;
    params.region = p->region;
    return params;
}

static uint64_t submit(ct_engine *engine, const ct_transfer_params *params) {
    uint64_t id;
    CHECK_STATUS(ct_transfer_submit(engine, params, &id), CT_OK);
    return id;
}

// The end of the only transfer in flight.
static ct_event finish(ct_engine *engine, uint64_t id, ct_status status) {
    ct_event event = expect_event(engine, CT_EVENT_TRANSFER);
    CHECK(event.transfer_id == id);
    CHECK_STATUS(event.status, status);
    return event;
}

static void copy_blocks(
    uint8_t *to, const ct_plane *to_planes, const uint32_t *to_ids, const uint8_t *from,
    const ct_plane *from_planes, const uint32_t *from_ids, uint32_t planes, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t j = 0; j < planes; j++) {
            uint64_t t = to_ids != NULL ? to_ids[i] : i;
            uint64_t f = from_ids != NULL ? from_ids[i] : i;
            memcpy(
                to + to_planes[j].offset_bytes + t * to_planes[j].stride_bytes,
                from + from_planes[j].offset_bytes + f * from_planes[j].stride_bytes,
                to_planes[j].length_bytes);
        }
    }
}

// Random lists of blocks and planes against a plain copy, with everything else untouched.
static void random_lists(ct_path path, uint16_t streams, int rounds) {
    ct_engine_params engine_params = CT_ENGINE_PARAMS_INIT;
    uint64_t block_bytes = 1 + random_below(20000);
    pair p = make_pair_with(path, block_bytes, BLOCKS, streams, engine_params, engine_params);
    uint8_t *server_model = malloc(p.bytes);
    uint8_t *client_model = malloc(p.bytes);
    for (int round = 0; round < rounds; round++) {
        random_fill(p.server_memory, p.bytes);
        random_fill(p.client_memory, p.bytes);
        memcpy(server_model, p.server_memory, p.bytes);
        memcpy(client_model, p.client_memory, p.bytes);
        uint32_t count = 1 + random_below(BLOCKS);
        uint32_t local_ids[BLOCKS];
        uint32_t remote_ids[BLOCKS];
        random_distinct(local_ids, count, BLOCKS);
        random_distinct(remote_ids, count, BLOCKS);
        int reads = (int)random_below(2);
        ct_transfer_params params = make_transfer(&p, reads ? CT_READ : CT_WRITE);
        params.block_count = count;
        params.local.ids = random_below(4) > 0 ? local_ids : NULL;
        params.remote.ids = random_below(4) > 0 ? remote_ids : NULL;
        // Up to three slices of a block, at other places on either side.
        ct_plane local[3] = {{0, block_bytes, block_bytes}};
        ct_plane remote[3] = {{0, block_bytes, block_bytes}};
        uint32_t planes = block_bytes >= 6 ? random_below(4) : 0;
        for (uint32_t i = 0; i < planes; i++) {
            uint64_t third = block_bytes / 3;
            uint64_t length = 1 + random_below((uint32_t)(third - 1));
            local[i] = (ct_plane){i * third, block_bytes, length};
            remote[i] = (ct_plane){(planes - 1 - i) * third, block_bytes, length};
        }
        if (planes > 0) {
            params.local.planes = local;
            params.remote.planes = remote;
            params.plane_count = planes;
        }
        if (reads) {
            copy_blocks(
                client_model, local, params.local.ids, server_model, remote, params.remote.ids,
                planes > 0 ? planes : 1, count);
        } else {
            copy_blocks(
                server_model, remote, params.remote.ids, client_model, local, params.local.ids,
                planes > 0 ? planes : 1, count);
        }
        ct_event event = finish(p.client, submit(p.client, &params), CT_OK);
        CHECK(event.path == path && event.failed_count == 0);
        CHECK(memcmp(p.client_memory, client_model, p.bytes) == 0);
        CHECK(memcmp(p.server_memory, server_model, p.bytes) == 0);
    }
    free(server_model);
    free(client_model);
    free_pair(&p);
}

// Many transfers at once, each with a notification that must come exactly once.
static void notifications(ct_path path) {
    enum { TRANSFERS = 200 };
    pair p = make_pair(path, 512, BLOCKS);
    random_fill(p.server_memory, p.bytes);
    uint32_t ids[BLOCKS];
    for (uint32_t i = 0; i < TRANSFERS; i++) {
        ids[i] = i;
        ct_transfer_params params = make_transfer(&p, CT_READ);
        params.local.ids = &ids[i];
        params.remote.ids = &ids[i];
        params.block_count = i % 2;  // every other one carries only the notification
        params.notification = &i;
        params.notification_bytes = sizeof(i);
        submit(p.client, &params);
    }
    ct_engine_id sender = ct_engine_identity(p.client);
    uint8_t notified[TRANSFERS] = {0};
    for (int i = 0; i < TRANSFERS; i++) {
        CHECK_STATUS(expect_event(p.client, CT_EVENT_TRANSFER).status, CT_OK);
        ct_event event = expect_event(p.server, CT_EVENT_NOTIFICATION);
        uint32_t number;
        CHECK(event.notification_bytes == sizeof(number));
        CHECK(memcmp(event.sender.bytes, sender.bytes, sizeof(sender.bytes)) == 0);
        memcpy(&number, event.notification, sizeof(number));
        CHECK(number < TRANSFERS && !notified[number]);
        notified[number] = 1;
        if (number % 2 == 1) {
            CHECK(memcmp(p.client_memory + number * 512, p.server_memory + number * 512, 512) == 0);
        }
    }
    ct_event event;
    size_t count;
    ct_engine_poll(p.server, &event, 1, &count);
    CHECK(count == 0);
    struct pollfd drained = {.fd = ct_engine_descriptor(p.server), .events = POLLIN};
    CHECK(poll(&drained, 1, 0) == 0);
    CHECK(ct_engine_stats(p.server).notifications_received == TRANSFERS);
    free_pair(&p);
}

// Waits until everything sent before on the control stream has been answered.
static void round_trip(pair *p) {
    ct_transfer_params params = make_transfer(p, CT_READ);
    params.notification = "x";
    params.notification_bytes = 1;
    finish(p->client, submit(p->client, &params), CT_OK);
}

// After the completion of a cancelled read its blocks are the caller's, whatever still arrives.
static void cancel(ct_path path, ct_operation operation) {
    pair p = make_pair(path, 1 << 20, 48);
    memset(p.server_memory, 1, p.bytes);
    memset(p.client_memory, 2, p.bytes);
    ct_transfer_params params = make_transfer(&p, operation);
    params.block_count = 48;
    uint64_t id = submit(p.client, &params);
    ct_transfer_cancel(p.client, id);
    ct_transfer_cancel(p.client, id);
    ct_event event = expect_event(p.client, CT_EVENT_TRANSFER);
    CHECK(event.status == CT_ECANCELED || event.status == CT_OK);
    CHECK((event.failed_count == 0) == (event.status == CT_OK));
    const uint8_t *from = operation == CT_READ ? p.server_memory : p.client_memory;
    const uint8_t *to = operation == CT_READ ? p.client_memory : p.server_memory;
    uint32_t failed = 0;
    for (uint32_t i = 0; i < 48; i++) {
        if (failed < event.failed_count && event.failed[failed] == i) {
            failed++;
        } else {
            CHECK(memcmp(from + ((uint64_t)i << 20), to + ((uint64_t)i << 20), 1 << 20) == 0);
        }
    }
    CHECK(failed == event.failed_count);
    CHECK(event.transferred_bytes == (48ull - failed) << 20);
    memset(p.client_memory, 3, p.bytes);
    if (operation == CT_WRITE) {
        memset(p.server_memory, 3, p.bytes);
    }
    round_trip(&p);
    for (uint64_t i = 0; i < p.bytes; i += 512) {
        CHECK(p.client_memory[i] == 3);
        CHECK(operation == CT_READ || p.server_memory[i] == 3);
    }
    ct_transfer_cancel(p.client, id);  // long over: ignored
    free_pair(&p);
}

static void limits(ct_path path) {
    ct_engine_params server_params = CT_ENGINE_PARAMS_INIT;
    server_params.notifications_max = 2;
    ct_engine_params client_params = CT_ENGINE_PARAMS_INIT;
    client_params.transfers_max = 4;
    pair p = make_pair_with(path, 4096, BLOCKS, 1, server_params, client_params);
    ct_transfer_params params = make_transfer(&p, CT_READ);
    params.notification = "n";
    params.notification_bytes = 1;
    uint64_t id;
    for (int i = 0; i < 4; i++) {
        submit(p.client, &params);
    }
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EAGAIN);
    int delivered = 0;
    int refused = 0;
    for (int i = 0; i < 4; i++) {
        ct_event event = expect_event(p.client, CT_EVENT_TRANSFER);
        delivered += event.status == CT_OK;
        refused += event.status == CT_EAGAIN;
    }
    CHECK(delivered == 2 && refused == 2);
    expect_event(p.server, CT_EVENT_NOTIFICATION);
    finish(p.client, submit(p.client, &params), CT_OK);
    free_pair(&p);
}

static void bad_parameters(ct_path path) {
    pair p = make_pair(path, 4096, BLOCKS);
    uint32_t outside = BLOCKS;
    uint64_t id;
    ct_transfer_params params = make_transfer(&p, CT_READ);
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EINVAL);
    params.block_count = 1;
    params.local.ids = &outside;
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_ERANGE);
    params.local.ids = NULL;
    params.operation = 7;
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EINVAL);
    params.operation = CT_READ;
    params.notification_bytes = CT_NOTIFICATION_MAX + 1;
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EINVAL);
    params.notification_bytes = 0;
    params.region.block_bytes = 4095;
    CHECK_STATUS(ct_transfer_submit(p.client, &params, &id), CT_EINVAL);
    params.region = p.region;
    struct {
        ct_transfer_params known;
        uint64_t unknown;
    } newer = {.known = params, .unknown = 1};
    newer.known.struct_size = sizeof(newer);
    CHECK_STATUS(ct_transfer_submit(p.client, &newer.known, &id), CT_EINVAL);
    newer.unknown = 0;
    finish(p.client, submit(p.client, &newer.known), CT_OK);

    params.remote.ids = &outside;
    ct_event event = finish(p.client, submit(p.client, &params), CT_ERANGE);
    CHECK(event.failed_count == 1 && event.failed[0] == 0 && event.transferred_bytes == 0);
    params.remote.ids = NULL;
    params.region.generation++;
    finish(p.client, submit(p.client, &params), CT_ESTALE);
    params.region.id = 17;
    finish(p.client, submit(p.client, &params), CT_ENOTFOUND);
    free_pair(&p);
}

// Waits until the peer publishes exactly one region, of another generation.
static ct_region wait_for_region(ct_peer *peer, uint64_t old_generation) {
    uint64_t end = now_ms() + WAIT_MS;
    for (;;) {
        ct_region known[CT_REGIONS_MAX];
        size_t count;
        ct_peer_regions(peer, known, &count);
        if (count == 1 && known[0].generation != old_generation) {
            return known[0];
        }
        CHECK(now_ms() < end);
        poll(NULL, 0, 1);
    }
}

// Regions come and go while a peer is connected; it hears of it without asking.
static void regions(ct_path path) {
    ct_engine_params quiet = CT_ENGINE_PARAMS_INIT;
    quiet.heartbeat_ns = UINT64_C(1000000000000);
    quiet.lease_ns = 2 * quiet.heartbeat_ns;
    pair p = make_pair_with(path, 4096, BLOCKS, 1, quiet, quiet);
    memset(p.server_memory, 5, p.bytes);
    ct_transfer_params params = make_transfer(&p, CT_READ);
    params.block_count = BLOCKS;
    finish(p.client, submit(p.client, &params), CT_OK);

    ct_pool *second;
    CHECK_STATUS(ct_pool_create(p.server, 4096, 7, &second), CT_OK);
    memset(ct_pool_memory(second), 6, 7 * 4096);
    ct_pool_release(p.server_pool);
    p.server_pool = second;
    ct_region region = wait_for_region(p.peer, p.region.generation);
    CHECK(region.size_bytes == 7 * 4096);
    ct_event event = finish(p.client, submit(p.client, &params), CT_ENOTFOUND);
    CHECK(event.failed_count == BLOCKS);
    params.region = region;
    params.block_count = 7;
    finish(p.client, submit(p.client, &params), CT_OK);
    CHECK(p.client_memory[0] == 6 && p.client_memory[7 * 4096] == 5);

    // Gone and made again with nothing else said.
    ct_pool_release(second);
    CHECK_STATUS(ct_pool_create(p.server, 4096, 9, &p.server_pool), CT_OK);
    CHECK(wait_for_region(p.peer, region.generation).size_bytes == 9 * 4096);
    free_pair(&p);
}

// Pools and peers may be let go while transfers that use them run.
static void release_in_flight(ct_path path) {
    pair p = make_pair(path, 1 << 20, 32);
    ct_transfer_params params = make_transfer(&p, CT_READ);
    params.block_count = 32;
    uint64_t id = submit(p.client, &params);
    ct_pool_release(p.client_pool);
    p.client_pool = NULL;
    finish(p.client, id, CT_OK);

    pair q = make_pair(path, 1 << 20, 32);
    params = make_transfer(&q, CT_READ);
    params.block_count = 32;
    id = submit(q.client, &params);
    ct_peer_release(q.peer);
    q.peer = NULL;
    ct_event event = expect_event(q.client, CT_EVENT_TRANSFER);
    CHECK(event.transfer_id == id);
    CHECK(event.status == CT_ECANCELED || event.status == CT_OK);

    // The owner of the remote pool lets go: an error or, if it came too late, a success.
    params = make_transfer(&p, CT_READ);
    CHECK_STATUS(ct_pool_create(p.client, 1 << 20, 32, &p.client_pool), CT_OK);
    params.pool = p.client_pool;
    params.block_count = 32;
    id = submit(p.client, &params);
    ct_pool_release(p.server_pool);
    p.server_pool = NULL;
    event = expect_event(p.client, CT_EVENT_TRANSFER);
    CHECK(
        event.status == CT_OK || event.status == CT_ESTALE || event.status == CT_EPEERDEAD ||
        event.status == CT_ENOTFOUND);
    free_pair(&p);
    free_pair(&q);
}

// A listener that accepts by its backlog and never says a word.
static int silent_listener(uint16_t *port_p) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(address);
    CHECK(bind(fd, (struct sockaddr *)&address, bytes) == 0 && listen(fd, 8) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&address, &bytes) == 0);
    *port_p = ntohs(address.sin_port);
    return fd;
}

static void unreachable(void) {
    ct_engine *engine = make_engine();
    uint16_t port;
    int fd = silent_listener(&port);
    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = port;
    params.timeout_ns = 400 * 1000 * 1000;
    ct_peer *peer;
    CHECK_STATUS(ct_peer_connect(engine, &params, &peer), CT_OK);
    // A transfer may wait for the peer, but not longer than its own deadline.
    ct_transfer_params transfer = CT_TRANSFER_PARAMS_INIT;
    transfer.peer = peer;
    transfer.notification = "x";
    transfer.notification_bytes = 1;
    transfer.timeout_ns = 50 * 1000 * 1000;
    uint64_t id = submit(engine, &transfer);
    CHECK(finish(engine, id, CT_ETIMEDOUT).path == CT_PATH_NONE);
    transfer.timeout_ns = 0;
    id = submit(engine, &transfer);
    finish(engine, id, CT_ETIMEDOUT);
    CHECK_STATUS(expect_event(engine, CT_EVENT_PEER_DOWN).status, CT_ETIMEDOUT);
    finish(engine, submit(engine, &transfer), CT_ETIMEDOUT);
    ct_peer_release(peer);

    close(fd);
    peer = start_connect(engine, port, 0);
    CHECK_STATUS(expect_event(engine, CT_EVENT_PEER_DOWN).status, CT_EUNREACH);
    ct_peer_release(peer);
    params.host = "localhost";
    CHECK_STATUS(ct_peer_connect(engine, &params, &peer), CT_EINVAL);
    ct_engine_destroy(engine);
}

static void addresses(void) {
    ct_engine *first;
    ct_engine_params engine_params = CT_ENGINE_PARAMS_INIT;
    engine_params.heartbeat_ns = 1000;
    engine_params.lease_ns = 1000;
    CHECK_STATUS(ct_engine_create(&engine_params, &first), CT_EINVAL);
    first = make_engine();
    ct_engine *second = make_engine();
    uint16_t port;
    CHECK_STATUS(ct_engine_listen(first, "not numeric", 0, &port), CT_EINVAL);
    CHECK_STATUS(ct_engine_listen(first, "127.0.0.1", 0, &port), CT_OK);
    uint16_t other = 0;
    CHECK_STATUS(ct_engine_listen(second, "127.0.0.1", port, &other), CT_EADDRESS);
    CHECK_STATUS(ct_engine_listen(first, "127.0.0.1", 0, &other), CT_EINVAL);
    CHECK(other == 0);

    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = port;
    params.expects_id = 1;
    params.expected_id = ct_engine_identity(second);
    ct_peer *peer;
    CHECK_STATUS(ct_peer_connect(second, &params, &peer), CT_OK);
    CHECK_STATUS(expect_event(second, CT_EVENT_PEER_DOWN).status, CT_ESTALE);
    ct_peer_release(peer);
    params.expected_id = ct_engine_identity(first);
    CHECK_STATUS(ct_peer_connect(second, &params, &peer), CT_OK);
    // Nothing restrains the choice: same host, so memfd.
    CHECK(expect_event(second, CT_EVENT_PEER_UP).path == CT_PATH_MEMFD);
    ct_engine_destroy(first);
    CHECK_STATUS(expect_event(second, CT_EVENT_PEER_DOWN).status, CT_EPEERDEAD);
    ct_engine_destroy(second);  // with the peer still held
}

int main(void) {
    random_begin();
    for (ct_path path = CT_PATH_MEMFD; path < CT_PATH_COUNT; path++) {
        printf("over %s\n", ct_path_name(path));
        fflush(stdout);
        random_lists(path, 1, 12);
        notifications(path);
        cancel(path, CT_READ);
        cancel(path, CT_WRITE);
        limits(path);
        bad_parameters(path);
        regions(path);
        release_in_flight(path);
    }
    random_lists(CT_PATH_TCP, 3, 12);
    unreachable();
    addresses();
    puts("ok");
    return 0;
}
