#include "lconnector.h"

#include <stdarg.h>
#include <stdio.h>

#include "CHashing.h"
#include "ctopology.h"

uint32_t lc_abi_version(void) {
    return LC_ABI_VERSION;
}

const char *lc_version(void) {
    return LC_VERSION;
}

typedef struct writer {
    char *text;
    size_t capacity;
    size_t length;  // of all that was to be written
} writer;

__attribute__((format(printf, 2, 3))) static void put(writer *w, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t left = w->length < w->capacity ? w->capacity - w->length : 0;
    int length = vsnprintf(left > 0 ? w->text + w->length : NULL, left, format, arguments);
    va_end(arguments);
    w->length += length > 0 ? (size_t)length : 0;
}

size_t lc_capabilities(char *text, size_t capacity) {
    writer w = {.text = text, .capacity = capacity};
    put(&w, "llmd connector %s, hash kernel %s\n", LC_VERSION, ch_kernel_name());
    ct_library libraries[CT_LIBRARY_COUNT];
    ct_libraries(libraries);
    for (int i = 0; i < CT_LIBRARY_COUNT; i++) {
        const ct_library *library = &libraries[i];
        if (library->is_open) {
            put(&w, "library %s: %s\n", library->name, library->text);
        } else {
            put(&w, "library %s: missing, no %s: %s\n", library->name, library->purpose,
                library->text);
        }
    }
    ct_limit limits[CT_LIMIT_COUNT];
    ct_limits(limits);
    for (int i = 0; i < CT_LIMIT_COUNT; i++) {
        put(&w, "limit %s: %s%s\n", limits[i].name, limits[i].is_low ? "low: " : "",
            limits[i].text);
    }
    return w.length;
}
