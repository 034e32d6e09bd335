/* What h2.c and h2_send.c share. */
#ifndef CN_H2_SESSION_H
#define CN_H2_SESSION_H

#include <nghttp2/nghttp2.h>

#include "h2.h"

#pragma GCC visibility push(hidden)

enum { CN_H2_MAX_FIELD_COUNT = 256 };

struct cn_h2 {
    nghttp2_session *session;
    cn_h2_config config;
    cn_h2_events events;
    void *user;
    cn_h2_stream streams; /* ring */
    size_t stream_count;
    cn_bytes *out; /* during cn_h2_send */
    bool has_settings;
    bool has_goaway;
    bool is_draining;
    const char *problem;
    /* The header section being received. */
    int32_t open_head;
    cn_bytes head_bytes;
    cn_bytes cookie; /* its pieces, joined */
    size_t cookie_index; /* its place in `fields`, if there are pieces */
    cn_field fields[CN_H2_MAX_FIELD_COUNT];
    size_t field_count;
    cn_field method, path, authority; /* name_count as a flag: seen */
    uint32_t status;
    bool expects_continue;
    bool head_too_large;
};

/* NULL without memory. */
cn_h2_stream *cn_h2_add_stream(cn_h2 *h2, int32_t id);
void cn_h2_remove_stream(cn_h2 *h2, cn_h2_stream *stream);
/* The callback that writes a DATA frame from what is pending on its stream. */
int cn_h2_send_pending(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *frame_head,
                       size_t count, nghttp2_data_source *source, void *user);

#pragma GCC visibility pop

#endif
