// The frame codec, and engines against raw sockets that send what no engine would.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "engine.h"
#include "support.h"

#define BLOCK_BYTES 4096u
#define BLOCKS 16u

static void check_header(ct_header header, ct_status expected) {
    uint8_t bytes[CT_HEADER_BYTES];
    ct_header_encode(&header, bytes);
    ct_header decoded = {0};
    CHECK_STATUS(ct_header_decode(bytes, &decoded), expected);
    if (expected == CT_OK) {
        CHECK(decoded.type == header.type && decoded.status == header.status);
        CHECK(decoded.request == header.request && decoded.body_bytes == header.body_bytes);
        CHECK(decoded.payload_bytes == header.payload_bytes);
    }
}

static void headers(void) {
    check_header((ct_header){.type = CT_FRAME_PING, .request = UINT64_MAX}, CT_OK);
    check_header((ct_header){.type = CT_FRAME_DATA, .payload_bytes = UINT64_MAX}, CT_OK);
    check_header((ct_header){.type = CT_FRAME_DATA, .status = CT_ESTALE}, CT_OK);
    check_header((ct_header){.type = CT_FRAME_NOTIFY, .body_bytes = 256}, CT_OK);
    check_header((ct_header){.type = CT_FRAME_NOTIFY, .body_bytes = 257}, CT_EPROTOCOL);
    check_header((ct_header){.type = CT_FRAME_NOTIFY, .body_bytes = 0}, CT_EPROTOCOL);
    check_header((ct_header){.type = CT_FRAME_PING, .payload_bytes = 1}, CT_EPROTOCOL);
    check_header((ct_header){.type = CT_FRAME_PING, .status = CT_ESTALE}, CT_EPROTOCOL);
    check_header((ct_header){.type = CT_FRAME_DATA, .status = -4}, CT_EPROTOCOL);
    check_header(
        (ct_header){.type = CT_FRAME_DATA, .status = CT_ESTALE, .payload_bytes = 1}, CT_EPROTOCOL);
    check_header(
        (ct_header){.type = CT_FRAME_READ, .body_bytes = CT_BODY_MAX_BYTES + 1}, CT_EPROTOCOL);
    check_header((ct_header){.type = 0}, CT_EPROTOCOL);
    check_header((ct_header){.type = CT_FRAME_DONE + 1}, CT_EPROTOCOL);
    uint8_t bytes[CT_HEADER_BYTES];
    ct_header_encode(&(ct_header){.type = CT_FRAME_PING}, bytes);
    bytes[0] ^= 1;
    ct_header decoded;
    CHECK_STATUS(ct_header_decode(bytes, &decoded), CT_EPROTOCOL);
}

