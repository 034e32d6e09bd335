#include "CTransferFloor.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define VECTORS 512

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static void stream_lines(
    uint8_t *target, const uint8_t *source, size_t stride, size_t streams, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) {
        for (size_t at = i; at < i + streams * stride; at += stride) {
            __m256i a = _mm256_load_si256((const __m256i *)(source + at));
            __m256i b = _mm256_load_si256((const __m256i *)(source + at + 32));
            _mm256_stream_si256((__m256i *)(target + at), a);
            _mm256_stream_si256((__m256i *)(target + at + 32), b);
        }
    }
}

// Small blocks are fastest with four of their pages under way, large ones line by line.
__attribute__((target("avx2"))) static void stream_block(
    uint8_t *target, const uint8_t *source, size_t bytes) {
    if (bytes == 16384) {
        stream_lines(target, source, 4096, 4, 4096);
    } else {
        stream_lines(target, source, bytes, 1, bytes);
    }
    _mm_sfence();
}

static int can_stream(void) {
    return __builtin_cpu_supports("avx2");
}
#else
static void stream_block(uint8_t *target, const uint8_t *source, size_t bytes) {
    memcpy(target, source, bytes);
}

static int can_stream(void) {
    return 0;
}
#endif

int ctf_copy(
    uint8_t *target, const uint32_t *target_ids, const uint8_t *source, const uint32_t *source_ids,
    size_t count, size_t block_bytes) {
    int streams = can_stream();
    for (size_t i = 0; i < count; i++) {
        uint8_t *to = target + target_ids[i] * block_bytes;
        const uint8_t *from = source + source_ids[i] * block_bytes;
        if (streams) {
            stream_block(to, from, block_bytes);
        } else {
            memcpy(to, from, block_bytes);
        }
    }
    return 0;
}

int ctf_attach(
    int process_id, uint8_t *target, const uint32_t *target_ids, uint64_t source,
    const uint32_t *source_ids, size_t count, size_t block_bytes) {
    enum { BATCH = 1024 };
    static struct iovec local[BATCH];
    static struct iovec remote[BATCH];
    for (size_t first = 0; first < count; first += BATCH) {
        size_t batch = count - first < BATCH ? count - first : BATCH;
        for (size_t i = 0; i < batch; i++) {
            uint64_t from = source + source_ids[first + i] * block_bytes;
            local[i] = (struct iovec){target + target_ids[first + i] * block_bytes, block_bytes};
            remote[i] = (struct iovec){(void *)(uintptr_t)from, block_bytes};
        }
        ssize_t bytes = process_vm_readv(process_id, local, batch, remote, batch, 0);
        if (bytes != (ssize_t)(batch * block_bytes)) {
            return -1;
        }
    }
    return 0;
}

static struct sockaddr_in loopback(uint16_t port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
}

int ctf_listen(uint16_t *port_p) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = loopback(0);
    socklen_t bytes = sizeof(address);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, bytes) != 0 || listen(fd, 1) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &bytes) != 0) {
        return -1;
    }
    *port_p = ntohs(address.sin_port);
    return fd;
}

// Moves every byte of the vectors, by as many calls as it takes.
static int move_all(int fd, struct iovec *vectors, size_t count, int sends) {
    while (count > 0) {
        struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
        ssize_t bytes = sends ? sendmsg(fd, &message, MSG_NOSIGNAL) : recvmsg(fd, &message, 0);
        if (bytes <= 0) {
            return -1;
        }
        while (count > 0 && (size_t)bytes >= vectors->iov_len) {
            bytes -= (ssize_t)vectors->iov_len;
            vectors++;
            count--;
        }
        if (count > 0) {
            vectors->iov_base = (uint8_t *)vectors->iov_base + bytes;
            vectors->iov_len -= (size_t)bytes;
        }
    }
    return 0;
}

// `ids` NULL: the blocks from the first on, every other one, so that none can be merged.
static int move_blocks(
    int fd, uint8_t *memory, const uint32_t *ids, size_t count, size_t block_bytes, int sends) {
    for (size_t first = 0; first < count; first += VECTORS) {
        struct iovec vectors[VECTORS];
        size_t batch = count - first < VECTORS ? count - first : VECTORS;
        for (size_t i = 0; i < batch; i++) {
            size_t id = ids != NULL ? ids[first + i] : 2 * (first + i);
            vectors[i] = (struct iovec){memory + id * block_bytes, block_bytes};
        }
        if (move_all(fd, vectors, batch, sends) != 0) {
            return -1;
        }
    }
    return 0;
}

void ctf_serve(int listener, const uint8_t *memory) {
    int fd = accept(listener, NULL, NULL);
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    uint64_t request[2];
    while (recv(fd, request, sizeof(request), MSG_WAITALL) == sizeof(request)) {
        // Only sent from, though an iovec cannot say so.
        if (move_blocks(fd, (uint8_t *)(uintptr_t)memory, NULL, request[0], request[1], 1) != 0) {
            break;
        }
    }
    close(fd);
}

int ctf_connect(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = loopback(port);
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? fd : -1;
}

int ctf_fetch(int fd, uint8_t *memory, const uint32_t *ids, size_t count, size_t block_bytes) {
    uint64_t request[2] = {count, block_bytes};
    if (send(fd, request, sizeof(request), MSG_NOSIGNAL) != sizeof(request)) {
        return -1;
    }
    return move_blocks(fd, memory, ids, count, block_bytes, 0);
}
