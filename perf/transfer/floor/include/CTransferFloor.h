// What transfers are measured against: the same blocks moved by bare loops that check nothing, tell
// nobody and wait for one thing at a time.
#ifndef CTRANSFER_FLOOR_H
#define CTRANSFER_FLOOR_H

#include <stddef.h>
#include <stdint.h>

// One thread, stores past the caches where the CPU has them. Returns 0.
int ctf_copy(
    uint8_t *target, const uint32_t *target_ids, const uint8_t *source, const uint32_t *source_ids,
    size_t count, size_t block_bytes);

// The kernel copies from another process's memory, 1024 blocks per call. Returns 0, or -1.
int ctf_attach(
    int process_id, uint8_t *target, const uint32_t *target_ids, uint64_t source,
    const uint32_t *source_ids, size_t count, size_t block_bytes);

// A listening loopback socket, or -1.
int ctf_listen(uint16_t *port_p);

// Accepts one connection and, for every (count, block_bytes) pair that it asks for, sends as many
// blocks, every other one from the first on; returns when it closes.
void ctf_serve(int listener, const uint8_t *memory);

// A connection to a server, or -1.
int ctf_connect(uint16_t port);

// Asks for blocks and receives them into their places. Returns 0, or -1 if the connection broke.
int ctf_fetch(int fd, uint8_t *memory, const uint32_t *ids, size_t count, size_t block_bytes);

#endif
