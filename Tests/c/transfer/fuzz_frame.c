// Frames from outside: whatever the bytes, decoding is safe, what is accepted encodes back to the
// same bytes, and no accepted list leads outside its region.
#include <string.h>

#include "frame.h"

#define REGION_BYTES (1u << 20)
#define VECTORS 64

static void require(int condition) {
    if (!condition) {
        __builtin_trap();
    }
}

static void fuzz_hello(const ct_header *header, const uint8_t *body) {
    ct_hello hello;
    uint8_t again[CT_BODY_MAX_BYTES];
    if (ct_hello_decode(header, body, &hello) == CT_OK) {
        require(ct_hello_encode(&hello, again) == header->body_bytes);
        require(memcmp(again, body, header->body_bytes) == 0);
    }
}

static void fuzz_region(const ct_header *header, const uint8_t *body) {
    ct_region_change change;
    uint8_t again[CT_BODY_MAX_BYTES];
    if (ct_region_change_decode(header, body, &change) == CT_OK) {
        require(change.region.id < CT_REGIONS_MAX);
        require(ct_region_change_encode(&change, again) == header->body_bytes);
        require(memcmp(again, body, header->body_bytes) == 0);
    }
}

static void fuzz_list(const ct_header *header, const uint8_t *body) {
    static ct_list list;
    static uint8_t again[CT_BODY_MAX_BYTES];
    if (ct_list_decode(header, body, &list) != CT_OK) {
        return;
    }
    // The addresses are only compared, never used.
    uint8_t *base = (uint8_t *)(uintptr_t)(1u << 30);
    ct_view view = {
        .base = base,
        .planes = list.planes,
        .plane_count = list.plane_count,
        .ids = list.has_ids ? list.ids : NULL,
    };
    ct_region region = {.id = list.region_id, .generation = list.generation};
    require(
        ct_list_encode(&region, list.epoch, &view, 0, list.block_count, again) ==
        header->body_bytes);
    require(memcmp(again, body, header->body_bytes) == 0);
    if (ct_blocks_check(
            list.planes, list.plane_count, view.ids, list.block_count, REGION_BYTES) != CT_OK) {
        return;
    }
    ct_cursor cursor = ct_cursor_make(&view, 0, list.block_count);
    uint64_t total = 0;
    while (!ct_cursor_at_end(&cursor) && total < 64u * REGION_BYTES) {
        struct iovec vectors[VECTORS];
        size_t count = ct_cursor_vectors(&cursor, REGION_BYTES, vectors, VECTORS);
        uint64_t bytes = 0;
        for (size_t i = 0; i < count; i++) {
            uint64_t offset = (uint64_t)((uint8_t *)vectors[i].iov_base - base);
            require(offset < REGION_BYTES && vectors[i].iov_len <= REGION_BYTES);
            require(offset + vectors[i].iov_len <= REGION_BYTES);
            bytes += vectors[i].iov_len;
        }
        require(bytes > 0);
        ct_cursor_advance(&cursor, bytes);
        total += bytes;
    }
    require(!ct_cursor_at_end(&cursor) || total == list.total_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    ct_header header;
    if (bytes < CT_HEADER_BYTES || ct_header_decode(data, &header) != CT_OK ||
        header.body_bytes > bytes - CT_HEADER_BYTES) {
        return 0;
    }
    uint8_t again[CT_HEADER_BYTES];
    ct_header_encode(&header, again);
    require(memcmp(again, data, CT_HEADER_BYTES) == 0);
    const uint8_t *body = data + CT_HEADER_BYTES;
    switch (header.type) {
    case CT_FRAME_HELLO:
    case CT_FRAME_WELCOME:
        fuzz_hello(&header, body);
        break;
    case CT_FRAME_REGION:
        fuzz_region(&header, body);
        break;
    case CT_FRAME_READ:
    case CT_FRAME_WRITE:
        fuzz_list(&header, body);
        break;
    default:
        break;
    }
    return 0;
}