// Random lists survive the trip; cut or stretched by a byte they do not.
static void lists(void) {
    static ct_plane planes[CT_PLANES_MAX];
    static uint32_t ids[CT_LIST_BLOCKS_MAX + 100];
    static uint8_t body[CT_BODY_MAX_BYTES + 1];
    static ct_list list;
    for (int round = 0; round < 500; round++) {
        ct_view view = {
            .planes = planes,
            .plane_count = 1 + random_below(CT_PLANES_MAX),
            .ids = random_below(2) ? ids : NULL,
        };
        for (uint32_t i = 0; i < view.plane_count; i++) {
            planes[i] = (ct_plane){random_next() >> 20, random_next() >> 30, 1 + random_below(9)};
        }
        uint32_t first = random_below(100);
        uint32_t count = 1 + random_below(CT_LIST_BLOCKS_MAX);
        for (uint32_t i = 0; i < count; i++) {
            ids[first + i] = (uint32_t)random_next();
        }
        ct_region region = {.id = random_below(64), .generation = random_next()};
        uint64_t epoch = random_next();
        ct_header header = {.type = CT_FRAME_READ};
        header.body_bytes = ct_list_encode(&region, epoch, &view, first, count, body);
        CHECK(header.body_bytes <= CT_BODY_MAX_BYTES);
        CHECK_STATUS(ct_list_decode(&header, body, &list), CT_OK);
        CHECK(list.region_id == region.id && list.generation == region.generation);
        CHECK(list.epoch == epoch);
        CHECK(list.block_count == count && list.plane_count == view.plane_count);
        for (uint32_t i = 0; i < view.plane_count; i++) {
            uint64_t shift = view.ids == NULL ? first * planes[i].stride_bytes : 0;
            CHECK(list.planes[i].offset_bytes == planes[i].offset_bytes + shift);
            CHECK(list.planes[i].stride_bytes == planes[i].stride_bytes);
            CHECK(list.planes[i].length_bytes == planes[i].length_bytes);
        }
        CHECK(view.ids == NULL || memcmp(list.ids, ids + first, count * 4) == 0);
        CHECK(list.total_bytes == count * ct_planes_block_bytes(planes, view.plane_count));
        header.body_bytes--;
        CHECK_STATUS(ct_list_decode(&header, body, &list), CT_EPROTOCOL);
        header.body_bytes += 2;
        CHECK_STATUS(ct_list_decode(&header, body, &list), CT_EPROTOCOL);
        header.body_bytes--;
        header.type = CT_FRAME_WRITE;
        header.payload_bytes = list.total_bytes + 1;
        CHECK_STATUS(ct_list_decode(&header, body, &list), CT_EPROTOCOL);
    }
}

static void bounds(void) {
    uint32_t ids[] = {2, 9, 1};
    ct_plane plane = {.offset_bytes = 10, .stride_bytes = 100, .length_bytes = 50};
    CHECK_STATUS(ct_blocks_check(&plane, 1, ids, 3, 960), CT_OK);
    CHECK_STATUS(ct_blocks_check(&plane, 1, ids, 3, 959), CT_ERANGE);
    CHECK_STATUS(ct_blocks_check(&plane, 1, NULL, 3, 260), CT_OK);
    CHECK_STATUS(ct_blocks_check(&plane, 1, NULL, 3, 259), CT_ERANGE);
    ct_plane wraps[] = {
        {.stride_bytes = UINT64_MAX / 4, .length_bytes = 8},
        {.offset_bytes = UINT64_MAX - 4, .length_bytes = 8},
        {.length_bytes = UINT64_MAX, .offset_bytes = 1},
    };
    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(ct_blocks_check(&wraps[i], 1, ids, 3, UINT64_MAX), CT_ERANGE);
    }
}

// ---- A raw client ----

