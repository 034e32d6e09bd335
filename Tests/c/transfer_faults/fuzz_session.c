// Whole sessions with a peer that means harm, over a real socket: a handshake or something like it,
// then frames that are right but for what the input does to them. Whatever comes, an engine writes
// to no byte but those it was asked to, sends none but those it was asked for, and without a
// handshake gives nothing and takes nothing. Every transfer ends once.
//
// The first byte of an input chooses which side the engine is on and how much of the handshake is
// real; the rest is a script of frames.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "frame.h"

#define BLOCK_BYTES 256u
#define BLOCKS 32u
#define REGION_BYTES (BLOCK_BYTES * BLOCKS)
#define GUARD_BYTES 4096u
#define SESSION_BYTES (64u << 10)
#define FRAMES_MAX 32
#define LOT 8u  // blocks of a transfer
#define WAIT_MS 10000
#define GENERATION 3

static void require(int condition, const char *what) {
    if (!condition) {
        fprintf(stderr, "not true: %s\n", what);
        __builtin_trap();
    }
}
#define REQUIRE(condition) require(condition, #condition)

// ---- Memory with guards ----

// The kernel writes for the engine, and would not be stopped by pages without access; a guard is
// of bytes that nobody else has.
typedef struct arena {
    uint64_t before[GUARD_BYTES / 8];
    uint8_t region[REGION_BYTES];
    uint64_t behind[GUARD_BYTES / 8];
} arena;

#define SECRET UINT64_C(0xd15ea5e0fee1900d)

static arena served;
static arena local;
static uint8_t snapshot[REGION_BYTES];

static void make_guards(arena *a) {
    for (size_t i = 0; i < GUARD_BYTES / 8; i++) {
        a->before[i] = a->behind[i] = SECRET;
    }
}

static void check_guards(const arena *a) {
    for (size_t i = 0; i < GUARD_BYTES / 8; i++) {
        REQUIRE(a->before[i] == SECRET && a->behind[i] == SECRET);
    }
}

// ---- The script ----

typedef struct script {
    const uint8_t *at;
    size_t left;
    uint8_t out[SESSION_BYTES];
    size_t bytes;
} script;

static uint8_t next_byte(script *s) {
    if (s->left == 0) {
        return 0;
    }
    s->left--;
    return *s->at++;
}

static uint64_t next_number(script *s) {
    // Small ones mostly, and the far ends.
    uint8_t kind = next_byte(s);
    uint64_t value = next_byte(s) | (uint64_t)next_byte(s) << 8;
    return kind < 200 ? value : kind < 240 ? value << (kind - 190) : UINT64_MAX - value;
}

// Appends a frame and then damages it, or not.
static void put_frame(script *s, ct_header header, const uint8_t *body, uint64_t payload_bytes) {
    size_t bytes = CT_HEADER_BYTES + header.body_bytes;
    if (s->bytes + bytes > SESSION_BYTES) {
        return;
    }
    uint8_t *frame = s->out + s->bytes;
    ct_header_encode(&header, frame);
    if (header.body_bytes > 0) {
        memcpy(frame + CT_HEADER_BYTES, body, header.body_bytes);
    }
    size_t room = SESSION_BYTES - s->bytes - bytes;
    size_t payload = payload_bytes < room ? (size_t)payload_bytes : room;
    memset(frame + bytes, 0x77, payload);
    bytes += payload;
    s->bytes += bytes;
    for (int i = next_byte(s) % 4; i > 0; i--) {
        size_t offset = (next_byte(s) | (size_t)next_byte(s) << 8) % bytes;
        frame[offset] ^= next_byte(s);
    }
}

static void put_hello(script *s, ct_frame_type type) {
    uint8_t body[CT_BODY_MAX_BYTES];
    ct_hello hello = {.version = CT_PROTOCOL_VERSION};
    ct_header header = {.type = type, .body_bytes = ct_hello_encode(&hello, body)};
    put_frame(s, header, body, 0);
}

static void put_plain(script *s, ct_frame_type type) {
    put_frame(s, (ct_header){.type = type, .request = next_byte(s) % 8}, NULL, 0);
}

