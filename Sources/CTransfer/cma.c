// Same host, any memory: the kernel copies between the two processes (cross memory attach, that is
// process_vm_readv and process_vm_writev).
//
// These calls name a process by its number, and a number may come to mean another process, or the
// same one after an exec. So the peer's engine keeps a random proof in its memory and says over the
// channel where. Every read takes the proof along in the same call, for which the kernel looks the
// address space up once: bytes from anywhere else are noticed. A write looks at the proof, and at
// the pidfd, immediately before.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"

// How much one transfer moves before the others, and the heartbeats, have their turn.
#define CT_SLICE_BYTES (4u << 20)
// As many as the kernel takes in a call.
#define CT_VECTORS_MAX 1024

static int open_process(pid_t id) {
    return (int)syscall(SYS_pidfd_open, id, 0);
}

// The setting of Yama; 0 where there is none.
static int ptrace_scope(void) {
    char text[4] = {0};
    int fd = open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC);
    ssize_t bytes = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0) {
        close(fd);
    }
    return bytes > 0 ? atoi(text) : 0;
}

static int capability(const ct_engine *engine, char *reason, size_t capacity) {
    static const char *const scopes[] = {
        "possible with peers of this host and user",
        "ptrace_scope is 1: possible with peers that admit tracers, or with CAP_SYS_PTRACE",
        "ptrace_scope is 2: possible with CAP_SYS_PTRACE only",
        "ptrace_scope is 3: not possible",
    };
    uint8_t proof[CT_PROOF_BYTES];
    struct iovec local = {proof, sizeof(proof)};
    struct iovec remote = {(void *)(uintptr_t)engine->proof, sizeof(proof)};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != (ssize_t)sizeof(proof)) {
        snprintf(reason, capacity, "process_vm_readv fails: %s", strerror(errno));
        return 0;
    }
    int fd = open_process(getpid());
    if (fd < 0) {
        snprintf(reason, capacity, "pidfd_open fails: %s", strerror(errno));
        return 0;
    }
    close(fd);
    int scope = ptrace_scope();
    snprintf(reason, capacity, "%s", scopes[scope < 0 || scope > 3 ? 3 : scope]);
    return scope < 3;
}

// What a failed call says.
static ct_status status_of(int error) {
    switch (error) {
    case EPERM:
    case ENOSYS:
        return CT_EPERM;
    case ESRCH:
        return CT_EPEERDEAD;
    case EFAULT:
        return CT_EFAULT;
    default:
        return CT_ENOMEM;
    }
}

static struct iovec proof_of(const ct_peer *peer) {
    return (struct iovec){
        (void *)(uintptr_t)peer->channel_hello.proof_address, CT_PROOF_BYTES};
}

static int is_proof(const ct_peer *peer, const uint8_t *proof) {
    return memcmp(proof, peer->channel_hello.proof, CT_PROOF_BYTES) == 0;
}

static int is_running(const ct_peer *peer) {
    struct pollfd process = {.fd = peer->process_fd, .events = POLLIN};
    return poll(&process, 1, 0) == 0;
}

// Whether the peer's number still means its process and address space.
static ct_status check_process(const ct_peer *peer) {
    uint8_t proof[CT_PROOF_BYTES];
    struct iovec local = {proof, sizeof(proof)};
    struct iovec remote = proof_of(peer);
    ssize_t bytes = process_vm_readv(peer->process_id, &local, 1, &remote, 1, 0);
    if (bytes < 0) {
        // Where the proof was, there is nothing: another address space.
        return errno == EFAULT ? CT_EPEERDEAD : status_of(errno);
    }
    int holds = bytes == (ssize_t)sizeof(proof) && is_proof(peer, proof) && is_running(peer);
    return holds ? CT_OK : CT_EPEERDEAD;
}

