#include "frame.h"

#include <string.h>

#define CT_MAGIC UINT32_C(0x3154434c)  // "LCT1"
#define CT_HELLO_BYTES 64
#define CT_REGION_BYTES 40
#define CT_REGION_WITHDRAWN 1u
#define CT_REGION_REGISTERED 2u

static void put_u32(uint8_t *bytes, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
}

static void put_u64(uint8_t *bytes, uint64_t value) {
    put_u32(bytes, (uint32_t)value);
    put_u32(bytes + 4, (uint32_t)(value >> 32));
}

static uint32_t get_u32(const uint8_t *bytes) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        value |= (uint32_t)bytes[i] << (8 * i);
    }
    return value;
}

static uint64_t get_u64(const uint8_t *bytes) {
    return get_u32(bytes) | (uint64_t)get_u32(bytes + 4) << 32;
}

// What a header of each type may announce.
static const struct shape {
    uint32_t body_min_bytes;
    uint32_t body_max_bytes;
    uint8_t has_payload;
    uint8_t has_status;
} shapes[] = {
    [CT_FRAME_HELLO] = {CT_HELLO_BYTES, CT_HELLO_BYTES, 0, 0},
    [CT_FRAME_WELCOME] = {CT_HELLO_BYTES, CT_HELLO_BYTES, 0, 1},
    [CT_FRAME_SUBSCRIBE] = {0, 0, 0, 0},
    [CT_FRAME_REGION] = {CT_REGION_BYTES, CT_REGION_BYTES, 0, 0},
    [CT_FRAME_READY] = {0, 0, 0, 0},
    [CT_FRAME_PING] = {0, 0, 0, 0},
    [CT_FRAME_PONG] = {0, 0, 0, 0},
    [CT_FRAME_READ] = {CT_LIST_FIXED_BYTES, CT_BODY_MAX_BYTES, 0, 0},
    [CT_FRAME_DATA] = {0, 0, 1, 1},
    [CT_FRAME_WRITE] = {CT_LIST_FIXED_BYTES, CT_BODY_MAX_BYTES, 1, 0},
    [CT_FRAME_NOTIFY] = {1, CT_NOTIFICATION_MAX, 0, 0},
    [CT_FRAME_DONE] = {0, 0, 0, 1},
};

static int status_is_known(ct_status status) {
    switch (status) {
#define CT_STATUS_CASE(name, value, text) case CT_##name:
        CT_STATUS_MAP(CT_STATUS_CASE)
#undef CT_STATUS_CASE
        return 1;
    default:
        return 0;
    }
}

void ct_header_encode(const ct_header *header, uint8_t bytes[CT_HEADER_BYTES]) {
    put_u32(bytes, CT_MAGIC);
    put_u32(bytes + 4, (uint32_t)header->type);
    put_u64(bytes + 8, header->request);
    put_u32(bytes + 16, header->body_bytes);
    put_u32(bytes + 20, (uint32_t)header->status);
    put_u64(bytes + 24, header->payload_bytes);
}

ct_status ct_header_decode(const uint8_t bytes[CT_HEADER_BYTES], ct_header *header_p) {
    uint32_t type = get_u32(bytes + 4);
    if (get_u32(bytes) != CT_MAGIC || type < CT_FRAME_HELLO || type > CT_FRAME_DONE) {
        return CT_EPROTOCOL;
    }
    ct_header header = {
        .type = (ct_frame_type)type,
        .request = get_u64(bytes + 8),
        .body_bytes = get_u32(bytes + 16),
        .status = (ct_status)get_u32(bytes + 20),
        .payload_bytes = get_u64(bytes + 24),
    };
    const struct shape *shape = &shapes[type];
    int bad_body =
        header.body_bytes < shape->body_min_bytes || header.body_bytes > shape->body_max_bytes;
    int bad_payload = header.payload_bytes != 0 && !(shape->has_payload && header.status == CT_OK);
    int bad_status =
        header.status != CT_OK && !(shape->has_status && status_is_known(header.status));
    if (bad_body || bad_payload || bad_status) {
        return CT_EPROTOCOL;
    }
    *header_p = header;
    return CT_OK;
}

uint32_t ct_hello_encode(const ct_hello *hello, uint8_t *body) {
    put_u32(body, hello->version);
    put_u32(body + 4, 0);
    memcpy(body + 8, hello->engine_id.bytes, 16);
    memcpy(body + 24, hello->boot_id, 16);
    put_u64(body + 40, hello->proof_address);
    memcpy(body + 48, hello->proof, CT_PROOF_BYTES);
    return CT_HELLO_BYTES;
}