// Right in the parts that the engine checks one by one, or not.
static void put_list(script *s, ct_frame_type type, ct_region region) {
    static uint8_t body[CT_BODY_MAX_BYTES];
    ct_plane planes[4];
    uint32_t ids[64];
    uint8_t shape = next_byte(s);
    uint32_t count = 1 + next_byte(s) % 64;
    ct_view view = {.planes = planes, .plane_count = 1 + shape % 4u};
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < view.plane_count; i++) {
        planes[i] = (ct_plane){.stride_bytes = BLOCK_BYTES, .length_bytes = BLOCK_BYTES};
        if (shape & 16) {
            planes[i] = (ct_plane){next_number(s), next_number(s), next_number(s)};
        }
        bytes += planes[i].length_bytes * count;
    }
    if (shape & 32) {
        for (uint32_t i = 0; i < count; i++) {
            ids[i] = shape & 64 ? next_byte(s) : next_byte(s) % BLOCKS;
        }
        view.ids = ids;
    }
    ct_header header = {.type = type, .request = next_byte(s)};
    header.body_bytes = ct_list_encode(&region, 0, &view, 0, count, body);
    header.payload_bytes = type == CT_FRAME_WRITE ? bytes : 0;
    put_frame(s, header, body, header.payload_bytes);
}

static void put_region(script *s) {
    uint8_t body[CT_BODY_MAX_BYTES];
    ct_region_change change = {
        .withdrawn = next_byte(s) % 2,
        .region = {
            .id = next_byte(s) % 4,
            .generation = GENERATION + next_byte(s) % 2,
            .size_bytes = REGION_BYTES,
            .block_bytes = BLOCK_BYTES}};
    ct_header header = {
        .type = CT_FRAME_REGION, .body_bytes = ct_region_change_encode(&change, body)};
    put_frame(s, header, body, 0);
}

static void put_data(script *s) {
    uint8_t kind = next_byte(s);
    ct_header header = {.type = CT_FRAME_DATA, .request = kind % 4};
    header.payload_bytes = kind < 200 ? LOT * BLOCK_BYTES : next_number(s);
    put_frame(s, header, NULL, header.payload_bytes);
}

static void put_done(script *s) {
    static const ct_status statuses[] = {CT_OK, CT_OK, CT_ESTALE, CT_ERANGE};
    uint8_t kind = next_byte(s);
    put_frame(
        s,
        (ct_header){.type = CT_FRAME_DONE, .request = kind % 4, .status = statuses[kind / 4 % 4]},
        NULL, 0);
}

// Any type with a body from the input, or no frame at all.
static void put_odd(script *s, int is_frame) {
    uint8_t body[256];
    ct_header header = {.type = (ct_frame_type)(1 + next_byte(s) % 12)};
    header.request = next_byte(s);
    header.body_bytes = next_byte(s);
    header.payload_bytes = next_byte(s);
    for (uint32_t i = 0; i < header.body_bytes; i++) {
        body[i] = next_byte(s);
    }
    if (is_frame) {
        put_frame(s, header, body, header.payload_bytes);
    } else if (s->bytes + header.body_bytes <= SESSION_BYTES) {
        memcpy(s->out + s->bytes, body, header.body_bytes);
        s->bytes += header.body_bytes;
    }
}

// ---- The socket ----

static uint8_t answers[1 << 20];

