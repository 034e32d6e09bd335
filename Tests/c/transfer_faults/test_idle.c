// Engines that have nothing to do, do nothing: a thread of theirs is woken by heartbeats alone.
#include <dirent.h>

#include "support.h"

#define WATCH_MS 2000
#define WAKES_PER_SECOND 10

typedef struct idleness {
    uint32_t threads;
    uint64_t wakes;   // of all of them: voluntary context switches
    uint64_t run_ns;
} idleness;

static int read_file(const char *tid, const char *name, char *text, size_t room) {
    char path[320];
    snprintf(path, sizeof(path), "/proc/self/task/%s/%s", tid, name);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return 0;
    }
    size_t bytes = fread(text, 1, room - 1, file);
    text[bytes] = 0;
    fclose(file);
    return 1;
}

// Of the engines' threads, which are known by their name.
static idleness measure(void) {
    idleness sum = {0};
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        char text[4096];
        if (!read_file(entry->d_name, "comm", text, sizeof(text)) ||
            strcmp(text, "llmd-transfer\n") != 0) {
            continue;
        }
        unsigned long long value;
        CHECK(read_file(entry->d_name, "status", text, sizeof(text)));
        const char *line = strstr(text, "\nvoluntary_ctxt_switches:");
        CHECK(line != NULL && sscanf(line, "\nvoluntary_ctxt_switches: %llu", &value) == 1);
        sum.threads++;
        sum.wakes += value;
        if (read_file(entry->d_name, "schedstat", text, sizeof(text)) &&
            sscanf(text, "%llu", &value) == 1) {
            sum.run_ns += value;
        }
    }
    closedir(tasks);
    return sum;
}

static void watch(const char *name, uint32_t threads) {
    idleness before = measure();
    CHECK(before.threads == threads);
    uint64_t begin_ms = now_ms();
    while (now_ms() - begin_ms < WATCH_MS) {
        poll(NULL, 0, WATCH_MS / 10);
    }
    uint64_t took_ms = now_ms() - begin_ms;
    idleness after = measure();
    uint64_t wakes = after.wakes - before.wakes;
    printf(
        "  %s: %.1f wakes and %.2f ms of processor a second and thread\n", name,
        (double)wakes * 1000 / (double)took_ms / threads,
        (double)(after.run_ns - before.run_ns) / 1e3 / (double)took_ms / threads);
    CHECK(wakes * 1000 <= (uint64_t)WAKES_PER_SECOND * took_ms * threads);
}

int main(void) {
    ct_engine *server = make_engine();
    ct_engine *client = make_engine();
    watch("alone", 2);
    ct_pool *pool;
    uint16_t port;
    CHECK_STATUS(ct_pool_create(server, 4096, 16, &pool), CT_OK);
    CHECK_STATUS(ct_engine_listen(server, "127.0.0.1", 0, &port), CT_OK);
    // A peer of each kind: over sockets, and with a channel of this host.
    ct_peer *far = connect_over(client, port, CT_PATH_TCP);
    watch("a peer over tcp", 2);
    ct_peer_release(far);
    ct_peer *near = connect_over(client, port, CT_PATH_MEMFD);
    watch("a peer over memfd", 2);
    ct_peer_release(near);
    // One that is not there, and is tried again and again.
    ct_engine_destroy(server);
    ct_connect_params params = CT_CONNECT_PARAMS_INIT;
    params.host = "127.0.0.1";
    params.port = port;
    params.reconnect_ns = UINT64_C(500000000);
    ct_peer *gone;
    CHECK_STATUS(ct_peer_connect(client, &params, &gone), CT_OK);
    watch("a peer that is gone", 1);
    ct_engine_destroy(client);
    puts("ok");
    return 0;
}
