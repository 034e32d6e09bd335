#include "fields.h"

/* RFC 9110 section 5.6.2. */
static const bool is_token_byte[256] = {
    ['!'] = true, ['#'] = true, ['$'] = true,  ['%'] = true, ['&'] = true, ['\''] = true,
    ['*'] = true, ['+'] = true, ['-'] = true,  ['.'] = true, ['^'] = true, ['_'] = true,
    ['`'] = true, ['|'] = true, ['~'] = true,  ['0' ... '9'] = true,
    ['A' ... 'Z'] = true,       ['a' ... 'z'] = true,
};

/* RFC 3986 section 3.2, without user information. */
static const bool is_authority_byte[256] = {
    ['!'] = true, ['$'] = true, ['%'] = true, ['&'] = true, ['\''] = true, ['('] = true,
    [')'] = true, ['*'] = true, ['+'] = true, [','] = true, ['-'] = true,  ['.'] = true,
    [':'] = true, [';'] = true, ['='] = true, ['['] = true, [']'] = true,  ['_'] = true,
    ['~'] = true, ['0' ... '9'] = true,       ['A' ... 'Z'] = true,        ['a' ... 'z'] = true,
};

bool cn_equals_ignoring_case(const uint8_t *bytes, size_t count, const char *lower)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t byte = bytes[i];
        if (byte >= 'A' && byte <= 'Z')
            byte |= 0x20;
        if (byte != (uint8_t)lower[i] || byte == 0)
            return false;
    }
    return lower[count] == 0;
}

cn_field_kind cn_field_kind_of(const uint8_t *name, size_t count)
{
    const char *candidate;
    cn_field_kind kind;
    switch (count) {
    case 2:
        candidate = "te", kind = CN_FIELD_TE;
        break;
    case 4:
        candidate = "host", kind = CN_FIELD_HOST;
        break;
    case 6:
        candidate = "expect", kind = CN_FIELD_EXPECT;
        break;
    case 7:
        candidate = "upgrade", kind = CN_FIELD_HOP;
        break;
    case 10:
        if (cn_equals_ignoring_case(name, count, "keep-alive"))
            return CN_FIELD_HOP;
        candidate = "connection", kind = CN_FIELD_CONNECTION;
        break;
    case 14:
        candidate = "content-length", kind = CN_FIELD_CONTENT_LENGTH;
        break;
    case 16:
        candidate = "proxy-connection", kind = CN_FIELD_HOP;
        break;
    case 17:
        candidate = "transfer-encoding", kind = CN_FIELD_TRANSFER_ENCODING;
        break;
    default:
        return CN_FIELD_OTHER;
    }
    return cn_equals_ignoring_case(name, count, candidate) ? kind : CN_FIELD_OTHER;
}

bool cn_names_equal(const uint8_t *one, size_t one_count, const uint8_t *other, size_t other_count)
{
    if (one_count != other_count)
        return false;
    for (size_t i = 0; i < one_count; i++) {
        uint8_t letter = one[i] | 0x20;
        bool is_letter = letter >= 'a' && letter <= 'z';
        if (one[i] != other[i] && !(is_letter && letter == (other[i] | 0x20)))
            return false;
    }
    return true;
}

bool cn_is_head_method(cn_span method)
{
    return method.count == 4 && memcmp(method.data, "HEAD", 4) == 0;
}

bool cn_is_token(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!is_token_byte[bytes[i]])
            return false;
    }
    return count > 0;
}

bool cn_is_field_value(const uint8_t *bytes, size_t count)
{
    /* Without a branch per byte, so that it vectorises. */
    bool is_bad = false;
    for (size_t i = 0; i < count; i++)
        is_bad |= ((bytes[i] < 0x20) & (bytes[i] != '\t')) | (bytes[i] == 0x7F);
    return !is_bad;
}

int64_t cn_parse_length(const uint8_t *bytes, size_t count)
{
    int64_t length = 0;
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] < '0' || bytes[i] > '9')
            return -1;
        int digit = bytes[i] - '0';
        if (length > (INT64_MAX - digit) / 10)
            return -1;
        length = length * 10 + digit;
    }
    return count == 0 ? -1 : length;
}

bool cn_is_authority(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!is_authority_byte[bytes[i]])
            return false;
    }
    return true;
}

bool cn_is_target(cn_span target)
{
    for (size_t i = 0; i < target.count; i++) {
        if (target.data[i] <= 0x20 || target.data[i] >= 0x7F)
            return false;
    }
    return target.count > 0;
}

bool cn_is_origin_form(cn_span method, cn_span target)
{
    if (target.count == 1 && target.data[0] == '*')
        return method.count == 7 && memcmp(method.data, "OPTIONS", 7) == 0;
    return target.count > 0 && target.data[0] == '/';
}

cn_span cn_head_find(const cn_head *head, cn_field_kind kind)
{
    for (size_t i = 0; i < head->field_count; i++) {
        const cn_field *field = &head->fields[i];
        if (cn_field_kind_of(cn_field_name(head, field), field->name_count) == kind)
            return (cn_span){cn_field_value(head, field), field->value_count};
    }
    return (cn_span){0};
}

bool cn_head_names(const cn_head *head, const char *lower)
{
    for (size_t i = 0; i < head->field_count; i++) {
        const cn_field *field = &head->fields[i];
        if (cn_equals_ignoring_case(cn_field_name(head, field), field->name_count, lower))
            return true;
    }
    return false;
}