// Sends the script and takes what comes until the engine has closed. Returns how much came; what
// did not fit is not kept.
static size_t converse(int fd, const script *s) {
    size_t sent = 0;
    size_t received = 0;
    int has_shut = 0;
    for (;;) {
        if (sent == s->bytes && !has_shut) {
            has_shut = 1;
            shutdown(fd, SHUT_WR);
        }
        struct pollfd waiting = {.fd = fd, .events = POLLIN | (has_shut ? 0 : POLLOUT)};
        REQUIRE(poll(&waiting, 1, WAIT_MS) == 1);
        if (waiting.revents & (POLLIN | POLLERR | POLLHUP)) {
            static uint8_t rest[4096];
            size_t room = sizeof(answers) - received;
            ssize_t bytes = room > 0 ? recv(fd, answers + received, room, MSG_DONTWAIT)
                                     : recv(fd, rest, sizeof(rest), MSG_DONTWAIT);
            if (bytes == 0 || (bytes < 0 && errno != EAGAIN)) {
                close(fd);
                return received;
            }
            received += bytes > 0 && room > 0 ? (size_t)bytes : 0;
        }
        if (!has_shut && waiting.revents & POLLOUT) {
            ssize_t bytes =
                send(fd, s->out + sent, s->bytes - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (bytes < 0 && errno != EAGAIN) {
                has_shut = 1;
            }
            sent += bytes > 0 ? (size_t)bytes : 0;
        }
    }
}

// Eight bytes of a guard begin at every address of what came, if any.
static void check_answers(size_t bytes) {
    uint64_t secret = SECRET;
    REQUIRE(bytes < 8 || memmem(answers, bytes, &secret, sizeof(secret)) == NULL);
}

static struct sockaddr_in loopback(uint16_t port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static ct_event next_event(ct_engine *engine) {
    for (;;) {
        ct_event event;
        size_t count;
        ct_engine_poll(engine, &event, 1, &count);
        if (count == 1) {
            return event;
        }
        struct pollfd waiting = {.fd = ct_engine_descriptor(engine), .events = POLLIN};
        REQUIRE(poll(&waiting, 1, WAIT_MS) == 1);
    }
}

// ---- The engine serves ----

static ct_engine *server;
static ct_region served_region;
static uint16_t server_port;

static void start_server(void) {
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    ct_pool *pool;
    make_guards(&served);
    REQUIRE(ct_engine_create(&params, &server) == CT_OK);
    REQUIRE(
        ct_region_add(server, served.region, REGION_BYTES, BLOCK_BYTES, &pool) == CT_OK);
    REQUIRE(ct_engine_listen(server, "127.0.0.1", 0, &server_port) == CT_OK);
    served_region = ct_pool_region(pool);
}

static int connect_to_server(void) {
    struct sockaddr_in address = loopback(server_port);
    for (int i = 0; i < WAIT_MS; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
            return fd;
        }
        // Ports that closed connections hold are free again soon.
        close(fd);
        poll(NULL, 0, 1);
    }
    REQUIRE(0);
    return -1;
}

// Whether what is sent begins with a handshake that an engine accepts.
static int is_introduced(const script *s) {
    ct_header header;
    ct_hello hello;
    return s->bytes >= CT_HEADER_BYTES && ct_header_decode(s->out, &header) == CT_OK &&
           header.type == CT_FRAME_HELLO && s->bytes >= CT_HEADER_BYTES + header.body_bytes &&
           ct_hello_decode(&header, s->out + CT_HEADER_BYTES, &hello) == CT_OK &&
           hello.version == CT_PROTOCOL_VERSION;
}

static void fuzz_server(script *s, int is_greeted) {
    if (is_greeted) {
        put_hello(s, CT_FRAME_HELLO);
    }
    for (int i = 0; i < FRAMES_MAX && s->left > 0; i++) {
        switch (next_byte(s) % 8) {
        case 0: put_plain(s, CT_FRAME_PING); break;
        case 1: put_plain(s, CT_FRAME_SUBSCRIBE); break;
        case 2: put_list(s, CT_FRAME_READ, served_region); break;
        case 3: put_list(s, CT_FRAME_WRITE, served_region); break;
        case 4: put_odd(s, 1); break;
        case 5: put_hello(s, CT_FRAME_HELLO); break;
        case 6: put_list(s, CT_FRAME_WRITE, served_region); break;
        default: put_odd(s, 0); break;
        }
    }
    memset(served.region, 0x11, REGION_BYTES);
    size_t bytes = converse(connect_to_server(), s);
    check_guards(&served);
    check_answers(bytes);
    if (!is_introduced(s)) {
        for (size_t i = 0; i < REGION_BYTES; i++) {
            REQUIRE(served.region[i] == 0x11);
        }
        ct_header header;
        int is_refusal = bytes >= CT_HEADER_BYTES &&
                         ct_header_decode(answers, &header) == CT_OK &&
                         header.type == CT_FRAME_WELCOME && header.status == CT_EVERSION &&
                         bytes == CT_HEADER_BYTES + header.body_bytes;
        REQUIRE(bytes == 0 || is_refusal);
    }
    ct_event events[64];
    size_t count;
    do {
        ct_engine_poll(server, events, 64, &count);
    } while (count == 64);
}

// ---- The engine connects ----

static ct_engine *client;
static ct_pool *client_pool;
static int listener;
static uint16_t listener_port;

static void start_client(void) {
    ct_engine_params params = CT_ENGINE_PARAMS_INIT;
    struct sockaddr_in address = loopback(0);
    socklen_t bytes = sizeof(address);
    make_guards(&local);
    REQUIRE(ct_engine_create(&params, &client) == CT_OK);
    REQUIRE(
        ct_region_add(client, local.region, REGION_BYTES, BLOCK_BYTES, &client_pool) == CT_OK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(bind(listener, (struct sockaddr *)&address, bytes) == 0 && listen(listener, 4) == 0);
    REQUIRE(getsockname(listener, (struct sockaddr *)&address, &bytes) == 0);
    listener_port = ntohs(address.sin_port);
}

// LOT blocks: the first are read into, the next are written from.
static uint64_t submit(ct_peer *peer, ct_operation operation) {
    uint32_t ids[LOT];
    for (uint32_t i = 0; i < LOT; i++) {
        ids[i] = i + (operation == CT_WRITE ? LOT : 0);
    }
    ct_transfer_params params = CT_TRANSFER_PARAMS_INIT;
    params.operation = operation;
    params.peer = peer;
    params.pool = client_pool;
    params.region = (ct_region){
        .generation = GENERATION, .size_bytes = REGION_BYTES, .block_bytes = BLOCK_BYTES};
    params.local.ids = ids;
    params.remote.ids = ids;
    params.block_count = LOT;
    uint64_t id;
    REQUIRE(ct_transfer_submit(client, &params, &id) == CT_OK);
    return id;
}

static void fuzz_client(script *s, int is_greeted) {
    if (is_greeted) {
        uint8_t body[CT_BODY_MAX_BYTES];
        put_hello(s, CT_FRAME_WELCOME);
        ct_region_change change = {
            .region = {
                .generation = GENERATION,
                .size_bytes = REGION_BYTES,
                .block_bytes = BLOCK_BYTES}};
        ct_header header = {
            .type = CT_FRAME_REGION, .body_bytes = ct_region_change_encode(&change, body)};
        put_frame(s, header, body, 0);
        put_frame(s, (ct_header){.type = CT_FRAME_READY}, NULL, 0);
    }
    for (int i = 0; i < FRAMES_MAX && s->left > 0; i++) {
        switch (next_byte(s) % 8) {
        case 0: put_data(s); break;
        case 1: put_done(s); break;
        case 2: put_region(s); break;
        case 3: put_plain(s, CT_FRAME_READY); break;
        case 4: put_plain(s, CT_FRAME_PONG); break;
        case 5: put_hello(s, CT_FRAME_WELCOME); break;
        case 6: put_odd(s, 1); break;
        default: put_odd(s, 0); break;
        }
    }
    memset(local.region, 0x22, REGION_BYTES);
    memcpy(snapshot, local.region, REGION_BYTES);
    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = listener_port;
    params.allowed_paths = CT_PATH_MASK(CT_PATH_TCP);
    ct_peer *peer;
    REQUIRE(ct_peer_connect(client, &params, &peer) == CT_OK);
    uint64_t ids[] = {submit(peer, CT_READ), submit(peer, CT_WRITE)};
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    REQUIRE(fd >= 0);
    size_t bytes = converse(fd, s);
    int finals[2] = {0};
    for (int is_down = 0; !is_down || finals[0] + finals[1] < 2;) {
        ct_event event = next_event(client);
        if (event.kind == CT_EVENT_TRANSFER) {
            int which = event.transfer_id == ids[1];
            REQUIRE(event.transfer_id == ids[which] && finals[which]++ == 0);
            REQUIRE((event.status == CT_OK) == (event.failed_count == 0));
        }
        is_down |= event.kind == CT_EVENT_PEER_DOWN;
    }
    ct_peer_release(peer);
    check_guards(&local);
    check_answers(bytes);
    REQUIRE(
        memcmp(
            local.region + LOT * BLOCK_BYTES, snapshot + LOT * BLOCK_BYTES,
            REGION_BYTES - LOT * BLOCK_BYTES) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static script s;
    if (bytes == 0) {
        return 0;
    }
    if (server == NULL) {
        start_server();
        start_client();
    }
    s.at = data + 1;
    s.left = bytes - 1;
    s.bytes = 0;
    if (data[0] & 1) {
        fuzz_server(&s, (data[0] & 6) != 0);
    } else {
        fuzz_client(&s, (data[0] & 6) != 0);
    }
    return 0;
}