ct_status ct_hello_decode(const ct_header *header, const uint8_t *body, ct_hello *hello_p) {
    if (header->body_bytes != CT_HELLO_BYTES || get_u32(body + 4) != 0) {
        return CT_EPROTOCOL;
    }
    hello_p->version = get_u32(body);
    memcpy(hello_p->engine_id.bytes, body + 8, 16);
    memcpy(hello_p->boot_id, body + 24, 16);
    hello_p->proof_address = get_u64(body + 40);
    memcpy(hello_p->proof, body + 48, CT_PROOF_BYTES);
    return CT_OK;
}

uint32_t ct_region_change_encode(const ct_region_change *change, uint8_t *body) {
    put_u32(body, change->region.id);
    put_u32(
        body + 4, (change->withdrawn ? CT_REGION_WITHDRAWN : 0) |
                      (change->registered ? CT_REGION_REGISTERED : 0));
    put_u64(body + 8, change->region.generation);
    put_u64(body + 16, change->region.size_bytes);
    put_u64(body + 24, change->region.block_bytes);
    put_u64(body + 32, change->address);
    return CT_REGION_BYTES;
}

ct_status ct_region_change_decode(
    const ct_header *header, const uint8_t *body, ct_region_change *change_p) {
    if (header->body_bytes != CT_REGION_BYTES) {
        return CT_EPROTOCOL;
    }
    uint32_t flags = get_u32(body + 4);
    ct_region_change change = {
        .address = get_u64(body + 32),
        .withdrawn = flags & CT_REGION_WITHDRAWN,
        .registered = (flags & CT_REGION_REGISTERED) != 0,
        .region =
            {
                .id = get_u32(body),
                .generation = get_u64(body + 8),
                .size_bytes = get_u64(body + 16),
                .block_bytes = get_u64(body + 24),
            },
    };
    uint64_t end;
    if (change.region.id >= CT_REGIONS_MAX ||
        (flags & ~(CT_REGION_WITHDRAWN | CT_REGION_REGISTERED)) != 0 ||
        change.region.generation == 0 || change.region.block_bytes == 0 ||
        change.region.size_bytes < change.region.block_bytes ||
        __builtin_add_overflow(change.address, change.region.size_bytes, &end)) {
        return CT_EPROTOCOL;
    }
    *change_p = change;
    return CT_OK;
}

uint32_t ct_list_encode(
    const ct_region *region, uint64_t epoch, const ct_view *view, uint32_t first, uint32_t count,
    uint8_t *body) {
    put_u32(body, region->id);
    put_u32(body + 4, view->ids != NULL);
    put_u64(body + 8, region->generation);
    put_u64(body + 16, epoch);
    put_u32(body + 24, count);
    put_u32(body + 28, view->plane_count);
    uint8_t *at = body + CT_LIST_FIXED_BYTES;
    for (uint32_t i = 0; i < view->plane_count; i++, at += CT_PLANE_BYTES) {
        const ct_plane *plane = &view->planes[i];
        // Without ids the first block of a list is number 0, so its place moves into the offset.
        uint64_t shift = view->ids != NULL ? 0 : first * plane->stride_bytes;
        put_u64(at, plane->offset_bytes + shift);
        put_u64(at + 8, plane->stride_bytes);
        put_u64(at + 16, plane->length_bytes);
    }
    if (view->ids != NULL) {
        for (uint32_t i = 0; i < count; i++, at += 4) {
            put_u32(at, view->ids[first + i]);
        }
    }
    return (uint32_t)(at - body);
}

ct_status ct_list_decode(const ct_header *header, const uint8_t *body, ct_list *list) {
    list->region_id = get_u32(body);
    list->has_ids = get_u32(body + 4);
    list->generation = get_u64(body + 8);
    list->epoch = get_u64(body + 16);
    list->block_count = get_u32(body + 24);
    list->plane_count = get_u32(body + 28);
    if (list->has_ids > 1 || list->block_count == 0 || list->block_count > CT_LIST_BLOCKS_MAX ||
        list->plane_count == 0 || list->plane_count > CT_PLANES_MAX ||
        header->body_bytes != CT_LIST_FIXED_BYTES + list->plane_count * CT_PLANE_BYTES +
                                  list->has_ids * list->block_count * 4) {
        return CT_EPROTOCOL;
    }
    const uint8_t *at = body + CT_LIST_FIXED_BYTES;
    for (uint32_t i = 0; i < list->plane_count; i++, at += CT_PLANE_BYTES) {
        list->planes[i] = (ct_plane){get_u64(at), get_u64(at + 8), get_u64(at + 16)};
    }
    for (uint32_t i = 0; i < list->has_ids * list->block_count; i++, at += 4) {
        list->ids[i] = get_u32(at);
    }
    uint64_t block_bytes = ct_planes_block_bytes(list->planes, list->plane_count);
    if (block_bytes == 0 ||
        __builtin_mul_overflow(block_bytes, list->block_count, &list->total_bytes) ||
        (header->type == CT_FRAME_WRITE && header->payload_bytes != list->total_bytes)) {
        return CT_EPROTOCOL;
    }
    return CT_OK;
}
