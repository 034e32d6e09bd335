#include "blocks.h"

uint64_t ct_planes_block_bytes(const ct_plane *planes, uint32_t plane_count) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < plane_count; i++) {
        if (planes[i].length_bytes == 0 ||
            __builtin_add_overflow(total, planes[i].length_bytes, &total)) {
            return 0;
        }
    }
    return total;
}

ct_status ct_blocks_check(
    const ct_plane *planes, uint32_t plane_count, const uint32_t *ids, uint32_t block_count,
    uint64_t region_bytes) {
    uint64_t last = block_count - 1;
    if (ids != NULL) {
        last = 0;
        for (uint32_t i = 0; i < block_count; i++) {
            last = ids[i] > last ? ids[i] : last;
        }
    }
    for (uint32_t i = 0; i < plane_count; i++) {
        uint64_t end;
        if (__builtin_mul_overflow(last, planes[i].stride_bytes, &end) ||
            __builtin_add_overflow(end, planes[i].offset_bytes, &end) ||
            __builtin_add_overflow(end, planes[i].length_bytes, &end) || end > region_bytes) {
            return CT_ERANGE;
        }
    }
    return CT_OK;
}

ct_cursor ct_cursor_make(const ct_view *view, uint32_t first, uint32_t end) {
    return (ct_cursor){.view = view, .block = first, .block_end = end};
}

struct iovec ct_cursor_slice(const ct_cursor *cursor) {
    const ct_view *view = cursor->view;
    const ct_plane *plane = &view->planes[cursor->plane];
    uint64_t number = view->ids != NULL ? view->ids[cursor->block] : cursor->block;
    return (struct iovec){
        .iov_base = view->base + plane->offset_bytes + number * plane->stride_bytes +
                    cursor->offset_bytes,
        .iov_len = plane->length_bytes - cursor->offset_bytes,
    };
}

void ct_cursor_skip(ct_cursor *cursor, uint64_t bytes) {
    cursor->offset_bytes += bytes;
    if (cursor->offset_bytes < cursor->view->planes[cursor->plane].length_bytes) {
        return;
    }
    cursor->offset_bytes = 0;
    if (++cursor->plane == cursor->view->plane_count) {
        cursor->plane = 0;
        cursor->block++;
    }
}

size_t ct_cursor_vectors(
    const ct_cursor *cursor, uint64_t limit_bytes, struct iovec *vectors, size_t capacity) {
    ct_cursor ahead = *cursor;
    size_t count = 0;
    while (limit_bytes > 0 && !ct_cursor_at_end(&ahead)) {
        struct iovec slice = ct_cursor_slice(&ahead);
        if (slice.iov_len > limit_bytes) {
            slice.iov_len = limit_bytes;
        }
        struct iovec *before = count > 0 ? &vectors[count - 1] : NULL;
        if (before != NULL &&
            (uint8_t *)before->iov_base + before->iov_len == (uint8_t *)slice.iov_base) {
            before->iov_len += slice.iov_len;
        } else if (count < capacity) {
            vectors[count++] = slice;
        } else {
            break;
        }
        limit_bytes -= slice.iov_len;
        ct_cursor_skip(&ahead, slice.iov_len);
    }
    return count;
}

void ct_cursor_advance(ct_cursor *cursor, uint64_t bytes) {
    while (bytes > 0) {
        uint64_t left =
            cursor->view->planes[cursor->plane].length_bytes - cursor->offset_bytes;
        uint64_t step = bytes < left ? bytes : left;
        ct_cursor_skip(cursor, step);
        bytes -= step;
    }
}
