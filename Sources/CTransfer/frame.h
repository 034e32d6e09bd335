// The frames of the TCP plane and of the same-host channel: bytes to structs and back. Knows no
// socket. Integers are little-endian.
//
//   header, 32 bytes: magic u32, type u32, request u64, body_bytes u32, status i32,
//   payload_bytes u64; then the body, then the payload
//
// The connecting side asks, the listening side answers each request in order on the same connection
// with the same request number. REGION and READY answer SUBSCRIBE and carry request number 0.
//
//   HELLO      body: version u32, zero u32, engine id 16 bytes, boot id 16 bytes, address u64,
//              proof 16 bytes; the last two are zero but in a WELCOME over the same-host channel:
//              there the sender's memory holds the proof at the address
//   WELCOME    answers HELLO; same body
//   SUBSCRIBE  asks for the region table and every change of it
//   REGION     body: id u32, flags u32 (1: withdrawn, 2: the sender has registered it), generation
//              u64, size u64, block size u64, address u64. Over the same-host channel a published
//              region carries the descriptor of a file that holds its blocks, unless registered,
//              and its ledger; only there is the address not zero
//   READY      the table is complete so far
//   PING       PONG answers
//   READ       body: a list of blocks; DATA answers, with their bytes as payload, and behind it
//              DONE: whether the blocks were not taken back before the last byte was copied. A DATA
//              with an error has neither
//   WRITE      body: a list of blocks; payload: their bytes; DONE answers
//   NOTIFY     body: 1 to 256 bytes for the application; DONE answers
//
// A list: region id u32, has_ids u32, generation u64, epoch u64, block_count u32, plane_count u32,
// then per plane offset u64, stride u64, length u64, then block_count ids u32 if has_ids is 1.
#ifndef CT_FRAME_H
#define CT_FRAME_H

#include "blocks.h"
#include "ctransfer.h"

#pragma GCC visibility push(hidden)

#define CT_PROTOCOL_VERSION 3
#define CT_PROOF_BYTES 16
#define CT_LIST_BLOCKS_MAX 2048
#define CT_HEADER_BYTES 32
#define CT_LIST_FIXED_BYTES 32
#define CT_PLANE_BYTES 24
#define CT_BODY_MAX_BYTES                                                                          \
    (CT_LIST_FIXED_BYTES + CT_PLANES_MAX * CT_PLANE_BYTES + CT_LIST_BLOCKS_MAX * 4)

typedef enum ct_frame_type {
    CT_FRAME_HELLO = 1,
    CT_FRAME_WELCOME,
    CT_FRAME_SUBSCRIBE,
    CT_FRAME_REGION,
    CT_FRAME_READY,
    CT_FRAME_PING,
    CT_FRAME_PONG,
    CT_FRAME_READ,
    CT_FRAME_DATA,
    CT_FRAME_WRITE,
    CT_FRAME_NOTIFY,
    CT_FRAME_DONE,
} ct_frame_type;

typedef struct ct_header {
    ct_frame_type type;
    ct_status status;
    uint64_t request;
    uint64_t payload_bytes;
    uint32_t body_bytes;
} ct_header;

typedef struct ct_hello {
    uint32_t version;
    ct_engine_id engine_id;
    uint8_t boot_id[16];
    uint64_t proof_address;
    uint8_t proof[CT_PROOF_BYTES];
} ct_hello;

typedef struct ct_region_change {
    ct_region region;
    uint64_t address;
    uint32_t withdrawn;
    uint32_t registered;
} ct_region_change;

typedef struct ct_list {
    uint32_t region_id;
    uint32_t block_count;
    uint32_t plane_count;
    uint32_t has_ids;
    uint64_t generation;
    uint64_t epoch;
    uint64_t total_bytes;
    ct_plane planes[CT_PLANES_MAX];
    uint32_t ids[CT_LIST_BLOCKS_MAX];
} ct_list;

void ct_header_encode(const ct_header *header, uint8_t bytes[CT_HEADER_BYTES]);

// CT_EPROTOCOL unless the magic, the type, the status and the sizes that the type allows are right.
ct_status ct_header_decode(const uint8_t bytes[CT_HEADER_BYTES], ct_header *header_p);

// Each encoder writes a body of at most CT_BODY_MAX_BYTES and returns its size. Each decoder takes
// a body of header->body_bytes and returns CT_EPROTOCOL if it is not exactly one well-formed body.
uint32_t ct_hello_encode(const ct_hello *hello, uint8_t *body);
ct_status ct_hello_decode(const ct_header *header, const uint8_t *body, ct_hello *hello_p);

uint32_t ct_region_change_encode(const ct_region_change *change, uint8_t *body);
ct_status ct_region_change_decode(
    const ct_header *header, const uint8_t *body, ct_region_change *change_p);

// The blocks [first, first + count) of a view; count is at most CT_LIST_BLOCKS_MAX.
uint32_t ct_list_encode(
    const ct_region *region, uint64_t epoch, const ct_view *view, uint32_t first, uint32_t count,
    uint8_t *body);

// Checks all but the bounds of the region. For a WRITE the payload is exactly the blocks' bytes.
// On failure the list holds nothing of use.
ct_status ct_list_decode(const ct_header *header, const uint8_t *body, ct_list *list);

#pragma GCC visibility pop

#endif
