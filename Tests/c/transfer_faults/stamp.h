// What a block holds, so that a test can tell a whole block from a torn, an old or a foreign one;
// and what a process holds, so that it can tell what leaks.
#ifndef TEST_STAMP_H
#define TEST_STAMP_H

#include <dirent.h>

#include "support.h"

// Not seen by ThreadSanitizer: engines of one process hand bytes to each other through sockets and
// mappings, which it does not know to be an order.
#define UNSEEN __attribute__((no_sanitize("thread"), noinline))

static inline uint64_t stamp_word(uint64_t stamp, uint64_t index) {
    uint64_t z = (stamp ^ (index * UINT64_C(0x9e3779b97f4a7c15))) * UINT64_C(0xbf58476d1ce4e5b9);
    return z ^ (z >> 29);
}

// Fills memory of a multiple of 8 bytes.
UNSEEN static void stamp_fill(void *memory, uint64_t bytes, uint64_t stamp) {
    volatile uint64_t *words = memory;
    for (uint64_t i = 0; i < bytes / 8; i++) {
        words[i] = stamp_word(stamp, i);
    }
}

UNSEEN static int stamp_holds(const void *memory, uint64_t bytes, uint64_t stamp) {
    const volatile uint64_t *words = memory;
    for (uint64_t i = 0; i < bytes / 8; i++) {
        if (words[i] != stamp_word(stamp, i)) {
            return 0;
        }
    }
    return 1;
}

// A final event that is right in itself: its list ascends, lies within the transfer, and agrees
// with the status and the bytes. None of these transfers carries a notification.
static inline void check_final(const ct_event *event, uint32_t block_count, uint32_t block_bytes) {
    CHECK(event->kind == CT_EVENT_TRANSFER && event->failed_count <= block_count);
    CHECK((event->status == CT_OK) == (event->failed_count == 0));
    CHECK(
        event->transferred_bytes == (uint64_t)(block_count - event->failed_count) * block_bytes);
    for (uint32_t i = 0; i < event->failed_count; i++) {
        CHECK(event->failed[i] < block_count);
        CHECK(i == 0 || event->failed[i] > event->failed[i - 1]);
    }
}

static inline uint32_t entries_of(const char *path) {
    DIR *directory = opendir(path);
    uint32_t count = 0;
    while (directory != NULL && readdir(directory) != NULL) {
        count++;
    }
    if (directory != NULL) {
        closedir(directory);
    }
    return count;
}

static inline uint32_t open_descriptors(void) {
    return entries_of("/proc/self/fd");
}

// Mappings of pools, our own and peers'.
static inline uint32_t mapped_pools(void) {
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    uint32_t count = 0;
    while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
        count += strstr(line, "memfd:llmd-kv") != NULL;
    }
    if (maps != NULL) {
        fclose(maps);
    }
    return count;
}

// Memory of its own that the process has, mappings of pools aside.
static inline uint64_t private_bytes(void) {
    FILE *status = fopen("/proc/self/status", "re");
    char line[256];
    unsigned long long kilobytes = 0;
    while (status != NULL && fgets(line, sizeof(line), status) != NULL) {
        if (sscanf(line, "RssAnon: %llu", &kilobytes) == 1) {
            break;
        }
    }
    if (status != NULL) {
        fclose(status);
    }
    return kilobytes * 1024;
}

// What an engine closes it closes on its thread, in its own time.
static inline void wait_for_descriptors(uint32_t expected) {
    uint64_t end = now_ms() + WAIT_MS;
    while (open_descriptors() != expected) {
        if (now_ms() >= end) {
            fprintf(stderr, "%u descriptors, not %u\n", open_descriptors(), expected);
            abort();
        }
        poll(NULL, 0, 1);
    }
}

#endif
