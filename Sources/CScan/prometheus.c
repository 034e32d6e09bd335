/* Sample lines of Prometheus text 0.0.4 and OpenMetrics 1.0, quoted UTF-8 names included. */
#include "CScan.h"
#include "text.h"

#include <strings.h>

static const uint8_t *skip_blanks(const uint8_t *p, const uint8_t *end)
{
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    return p;
}

static bool is_name_byte(uint8_t c)
{
    /* [A-Za-z0-9_:] as a bit each. */
    static const uint64_t names[4] = {0x07ff000000000000, 0x07fffffe87fffffe, 0, 0};
    return names[c >> 6] >> (c & 63) & 1;
}

static const uint8_t *skip_name(const uint8_t *p, const uint8_t *end)
{
    if (p < end && cs_is_digit(*p))
        return p;
    while (p < end && is_name_byte(*p))
        p++;
    return p;
}

/* The closing quote of the quoted text behind `p`; NULL if there is none. */
static const uint8_t *closing_quote(const uint8_t *p, const uint8_t *end)
{
    for (;;) {
        p = cs_find_special(p, end, false);
        if (p == end || *p == '"')
            return p < end ? p : NULL;
        p += *p == '\\' && end - p > 1 ? 2 : 1;
    }
}

/* A name, plain or in quotes, and what follows it. */
static const uint8_t *read_name(
    const uint8_t *p, const uint8_t *end, const uint8_t **start_p, const uint8_t **end_p)
{
    bool quoted = p < end && *p == '"';
    p += quoted;
    const uint8_t *stop = quoted ? closing_quote(p, end) : skip_name(p, end);
    if (stop == NULL || stop == p)
        return NULL;
    *start_p = p;
    *end_p = stop;
    return stop + quoted;
}

struct label {
    const uint8_t *name, *name_end, *value, *value_end;
};

/* One label and the comma behind it; NULL if malformed. */
static const uint8_t *read_label(const uint8_t *p, const uint8_t *end, struct label *label)
{
    p = read_name(p, end, &label->name, &label->name_end);
    if (p == NULL)
        return NULL;
    p = skip_blanks(p, end);
    if (p == end || *p++ != '=')
        return NULL;
    p = skip_blanks(p, end);
    if (p == end || *p++ != '"')
        return NULL;
    label->value = p;
    label->value_end = closing_quote(p, end);
    if (label->value_end == NULL)
        return NULL;
    p = skip_blanks(label->value_end + 1, end);
    if (p < end && *p == ',')
        return skip_blanks(p + 1, end);
    return p == end || *p == '}' ? p : NULL;
}

/* A decimal number, an infinity or NaN. */
static bool is_value(const uint8_t *p, const uint8_t *end)
{
    p += p < end && (*p == '-' || *p == '+');
    static const char *const words[] = {"inf", "infinity", "nan"};
    for (size_t i = 0; i < 3; i++)
        if ((size_t)(end - p) == strlen(words[i]) &&
            strncasecmp((const char *)p, words[i], strlen(words[i])) == 0)
            return true;
    size_t digits = 0;
    for (bool point = false; p < end && (cs_is_digit(*p) || (*p == '.' && !point)); p++) {
        point = point || *p == '.';
        digits += *p != '.';
    }
    if (digits > 0 && p < end && (*p | 0x20) == 'e') {
        p++;
        p += p < end && (*p == '-' || *p == '+');
        digits = 0;
        for (; p < end && cs_is_digit(*p); p++)
            digits++;
    }
    return digits > 0 && p == end;
}

static const uint8_t *skip_word(const uint8_t *p, const uint8_t *end)
{
    while (p < end && *p != ' ' && *p != '\t')
        p++;
    return p;
}

/* Value, timestamp if any, exemplar if any. */
static cs_status read_value(
    const uint8_t *p, const uint8_t *end, const uint8_t **start_p, const uint8_t **end_p)
{
    p = skip_blanks(p, end);
    *start_p = p;
    *end_p = p = skip_word(p, end);
    if (!is_value(*start_p, p))
        return CS_SAMPLE_VALUE;
    p = skip_blanks(p, end);
    if (p < end && *p != '#') {
        const uint8_t *timestamp_end = skip_word(p, end);
        if (!is_value(p, timestamp_end))
            return CS_SAMPLE_VALUE;
        p = skip_blanks(timestamp_end, end);
    }
    return p == end || *p == '#' ? CS_OK : CS_SAMPLE_VALUE;
}

static cs_status read_sample(
    const uint8_t *page, const uint8_t *p, const uint8_t *end, cs_prom_sample *sample_p)
{
    const uint8_t *name, *name_end, *labels, *labels_end, *value, *value_end;
    bool name_inside = *p == '{';
    p += name_inside;
    if (p == end || (*p == '"') != name_inside ||
        (p = read_name(p, end, &name, &name_end)) == NULL)
        return CS_METRIC_NAME;
    p = skip_blanks(p, end);
    bool braces = name_inside || (p < end && *p == '{');
    if (braces && p < end && *p == (name_inside ? ',' : '{'))
        p++;
    labels = labels_end = p;
    if (braces) {
        labels = p = skip_blanks(p, end);
        struct label label;
        while (p < end && *p != '}')
            if ((p = read_label(p, end, &label)) == NULL)
                return CS_LABELS;
        if (p == end)
            return CS_LABELS;
        labels_end = p++;
    } else if (p == name_end) {
        return p == end ? CS_SAMPLE_VALUE : CS_METRIC_NAME;
    }
    cs_status status = read_value(p, end, &value, &value_end);
    if (status != CS_OK)
        return status;
    *sample_p = (cs_prom_sample){
        .name_start_bytes = (size_t)(name - page),
        .name_end_bytes = (size_t)(name_end - page),
        .labels_start_bytes = (size_t)(labels - page),
        .labels_end_bytes = (size_t)(labels_end - page),
        .value_start_bytes = (size_t)(value - page),
        .value_end_bytes = (size_t)(value_end - page),
    };
    return CS_OK;
}

cs_status cs_prom_next(
    const uint8_t *page, size_t page_bytes, size_t *at_p, cs_prom_sample *sample_p)
{
    const uint8_t *p = page + *at_p, *page_end = page + page_bytes;
    while (p < page_end) {
        const uint8_t *end = memchr(p, '\n', (size_t)(page_end - p));
        if (end == NULL)
            end = page_end;
        *at_p = (size_t)(p - page);
        const uint8_t *start = skip_blanks(p, end);
        p = end + (end < page_end);
        if (start == end || *start == '#')
            continue;
        cs_status status = read_sample(page, start, end, sample_p);
        if (status == CS_OK)
            *at_p = (size_t)(p - page);
        return status;
    }
    *at_p = page_bytes;
    return CS_END;
}

bool cs_prom_label(
    const uint8_t *page, const cs_prom_sample *sample, const uint8_t *name, size_t name_bytes,
    size_t *start_bytes_p, size_t *end_bytes_p)
{
    const uint8_t *p = page + sample->labels_start_bytes, *end = page + sample->labels_end_bytes;
    while (p < end) {
        struct label label;
        p = read_label(p, end, &label);
        if (p == NULL)
            return false;
        if ((size_t)(label.name_end - label.name) != name_bytes ||
            memcmp(label.name, name, name_bytes) != 0)
            continue;
        *start_bytes_p = (size_t)(label.value - page);
        *end_bytes_p = (size_t)(label.value_end - page);
        return true;
    }
    return false;
}
