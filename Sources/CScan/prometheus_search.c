/* The samples of some names in a page that comes in pieces; the other lines are passed over. */
#include "CScan.h"
#include "text.h"

#include <stdlib.h>

typedef struct wanted_name {
    const uint8_t *text;
    size_t text_bytes;
} wanted_name;

struct cs_prom_search {
    wanted_name *names;
    size_t names_count;
    /* The bytes that all names begin with, and which bytes follow there: few lines of a page have
     * one at that place. */
    size_t common_bytes;
    bool follows[256];
    /* Which bytes a line may begin with that has to be looked at. */
    bool begins[256];
    size_t longest_bytes;
    /* The beginning of a line of which more is to come, and where it stands in the page. */
    uint8_t *line;
    size_t line_bytes, line_room, line_at_bytes;
    size_t piece_at_bytes;
    bool is_passing; /* in a line that is not wanted */
};

static bool is_name_byte(uint8_t c)
{
    return cs_is_digit(c) || (uint8_t)((c | 0x20) - 'a') < 26 || c == '_' || c == ':';
}

cs_prom_search *cs_prom_search_create(
    const uint8_t *names, const size_t *names_bytes, size_t names_count)
{
    size_t text_bytes = 0;
    for (size_t i = 0; i < names_count; i++)
        text_bytes += names_bytes[i];
    cs_prom_search *search = calloc(1, sizeof *search + names_count * sizeof(wanted_name) +
                                           text_bytes);
    if (search == NULL)
        return NULL;
    search->names = (wanted_name *)(search + 1);
    search->names_count = names_count;
    uint8_t *text = (uint8_t *)(search->names + names_count);
    if (text_bytes > 0)
        memcpy(text, names, text_bytes);
    search->common_bytes = names_count > 0 ? names_bytes[0] : 0;
    for (size_t i = 0; i < names_count; i++) {
        const uint8_t *first = search->names[0].text;
        search->names[i] = (wanted_name){text, names_bytes[i]};
        size_t common = 0;
        while (i > 0 && common < search->common_bytes && common < names_bytes[i] &&
               first[common] == text[common])
            common++;
        if (i > 0)
            search->common_bytes = common;
        if (names_bytes[i] > search->longest_bytes)
            search->longest_bytes = names_bytes[i];
        search->begins[text[0]] = true;
        text += names_bytes[i];
    }
    for (size_t i = 0; i < names_count; i++)
        if (search->names[i].text_bytes > search->common_bytes)
            search->follows[search->names[i].text[search->common_bytes]] = true;
        else /* a name that others go on from: anything may follow */
            memset(search->follows, true, sizeof search->follows);
    search->begins[' '] = search->begins['\t'] = search->begins['{'] = true;
    return search;
}

void cs_prom_search_free(cs_prom_search *search)
{
    if (search != NULL)
        free(search->line);
    free(search);
}

void cs_prom_search_restart(cs_prom_search *search)
{
    search->line_bytes = 0;
    search->piece_at_bytes = 0;
    search->is_passing = false;
}

/* The index of the name that stands at `p` in a line; the number of names if none does. */
static size_t name_at(const cs_prom_search *search, const uint8_t *p, const uint8_t *end)
{
    size_t bytes = (size_t)(end - p), i = 0;
    for (; i < search->names_count; i++) {
        const wanted_name *name = &search->names[i];
        if (bytes >= name->text_bytes && memcmp(p, name->text, name->text_bytes) == 0 &&
            (bytes == name->text_bytes || !is_name_byte(p[name->text_bytes])))
            break;
    }
    return i;
}

/* Whether a line, as far as it is known, may yet be one that is wanted. */
static bool may_be_wanted(const cs_prom_search *search, const uint8_t *line, size_t bytes)
{
    const uint8_t *p = line, *end = line + bytes;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    if (p == end)
        return true;
    if (!search->begins[*p])
        return false;
    if (*p == '{' || (size_t)(end - p) <= search->longest_bytes)
        return true;
    return name_at(search, p, end) < search->names_count;
}

