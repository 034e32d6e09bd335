/* What is common to the header fields of both versions. */
#ifndef CN_FIELDS_H
#define CN_FIELDS_H

#include <string.h>

#include "cnet.h"

#pragma GCC visibility push(hidden)

typedef enum cn_field_kind {
    CN_FIELD_OTHER,
    CN_FIELD_HOST,
    CN_FIELD_CONTENT_LENGTH,
    CN_FIELD_TRANSFER_ENCODING,
    CN_FIELD_CONNECTION,
    CN_FIELD_HOP, /* keep-alive, proxy-connection, upgrade */
    CN_FIELD_EXPECT,
    CN_FIELD_TE,
} cn_field_kind;

cn_field_kind cn_field_kind_of(const uint8_t *name, size_t count);
/* ASCII only; `lower` is in lower case. */
bool cn_equals_ignoring_case(const uint8_t *bytes, size_t count, const char *lower);
bool cn_names_equal(const uint8_t *one, size_t one_count, const uint8_t *other, size_t other_count);
bool cn_is_head_method(cn_span method);
/* RFC 9110 section 5.6.2. */
bool cn_is_token(const uint8_t *bytes, size_t count);
/* No control bytes but HTAB (RFC 9110 section 5.5). */
bool cn_is_field_value(const uint8_t *bytes, size_t count);
/* Digits alone, at most INT64_MAX; -1 otherwise. */
int64_t cn_parse_length(const uint8_t *bytes, size_t count);
/* Bytes that a Host field or :authority may have. */
bool cn_is_authority(const uint8_t *bytes, size_t count);
/* Bytes that a request's target may have. */
bool cn_is_target(cn_span target);
/* Origin form, or the asterisk of OPTIONS (RFC 9112 section 3.2). */
bool cn_is_origin_form(cn_span method, cn_span target);

static inline const uint8_t *cn_field_name(const cn_head *head, const cn_field *field)
{
    return head->bytes + field->name_offset;
}

static inline const uint8_t *cn_field_value(const cn_head *head, const cn_field *field)
{
    return head->bytes + field->value_offset;
}

/* The value of the first field of a kind; data is NULL without one. */
cn_span cn_head_find(const cn_head *head, cn_field_kind kind);
/* Whether a field has this name, given in lower case. */
bool cn_head_names(const cn_head *head, const char *lower);

#pragma GCC visibility pop

#endif
