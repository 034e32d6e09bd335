/* What h1_read.c and h1_head.c share. */
#ifndef CN_H1_HEAD_H
#define CN_H1_HEAD_H

#include "h1.h"

#pragma GCC visibility push(hidden)

/* Notes what was wrong and the status code to answer with. CN_HEAD_TOO_LARGE for 431, else
 * CN_PROTOCOL. */
cn_status cn_h1_fail(cn_h1 *h1, uint32_t status, const char *problem);
void cn_h1_begin_section(cn_h1 *h1, cn_h1_state state);
/* A whole head, every line of which ends with CR LF, the last one being empty. Fills `fields` and
 * decides how the body ends. */
cn_status cn_h1_parse_head(cn_h1 *h1, const uint8_t *data, const uint8_t *end, cn_field *fields,
                           size_t capacity);
/* A whole trailer section. */
cn_status cn_h1_parse_trailers(cn_h1 *h1, const uint8_t *data, const uint8_t *end,
                               cn_field *fields, size_t capacity);

#pragma GCC visibility pop

#endif