/* Reads a whole line; CS_END if it is not wanted. */
static cs_status read_line(
    const cs_prom_search *search, const uint8_t *line, size_t line_bytes, cs_prom_found *found_p)
{
    const uint8_t *p = line, *end = line + line_bytes;
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    if (p == end)
        return CS_END;
    /* What a name in quotes is shows only when it is read. */
    bool is_quoted = *p == '{';
    size_t index = is_quoted ? 0 : name_at(search, p, end), at = 0;
    if (index == search->names_count)
        return CS_END;
    cs_prom_sample sample;
    cs_status status = cs_prom_next(line, line_bytes, &at, &sample);
    if (is_quoted) {
        if (status != CS_OK)
            return CS_END;
        const uint8_t *name = line + sample.name_start_bytes;
        size_t name_bytes = sample.name_end_bytes - sample.name_start_bytes;
        while (index < search->names_count &&
               (search->names[index].text_bytes != name_bytes ||
                memcmp(search->names[index].text, name, name_bytes) != 0))
            index++;
        if (index == search->names_count)
            return CS_END;
    }
    if (status == CS_OK)
        *found_p = (cs_prom_found){line, line_bytes, (uint32_t)index, sample};
    return status;
}

static cs_status keep(cs_prom_search *search, const uint8_t *bytes, size_t bytes_count)
{
    size_t needed = search->line_bytes + bytes_count;
    if (needed > search->line_room) {
        size_t room = needed < 512 ? 1024 : 2 * needed;
        uint8_t *line = realloc(search->line, room);
        if (line == NULL)
            return CS_NO_MEMORY;
        search->line = line;
        search->line_room = room;
    }
    memcpy(search->line + search->line_bytes, bytes, bytes_count);
    search->line_bytes = needed;
    return CS_OK;
}

/* Goes on with a line that began in an earlier piece. CS_OK if it is wanted and complete. */
static cs_status go_on(
    cs_prom_search *search, const uint8_t *piece, size_t piece_bytes, size_t *at_p,
    cs_prom_found *found_p)
{
    const uint8_t *p = piece + *at_p, *newline = memchr(p, '\n', piece_bytes - *at_p);
    size_t bytes = newline != NULL ? (size_t)(newline - p) : piece_bytes - *at_p;
    *at_p += bytes + (newline != NULL);
    if (!search->is_passing) {
        cs_status status = keep(search, p, bytes);
        if (status != CS_OK)
            return status;
        search->is_passing = !may_be_wanted(search, search->line, search->line_bytes);
    }
    if (newline == NULL)
        return CS_END;
    size_t line_bytes = search->line_bytes;
    bool is_passing = search->is_passing;
    search->line_bytes = 0;
    search->is_passing = false;
    return is_passing ? CS_END : read_line(search, search->line, line_bytes, found_p);
}

cs_status cs_prom_search_next(
    cs_prom_search *search, const uint8_t *piece, size_t piece_bytes, size_t *at_p,
    cs_prom_found *found_p)
{
    while (*at_p < piece_bytes) {
        if (search->is_passing || search->line_bytes > 0) {
            cs_status status = go_on(search, piece, piece_bytes, at_p, found_p);
            if (status != CS_END)
                return status;
            continue;
        }
        const uint8_t *p = piece + *at_p, *end = piece + piece_bytes, *newline = NULL;
        for (; p < end; p = newline + 1) {
            newline = memchr(p, '\n', (size_t)(end - p));
            if (newline == NULL)
                break;
            if (!search->begins[*p])
                continue;
            bool is_plain = *p != ' ' && *p != '\t' && *p != '{';
            if (is_plain && (size_t)(newline - p) > search->common_bytes &&
                !search->follows[p[search->common_bytes]])
                continue;
            search->line_at_bytes = search->piece_at_bytes + (size_t)(p - piece);
            cs_status status = read_line(search, p, (size_t)(newline - p), found_p);
            if (status != CS_END) {
                *at_p = (size_t)(newline + 1 - piece);
                return status;
            }
        }
        *at_p = piece_bytes;
        if (p == end)
            break;
        search->line_at_bytes = search->piece_at_bytes + (size_t)(p - piece);
        search->is_passing = !may_be_wanted(search, p, (size_t)(end - p));
        if (!search->is_passing) {
            cs_status status = keep(search, p, (size_t)(end - p));
            if (status != CS_OK)
                return status;
        }
    }
    search->piece_at_bytes += piece_bytes;
    return CS_END;
}

cs_status cs_prom_search_last(cs_prom_search *search, cs_prom_found *found_p)
{
    bool is_wanted = !search->is_passing && search->line_bytes > 0;
    return is_wanted ? read_line(search, search->line, search->line_bytes, found_p) : CS_END;
}

size_t cs_prom_search_line_at(const cs_prom_search *search)
{
    return search->line_at_bytes;
}