static int raw_connect(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = WAIT_MS / 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    CHECK(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

static void raw_send(int fd, const void *bytes, size_t count) {
    CHECK(send(fd, bytes, count, MSG_NOSIGNAL) == (ssize_t)count);
}

// Not even zero bytes are read without waiting for some to come.
static void raw_receive(int fd, void *bytes, size_t count) {
    CHECK(count == 0 || recv(fd, bytes, count, MSG_WAITALL) == (ssize_t)count);
}

static void raw_send_frame(int fd, ct_header header, const uint8_t *body) {
    uint8_t bytes[CT_HEADER_BYTES];
    ct_header_encode(&header, bytes);
    raw_send(fd, bytes, sizeof(bytes));
    if (header.body_bytes > 0) {
        raw_send(fd, body, header.body_bytes);
    }
}

// A frame from the engine, payload not included.
static ct_header raw_receive_frame(int fd, uint8_t *body) {
    uint8_t bytes[CT_HEADER_BYTES];
    ct_header header;
    raw_receive(fd, bytes, sizeof(bytes));
    CHECK_STATUS(ct_header_decode(bytes, &header), CT_OK);
    raw_receive(fd, body, header.body_bytes);
    return header;
}

static void expect_closed(int fd) {
    uint8_t byte;
    ssize_t result = recv(fd, &byte, 1, 0);
    // A reset is as good as an end: the engine may close with bytes unread.
    CHECK(result == 0 || (result < 0 && errno == ECONNRESET));
    close(fd);
}

static void raw_hello(int fd, ct_frame_type type, uint32_t version, const uint8_t *boot_id) {
    uint8_t body[64];
    ct_hello hello = {.version = version};
    if (boot_id != NULL) {
        memcpy(hello.boot_id, boot_id, sizeof(hello.boot_id));
    }
    raw_send_frame(
        fd, (ct_header){.type = type, .body_bytes = ct_hello_encode(&hello, body)}, body);
}

static int raw_welcomed(uint16_t port) {
    uint8_t body[CT_BODY_MAX_BYTES];
    int fd = raw_connect(port);
    raw_hello(fd, CT_FRAME_HELLO, CT_PROTOCOL_VERSION, NULL);
    ct_header header = raw_receive_frame(fd, body);
    CHECK(header.type == CT_FRAME_WELCOME && header.status == CT_OK);
    return fd;
}

// Sends a READ or WRITE of `count` blocks and expects this status in the answer.
static void raw_request(
    int fd, ct_frame_type type, ct_region region, ct_plane plane, uint32_t count,
    ct_status expected) {
    uint8_t body[CT_BODY_MAX_BYTES];
    ct_view view = {.planes = &plane, .plane_count = 1};
    ct_header header = {.type = type, .request = 77};
    header.body_bytes = ct_list_encode(&region, 0, &view, 0, count, body);
    uint64_t bytes = count * plane.length_bytes;
    header.payload_bytes = type == CT_FRAME_WRITE ? bytes : 0;
    raw_send_frame(fd, header, body);
    uint8_t *payload = calloc(1, bytes);
    if (type == CT_FRAME_WRITE) {
        raw_send(fd, payload, bytes);
    }
    ct_header answer = raw_receive_frame(fd, body);
    CHECK(answer.type == (type == CT_FRAME_WRITE ? CT_FRAME_DONE : CT_FRAME_DATA));
    CHECK(answer.request == 77);
    CHECK_STATUS(answer.status, expected);
    uint64_t answered = type == CT_FRAME_READ && expected == CT_OK ? bytes : 0;
    CHECK(answer.payload_bytes == answered);
    raw_receive(fd, payload, answered);
    free(payload);
    if (answered > 0) {
        answer = raw_receive_frame(fd, body);
        CHECK(answer.type == CT_FRAME_DONE && answer.request == 77);
        CHECK_STATUS(answer.status, CT_OK);
    }
}

static void bad_clients(void) {
    ct_engine *engine = make_engine();
    ct_pool *pool;
    CHECK_STATUS(ct_pool_create(engine, BLOCK_BYTES, BLOCKS, &pool), CT_OK);
    uint8_t *memory = ct_pool_memory(pool);
    memset(memory, 9, BLOCK_BYTES * BLOCKS);
    ct_region region = ct_pool_region(pool);
    uint16_t port;
    CHECK_STATUS(ct_engine_listen(engine, "127.0.0.1", 0, &port), CT_OK);
    uint64_t violations = 0;

    // Answered with an error; the connection goes on.
    int fd = raw_welcomed(port);
    ct_plane whole = {.stride_bytes = BLOCK_BYTES, .length_bytes = BLOCK_BYTES};
    raw_request(fd, CT_FRAME_READ, region, whole, BLOCKS, CT_OK);
    ct_region wrong = region;
    wrong.generation++;
    raw_request(fd, CT_FRAME_READ, wrong, whole, 2, CT_ESTALE);
    raw_request(fd, CT_FRAME_WRITE, wrong, whole, 2, CT_ESTALE);
    wrong = region;
    wrong.id = 5;
    raw_request(fd, CT_FRAME_READ, wrong, whole, 2, CT_ENOTFOUND);
    wrong.id = CT_REGIONS_MAX;
    raw_request(fd, CT_FRAME_WRITE, wrong, whole, 2, CT_ENOTFOUND);
    raw_request(fd, CT_FRAME_READ, region, whole, BLOCKS + 1, CT_ERANGE);
    raw_request(fd, CT_FRAME_WRITE, region, whole, BLOCKS + 1, CT_ERANGE);
    ct_plane wraps = {.stride_bytes = UINT64_MAX, .offset_bytes = 1, .length_bytes = 16};
    raw_request(fd, CT_FRAME_WRITE, region, wraps, 2, CT_ERANGE);
    for (uint32_t i = 0; i < BLOCK_BYTES * BLOCKS; i++) {
        CHECK(memory[i] == 9);
    }
    CHECK(ct_engine_stats(engine).refused_requests == 7);

    // Cut off in the middle of a payload: the block is torn, the engine goes on.
    uint8_t body[CT_BODY_MAX_BYTES];
    ct_view view = {.planes = &whole, .plane_count = 1};
    ct_header header = {.type = CT_FRAME_WRITE, .payload_bytes = BLOCK_BYTES};
    header.body_bytes = ct_list_encode(&region, 0, &view, 0, 1, body);
    raw_send_frame(fd, header, body);
    uint8_t half[BLOCK_BYTES / 2] = {0};
    raw_send(fd, half, sizeof(half));
    close(fd);

    // Closed at once.
    fd = raw_connect(port);
    raw_send(fd, "GET / HTTP/1.1\r\nhost: somewhere\r\n\r\n", 36);
    expect_closed(fd);
    violations++;
    fd = raw_connect(port);
    raw_send_frame(fd, (ct_header){.type = CT_FRAME_PING}, NULL);
    expect_closed(fd);
    violations++;
    fd = raw_welcomed(port);
    raw_hello(fd, CT_FRAME_HELLO, CT_PROTOCOL_VERSION, NULL);
    expect_closed(fd);
    violations++;
    fd = raw_welcomed(port);
    raw_send_frame(fd, (ct_header){.type = CT_FRAME_PONG}, NULL);
    expect_closed(fd);
    violations++;
    fd = raw_welcomed(port);
    header.payload_bytes = BLOCK_BYTES - 1;
    raw_send_frame(fd, header, body);
    expect_closed(fd);
    violations++;

    fd = raw_connect(port);
    raw_hello(fd, CT_FRAME_HELLO, CT_PROTOCOL_VERSION + 1, NULL);
    ct_header answer = raw_receive_frame(fd, body);
    CHECK(answer.type == CT_FRAME_WELCOME && answer.status == CT_EVERSION);
    expect_closed(fd);

    fd = raw_connect(port);
    raw_send(fd, "LCT1", 4);
    close(fd);
    fd = raw_welcomed(port);
    raw_request(fd, CT_FRAME_READ, region, whole, BLOCKS, CT_OK);
    close(fd);
    CHECK(ct_engine_stats(engine).protocol_errors == violations);
    ct_engine_destroy(engine);
}

// A pool is let go in the middle of a payload: its memory is gone, so the connection must be too.
static void release_in_payload(void) {
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    params.lease_ns = UINT64_C(1000000000000);
    ct_engine *engine;
    ct_pool *pool;
    uint16_t port;
    CHECK_STATUS(ct_engine_create(&params, &engine), CT_OK);
    CHECK_STATUS(ct_pool_create(engine, BLOCK_BYTES, BLOCKS, &pool), CT_OK);
    CHECK_STATUS(ct_engine_listen(engine, "127.0.0.1", 0, &port), CT_OK);
    ct_region region = ct_pool_region(pool);
    int fd = raw_welcomed(port);
    uint8_t body[CT_BODY_MAX_BYTES];
    ct_plane whole = {.stride_bytes = BLOCK_BYTES, .length_bytes = BLOCK_BYTES};
    ct_view view = {.planes = &whole, .plane_count = 1};
    ct_header header = {.type = CT_FRAME_WRITE, .payload_bytes = BLOCK_BYTES};
    header.body_bytes = ct_list_encode(&region, 0, &view, 0, 1, body);
    raw_send_frame(fd, header, body);
    uint8_t half[BLOCK_BYTES / 2];
    memset(half, 7, sizeof(half));
    raw_send(fd, half, sizeof(half));
    wait_for_byte(ct_pool_memory(pool), 7);
    ct_pool_release(pool);
    expect_closed(fd);
    ct_engine_destroy(engine);
}

// ---- A raw server ----

typedef struct fake {
    int listener;
    uint16_t port;
    ct_engine *engine;
    ct_peer *peer;
    int fd;
    uint8_t boot_id[16];  // of the engine that connected
} fake;

// An engine that has just sent HELLO to a server that is none.
static fake begin_fake(uint32_t paths) {
    fake f = {.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(address);
    CHECK(bind(f.listener, (struct sockaddr *)&address, bytes) == 0 && listen(f.listener, 1) == 0);
    CHECK(getsockname(f.listener, (struct sockaddr *)&address, &bytes) == 0);
    f.port = ntohs(address.sin_port);
    f.engine = make_engine();
    f.peer = start_connect(f.engine, f.port, paths);
    f.fd = accept(f.listener, NULL, NULL);
    uint8_t body[CT_BODY_MAX_BYTES];
    ct_header header = raw_receive_frame(f.fd, body);
    ct_hello hello;
    CHECK(header.type == CT_FRAME_HELLO);
    CHECK_STATUS(ct_hello_decode(&header, body, &hello), CT_OK);
    memcpy(f.boot_id, hello.boot_id, sizeof(f.boot_id));
    return f;
}

// A fake whose peer is up over TCP, with one region of eight blocks.
static fake begin_fake_up(uint64_t block_bytes) {
    // It claims to be on this host, but nobody listens on its channel: TCP is what remains.
    fake f = begin_fake(CT_PATH_MASK_ANY);
    raw_hello(f.fd, CT_FRAME_WELCOME, CT_PROTOCOL_VERSION, f.boot_id);
    uint8_t body[CT_BODY_MAX_BYTES];
    CHECK(raw_receive_frame(f.fd, body).type == CT_FRAME_SUBSCRIBE);
    ct_region_change change = {
        .region = {.generation = 3, .size_bytes = 8 * block_bytes, .block_bytes = block_bytes}};
    ct_header header = {
        .type = CT_FRAME_REGION, .body_bytes = ct_region_change_encode(&change, body)};
    raw_send_frame(f.fd, header, body);
    raw_send_frame(f.fd, (ct_header){.type = CT_FRAME_READY}, NULL);
    CHECK(expect_event(f.engine, CT_EVENT_PEER_UP).path == CT_PATH_TCP);
    return f;
}

static void end_fake(fake *f, ct_status expected) {
    CHECK_STATUS(expect_event(f->engine, CT_EVENT_PEER_DOWN).status, expected);
    close(f->fd);
    close(f->listener);
    ct_engine_destroy(f->engine);
}

// The next request that is not a PING; those are answered.
static ct_header next_request(const fake *f) {
    uint8_t body[CT_BODY_MAX_BYTES];
    for (;;) {
        ct_header request = raw_receive_frame(f->fd, body);
        if (request.type != CT_FRAME_PING) {
            return request;
        }
        ct_header pong = {.type = CT_FRAME_PONG, .request = request.request};
        raw_send_frame(f->fd, pong, NULL);
    }
}

static uint64_t submit_read(const fake *f, ct_pool *pool, uint32_t count) {
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.operation = CT_READ;
    params.peer = f->peer;
    params.pool = pool;
    params.region = only_region(f->peer);
    params.block_count = count;
    uint64_t id;
    CHECK_STATUS(ct_transfer_submit(f->engine, &params, &id), CT_OK);
    return id;
}

// Answers a READ of four blocks with this frame; the peer must go down and the transfer with it.
static void bad_answer(ct_header answer, const uint8_t *body, ct_status expected) {
    fake f = begin_fake_up(1024);
    ct_pool *pool;
    CHECK_STATUS(ct_pool_create(f.engine, 1024, 4, &pool), CT_OK);
    uint64_t id = submit_read(&f, pool, 4);
    ct_header request = next_request(&f);
    CHECK(request.type == CT_FRAME_READ);
    answer.request += request.request;
    raw_send_frame(f.fd, answer, body);
    ct_event event = expect_event(f.engine, CT_EVENT_TRANSFER);
    CHECK(event.transfer_id == id && event.failed_count == 4);
    CHECK_STATUS(event.status, expected);
    if (expected == CT_ERANGE) {
        // An orderly refusal ends the transfer and nothing else.
        close(f.fd);
        f.fd = -1;
        end_fake(&f, CT_EPEERDEAD);
    } else {
        end_fake(&f, expected);
    }
}

// A read is cancelled in the middle of an answer, with another answer to come. Once it is final,
// neither may reach its blocks.
static void late_answers(void) {
    enum { LARGE = 1 << 20 };  // one request per block
    fake f = begin_fake_up(LARGE);
    ct_pool *pool;
    CHECK_STATUS(ct_pool_create(f.engine, LARGE, 2, &pool), CT_OK);
    uint8_t *memory = ct_pool_memory(pool);
    uint8_t *payload = malloc(LARGE);
    memset(payload, 1, LARGE);
    uint64_t id = submit_read(&f, pool, 2);
    ct_header first = next_request(&f);
    ct_header second = next_request(&f);
    CHECK(first.type == CT_FRAME_READ && second.type == CT_FRAME_READ);
    ct_header answer = {
        .type = CT_FRAME_DATA, .request = first.request, .payload_bytes = LARGE};
    raw_send_frame(f.fd, answer, NULL);
    raw_send(f.fd, payload, LARGE / 2);
    wait_for_byte(memory, 1);
    ct_transfer_cancel(f.engine, id);
    ct_event event = expect_event(f.engine, CT_EVENT_TRANSFER);
    CHECK_STATUS(event.status, CT_ECANCELED);
    CHECK(event.failed_count == 2);
    memset(memory, 2, 2 * LARGE);
    raw_send(f.fd, payload, LARGE / 2);
    ct_header done = {.type = CT_FRAME_DONE, .request = first.request};
    raw_send_frame(f.fd, done, NULL);
    answer.request = second.request;
    raw_send_frame(f.fd, answer, NULL);
    raw_send(f.fd, payload, LARGE);
    done.request = second.request;
    raw_send_frame(f.fd, done, NULL);
    // The answers are in when a request behind them is answered.
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.peer = f.peer;
    params.notification = "x";
    params.notification_bytes = 1;
    CHECK_STATUS(ct_transfer_submit(f.engine, &params, &id), CT_OK);
    ct_header notify = next_request(&f);
    CHECK(notify.type == CT_FRAME_NOTIFY);
    raw_send_frame(f.fd, (ct_header){.type = CT_FRAME_DONE, .request = notify.request}, NULL);
    CHECK_STATUS(expect_event(f.engine, CT_EVENT_TRANSFER).status, CT_OK);
    for (uint32_t i = 0; i < 2 * LARGE; i++) {
        CHECK(memory[i] == 2);
    }
    free(payload);
    close(f.fd);
    f.fd = -1;
    end_fake(&f, CT_EPEERDEAD);
}

// The last word on a read comes behind its bytes: it is not done before, and it may be an error.
static void last_word(ct_status status) {
    fake f = begin_fake_up(1024);
    ct_pool *pool;
    CHECK_STATUS(ct_pool_create(f.engine, 1024, 4, &pool), CT_OK);
    uint8_t *memory = ct_pool_memory(pool);
    uint64_t id = submit_read(&f, pool, 4);
    ct_header answer = {.type = CT_FRAME_DATA, .payload_bytes = 4096};
    answer.request = next_request(&f).request;
    uint8_t payload[4096];
    memset(payload, 1, sizeof(payload));
    raw_send_frame(f.fd, answer, NULL);
    raw_send(f.fd, payload, sizeof(payload));
    wait_for_byte(memory + 4095, 1);
    // Whatever the engine makes of the bytes, it has made it once it answers to this.
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.peer = f.peer;
    params.notification = "x";
    params.notification_bytes = 1;
    uint64_t notify_id;
    CHECK_STATUS(ct_transfer_submit(f.engine, &params, &notify_id), CT_OK);
    ct_header notify = next_request(&f);
    CHECK(notify.type == CT_FRAME_NOTIFY);
    ct_event event;
    size_t count;
    ct_engine_poll(f.engine, &event, 1, &count);
    CHECK(count == 0);
    ct_header done = {.type = CT_FRAME_DONE, .request = answer.request, .status = status};
    raw_send_frame(f.fd, done, NULL);
    event = expect_event(f.engine, CT_EVENT_TRANSFER);
    CHECK(event.transfer_id == id && event.failed_count == (status == CT_OK ? 0 : 4));
    CHECK_STATUS(event.status, status);
    raw_send_frame(f.fd, (ct_header){.type = CT_FRAME_DONE, .request = notify.request}, NULL);
    CHECK(expect_event(f.engine, CT_EVENT_TRANSFER).transfer_id == notify_id);
    close(f.fd);
    f.fd = -1;
    end_fake(&f, CT_EPEERDEAD);
}

// Passes a memfd of this size for a region of 8 KiB over the same-host channel.
static void pass_memfd(off_t bytes, int seals, ct_status expected) {
    struct sockaddr_storage address;
    socklen_t address_bytes = ct_channel_address(&(ct_engine_id){0}, &address);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(listener, (struct sockaddr *)&address, address_bytes) == 0);
    CHECK(listen(listener, 1) == 0);
    fake f = begin_fake(CT_PATH_MASK(CT_PATH_MEMFD));
    raw_hello(f.fd, CT_FRAME_WELCOME, CT_PROTOCOL_VERSION, f.boot_id);
    int channel = accept(listener, NULL, NULL);
    uint8_t body[CT_BODY_MAX_BYTES];
    CHECK(raw_receive_frame(channel, body).type == CT_FRAME_HELLO);
    raw_hello(channel, CT_FRAME_WELCOME, CT_PROTOCOL_VERSION, f.boot_id);
    CHECK(raw_receive_frame(channel, body).type == CT_FRAME_SUBSCRIBE);

    int memfd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(ftruncate(memfd, bytes) == 0 && fcntl(memfd, F_ADD_SEALS, seals) == 0);
    ct_region_change change = {
        .region = {.generation = 3, .size_bytes = 8192, .block_bytes = 1024}};
    uint8_t frame[CT_HEADER_BYTES + CT_BODY_MAX_BYTES];
    ct_header header = {
        .type = CT_FRAME_REGION,
        .body_bytes = ct_region_change_encode(&change, frame + CT_HEADER_BYTES)};
    ct_header_encode(&header, frame);
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {frame, CT_HEADER_BYTES + header.body_bytes};
    struct msghdr message = {
        .msg_iov = &vector,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    *rights = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(rights), &memfd, sizeof(memfd));
    CHECK(sendmsg(channel, &message, MSG_NOSIGNAL) == (ssize_t)vector.iov_len);
    if (expected == CT_OK) {
        raw_send_frame(channel, (ct_header){.type = CT_FRAME_READY}, NULL);
        CHECK(expect_event(f.engine, CT_EVENT_PEER_UP).path == CT_PATH_MEMFD);
        close(channel);
        end_fake(&f, CT_EPEERDEAD);
    } else {
        end_fake(&f, expected);
        close(channel);
    }
    close(memfd);
    close(listener);
}

static void passed_memfds(void) {
    // Eight blocks, a number for each, the epoch and whether all is withdrawn.
    enum { BYTES = 8192 + 10 * 8 };
    pass_memfd(BYTES, F_SEAL_SHRINK, CT_OK);
    pass_memfd(BYTES, F_SEAL_GROW, CT_EPROTOCOL);
    pass_memfd(BYTES - 1, F_SEAL_SHRINK, CT_EPROTOCOL);
}

static void bad_servers(void) {
    fake f = begin_fake(CT_PATH_MASK(CT_PATH_MEMFD));
    uint8_t other[16] = {1};
    raw_hello(f.fd, CT_FRAME_WELCOME, CT_PROTOCOL_VERSION, other);
    end_fake(&f, CT_EPOLICY);

    f = begin_fake(CT_PATH_MASK(CT_PATH_MEMFD));
    raw_hello(f.fd, CT_FRAME_WELCOME, CT_PROTOCOL_VERSION, f.boot_id);
    end_fake(&f, CT_EPOLICY);

    f = begin_fake(CT_PATH_MASK_ANY);
    raw_hello(f.fd, CT_FRAME_WELCOME, CT_PROTOCOL_VERSION + 1, f.boot_id);
    end_fake(&f, CT_EVERSION);

    f = begin_fake(CT_PATH_MASK_ANY);
    raw_send(f.fd, "HTTP/1.1 400 Bad Request\r\n\r\n    ", 32);
    end_fake(&f, CT_EPROTOCOL);

    f = begin_fake(CT_PATH_MASK_ANY);
    raw_send_frame(f.fd, (ct_header){.type = CT_FRAME_READY}, NULL);
    end_fake(&f, CT_EPROTOCOL);

    f = begin_fake_up(1024);
    raw_send_frame(f.fd, (ct_header){.type = CT_FRAME_DONE, .request = 99}, NULL);
    end_fake(&f, CT_EPROTOCOL);

    bad_answer((ct_header){.type = CT_FRAME_DATA, .status = CT_ERANGE}, NULL, CT_ERANGE);
    bad_answer(
        (ct_header){.type = CT_FRAME_DATA, .payload_bytes = 4097}, NULL, CT_EPROTOCOL);
    bad_answer((ct_header){.type = CT_FRAME_DATA}, NULL, CT_EPROTOCOL);
    bad_answer((ct_header){.type = CT_FRAME_DONE}, NULL, CT_EPROTOCOL);
    bad_answer(
        (ct_header){.type = CT_FRAME_DATA, .request = 1, .payload_bytes = 4096}, NULL,
        CT_EPROTOCOL);
    uint8_t zeros[40] = {0};
    bad_answer((ct_header){.type = CT_FRAME_REGION, .body_bytes = 40}, zeros, CT_EPROTOCOL);
    // An address is for the same-host channel alone.
    uint8_t body[CT_BODY_MAX_BYTES];
    ct_region_change change = {
        .region = {.generation = 4, .size_bytes = 8192, .block_bytes = 1024}, .address = 4096};
    bad_answer(
        (ct_header){
            .type = CT_FRAME_REGION, .body_bytes = ct_region_change_encode(&change, body)},
        body, CT_EPROTOCOL);
}

int main(void) {
    random_begin();
    headers();
    lists();
    bounds();
    bad_clients();
    release_in_payload();
    bad_servers();
    passed_memfds();
    late_answers();
    last_word(CT_OK);
    last_word(CT_ESTALE);
    puts("ok");
    return 0;
}
