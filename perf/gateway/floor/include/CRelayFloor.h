// What a reverse proxy is measured against: one that only carries bytes.
#ifndef CRELAY_FLOOR_H
#define CRELAY_FLOOR_H

#include <stdint.h>

// Relays, on one thread and by libuv alone, every connection to a loopback port to a connection of
// its own to `upstream_port`, both ways, without looking at a byte. Calls `ready` with its port.
// Returns only if it cannot start.
void crf_relay(uint16_t upstream_port, void (*ready)(uint16_t port));

#endif