static ct_status probe(ct_peer *peer, char *reason, size_t capacity) {
    ct_status status = ct_channel_probe(peer, reason, capacity);
    if (status != CT_OK) {
        return status;
    }
    struct ucred credentials;
    socklen_t bytes = sizeof(credentials);
    if (getsockopt(peer->channel->conn.fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0 ||
        credentials.pid <= 0) {
        snprintf(reason, capacity, "the peer's process is not seen from this PID namespace");
        return CT_EPERM;
    }
    peer->process_id = credentials.pid;
    peer->process_fd = open_process(credentials.pid);
    if (peer->process_fd < 0) {
        snprintf(reason, capacity, "pidfd_open fails: %s", strerror(errno));
        return CT_EPERM;
    }
    status = check_process(peer);
    if (status == CT_EPERM) {
        snprintf(
            reason, capacity, "the system refuses access to process %d (ptrace_scope is %d)",
            (int)credentials.pid, ptrace_scope());
    } else if (status != CT_OK) {
        snprintf(
            reason, capacity, "process %d, which listens for the peer, is not the one that speaks",
            (int)credentials.pid);
    }
    return status;
}

static int reaches(const ct_peer *peer, uint32_t region_id) {
    return ct_channel_reaches(peer, region_id) && peer->regions[region_id].address != 0;
}

static void begin(ct_transfer *transfer) {
    // An address of another process: only ever reckoned with.
    uint64_t address = transfer->peer->regions[transfer->region.id].address;
    ct_channel_begin(transfer, (uint8_t *)(uintptr_t)address);
}

static uint64_t sum(const struct iovec *vectors, size_t count) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        bytes += vectors[i].iov_len;
    }
    return bytes;
}

// Bytes that a call moved, or why it moved none. Fewer than asked for are no error yet: the next
// call meets it.
static ct_status result_of(ssize_t bytes, uint64_t *bytes_p) {
    if (bytes <= 0) {
        return bytes == 0 ? CT_EFAULT : status_of(errno);
    }
    *bytes_p = (uint64_t)bytes;
    return CT_OK;
}

// The first vector of either side is for the proof, which comes along.
static ct_status read_vectors(
    const ct_peer *peer, struct iovec *local, size_t local_count, struct iovec *remote,
    size_t remote_count, uint64_t *bytes_p) {
    uint8_t proof[CT_PROOF_BYTES];
    local[0] = (struct iovec){proof, sizeof(proof)};
    remote[0] = proof_of(peer);
    ssize_t bytes =
        process_vm_readv(peer->process_id, local, local_count, remote, remote_count, 0);
    if (bytes < 0) {
        // The proof comes first: where it was, there is nothing.
        return errno == EFAULT ? CT_EPEERDEAD : status_of(errno);
    }
    if (bytes < (ssize_t)sizeof(proof) || !is_proof(peer, proof)) {
        return CT_EPEERDEAD;
    }
    return result_of(bytes - (ssize_t)sizeof(proof), bytes_p);
}

static ct_status write_vectors(
    const ct_peer *peer, const struct iovec *local, size_t local_count,
    const struct iovec *remote, size_t remote_count, uint64_t *bytes_p) {
    ct_status status = check_process(peer);
    if (status != CT_OK) {
        return status;
    }
    return result_of(
        process_vm_writev(peer->process_id, local, local_count, remote, remote_count, 0), bytes_p);
}

static ct_status move(ct_transfer *transfer, uint64_t limit_bytes) {
    struct iovec local[CT_VECTORS_MAX];
    struct iovec remote[CT_VECTORS_MAX];
    ct_peer *peer = transfer->peer;
    int reads = transfer->operation == CT_READ;
    ct_cursor *ours = reads ? &transfer->target : &transfer->source;
    ct_cursor *theirs = reads ? &transfer->source : &transfer->target;
    // Neighbours may merge on one side alone, so the sides are cut otherwise; the kernel stops at
    // the shorter one.
    size_t remote_count =
        ct_cursor_vectors(theirs, limit_bytes, remote + 1, CT_VECTORS_MAX - 1);
    size_t local_count = ct_cursor_vectors(
        ours, sum(remote + 1, remote_count), local + 1, CT_VECTORS_MAX - 1);
    uint64_t bytes;
    ct_status status =
        reads ? read_vectors(peer, local, local_count + 1, remote, remote_count + 1, &bytes)
              : write_vectors(peer, local + 1, local_count, remote + 1, remote_count, &bytes);
    if (status == CT_OK) {
        ct_cursor_advance(ours, bytes);
        ct_cursor_advance(theirs, bytes);
    } else if (status != CT_EFAULT && status != CT_ENOMEM) {
        ct_peer_lose_path(peer, &ct_cma_ops, status);
    }
    return status;
}

static void advance(ct_transfer *transfer) {
    ct_channel_advance(transfer, CT_SLICE_BYTES, move);
}

static void end(ct_peer *peer) {
    if (peer->process_fd >= 0) {
        close(peer->process_fd);
        peer->process_fd = -1;
    }
}

const ct_path_ops ct_cma_ops = {
    .path = CT_PATH_CMA,
    .uses_channel = 1,
    .capability = capability,
    .probe = probe,
    .reaches = reaches,
    .begin = begin,
    .advance = advance,
    .cancel = ct_channel_cancel,
    .end = end,
};
