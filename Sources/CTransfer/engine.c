// The engine: its thread, its queues, its end.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"
#include "params.h"

#define CT_TRANSFERS_LIMIT 65536u
#define CT_EPOLL_EVENTS 64

uint64_t ct_now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

uint64_t ct_time_after(uint64_t now_ns, uint64_t wait_ns) {
    uint64_t at_ns;
    return __builtin_add_overflow(now_ns, wait_ns, &at_ns) ? UINT64_MAX : at_ns;
}

uint64_t ct_time_times(uint64_t wait_ns, uint64_t factor) {
    uint64_t product;
    return __builtin_mul_overflow(wait_ns, factor, &product) ? UINT64_MAX : product;
}

ct_status ct_engine_watch(ct_engine *engine, ct_source *source, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = source};
    return epoll_ctl(engine->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? CT_OK : CT_ENOMEM;
}

void ct_engine_schedule(ct_engine *engine, ct_task *task) {
    if (ct_link_is_empty(&task->node)) {
        ct_link_append(&engine->tasks, &task->node);
    }
}

void ct_engine_arm(ct_engine *engine, uint64_t at_ns) {
    if (at_ns < engine->timer_ns) {
        engine->timer_ns = at_ns;
    }
}

void ct_engine_wake_locked(ct_engine *engine) {
    if (!engine->is_woken) {
        engine->is_woken = 1;
        ct_eventfd_raise(engine->wake_fd);
    }
}

void ct_engine_command_locked(ct_engine *engine, ct_command *command) {
    ct_link_append(&engine->commands, &command->node);
    ct_engine_wake_locked(engine);
}

static void run_commands(ct_engine *engine) {
    ct_link commands;
    pthread_mutex_lock(&engine->lock);
    ct_link_take(&engine->commands, &commands);
    pthread_mutex_unlock(&engine->lock);
    while (!ct_link_is_empty(&commands)) {
        ct_command *command = ct_container(ct_link_pop(&commands), ct_command, node);
        command->run(command);
    }
    ct_transfer *transfer;
    while (ct_transfer_take_cancel(engine, &transfer)) {
        if (transfer != NULL) {
            ct_transfer_fail(transfer, CT_ECANCELED);
        }
    }
}

static void woken(ct_source *source, uint32_t events) {
    (void)events;
    ct_engine *engine = ct_container(source, ct_engine, wake_source);
    pthread_mutex_lock(&engine->lock);
    engine->is_woken = 0;
    ct_eventfd_lower(engine->wake_fd);
    pthread_mutex_unlock(&engine->lock);
}

static void run_timers(ct_engine *engine) {
    uint64_t now_ns = ct_now_ns();
    if (now_ns < engine->timer_ns) {
        return;
    }
    engine->timer_ns = UINT64_MAX;
    ct_link *next;
    for (ct_link *node = engine->servers.next; node != &engine->servers; node = next) {
        next = node->next;
        ct_server_timers(ct_container(node, ct_server, conn.node), now_ns);
    }
    for (ct_link *node = engine->peers.next; node != &engine->peers; node = node->next) {
        ct_peer_timers(ct_container(node, ct_peer, node), now_ns);
    }
    ct_pools_timers(engine, now_ns);
    ct_listeners_retry(engine, now_ns);
}

// One turn of every task that is scheduled now; those that schedule themselves again wait.
static void run_tasks(ct_engine *engine) {
    ct_link tasks;
    ct_link_take(&engine->tasks, &tasks);
    while (!ct_link_is_empty(&tasks)) {
        ct_task *task = ct_container(ct_link_pop(&tasks), ct_task, node);
        task->run(task);
    }
}

static void free_closed(ct_engine *engine) {
    while (!ct_link_is_empty(&engine->closed_conns)) {
        free(ct_container(ct_link_pop(&engine->closed_conns), ct_conn, node));
    }
}

static int epoll_timeout_ms(const ct_engine *engine) {
    for (uint32_t i = 0; i < CT_PRIORITIES; i++) {
        if (!ct_link_is_empty(&engine->moves[i])) {
            return 0;
        }
    }
    if (!ct_link_is_empty(&engine->tasks)) {
        return 0;
    }
    if (engine->timer_ns == UINT64_MAX) {
        return -1;
    }
    uint64_t now_ns = ct_now_ns();
    uint64_t wait_ms =
        engine->timer_ns > now_ns ? (engine->timer_ns - now_ns + 999999) / 1000000 : 0;
    return wait_ms > 60000 ? 60000 : (int)wait_ms;
}

// Ends everything that the engine still holds.
static void close_all(ct_engine *engine) {
    while (!ct_link_is_empty(&engine->peers)) {
        ct_peer *peer = ct_container(engine->peers.next, ct_peer, node);
        ct_peer_down(peer, CT_ECANCELED);
        ct_peer_free(peer);
    }
    while (!ct_link_is_empty(&engine->servers)) {
        ct_server *server = ct_container(engine->servers.next, ct_server, conn.node);
        ct_conn_close(&server->conn, CT_ECANCELED);
    }
    for (uint32_t i = 0; i < CT_REGIONS_MAX; i++) {
        if (engine->regions[i].pool != NULL) {
            ct_pool_free(engine->regions[i].pool);
        }
    }
    while (!ct_link_is_empty(&engine->removals)) {
        ct_link *node = ct_link_pop(&engine->removals);
        ct_pool_free(ct_container(node, ct_pool, removal_node));
    }
    free_closed(engine);
}

static int is_stopping(ct_engine *engine) {
    pthread_mutex_lock(&engine->lock);
    int stopping = engine->is_stopping;
    pthread_mutex_unlock(&engine->lock);
    return stopping;
}

static void *progress(void *argument) {
    ct_engine *engine = argument;
    while (!is_stopping(engine)) {
        struct epoll_event events[CT_EPOLL_EVENTS];
        int count =
            epoll_wait(engine->epoll_fd, events, CT_EPOLL_EVENTS, epoll_timeout_ms(engine));
        for (int i = 0; i < count; i++) {
            ct_source *source = events[i].data.ptr;
            source->ready(source, events[i].events);
        }
        run_commands(engine);
        run_timers(engine);
        run_tasks(engine);
        ct_transfers_advance(engine);
        free_closed(engine);
    }
    run_commands(engine);
    close_all(engine);
    return NULL;
}

static void defaults(ct_engine_params *params) {
    const ct_engine_params standard = {
        .transfers_max = 4096,
        .notifications_max = 4096,
        .connections_max = 256,
        .heartbeat_ns = 1000000000,
        .lease_ns = 5000000000,
        .list_bytes = UINT64_C(64) << 20,
    };
#define CT_DEFAULT(field) params->field = params->field != 0 ? params->field : standard.field
    CT_DEFAULT(transfers_max);
    CT_DEFAULT(notifications_max);
    CT_DEFAULT(connections_max);
    CT_DEFAULT(heartbeat_ns);
    CT_DEFAULT(lease_ns);
    CT_DEFAULT(list_bytes);
#undef CT_DEFAULT
}

// The boot id tells whether two engines share a kernel. Where there is none, a random one shares it
// with nobody.
static void read_boot_id(uint8_t boot_id[16]) {
    char text[64] = {0};
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0) {
        close(fd);
    }
    size_t digits = 0;
    for (ssize_t i = 0; i < length && digits < 32; i++) {
        char *end;
        char digit[2] = {text[i]};
        unsigned long value = strtoul(digit, &end, 16);
        if (end != digit) {
            boot_id[digits / 2] = (uint8_t)(boot_id[digits / 2] << 4 | value);
            digits++;
        }
    }
    if (digits != 32 && getrandom(boot_id, 16, 0) != 16) {
        memset(boot_id, 0, 16);
    }
}

// Frees an engine whose thread does not run.
static void free_engine(ct_engine *engine) {
    int fds[] = {
        engine->epoll_fd, engine->wake_fd, engine->event_fd, engine->tcp_listener.fd,
        engine->local_listener.fd};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    ct_events_free_locked(&engine->events);
    ct_events_free_locked(&engine->polled);
    ct_arena_close(&engine->lists);
    free(engine->slots);
    free(engine->transfer_ids);
    free(engine->free_slots);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

// The thread takes no signals: they are the application's.
static int start_thread(ct_engine *engine) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&engine->thread, NULL, progress, engine);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) {
        pthread_setname_np(engine->thread, "llmd-transfer");
    }
    return error;
}

static void init(ct_engine *engine, const ct_engine_params *params) {
    engine->params = *params;
    engine->timer_ns = UINT64_MAX;
    engine->streaming_copy = ct_copy_streaming();
    engine->epoll_fd = -1;
    engine->wake_fd = -1;
    engine->event_fd = -1;
    engine->tcp_listener.fd = -1;
    engine->local_listener.fd = -1;
    engine->wake_source.ready = woken;
    ct_link *lists[] = {
        &engine->tasks,    &engine->peers,  &engine->servers, &engine->closed_conns,
        &engine->commands, &engine->events, &engine->polled,  &engine->cancels,
        &engine->removals};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        ct_link_init(lists[i]);
    }
    for (uint32_t i = 0; i < CT_PRIORITIES; i++) {
        ct_link_init(&engine->moves[i]);
    }
    pthread_mutex_init(&engine->lock, NULL);
    read_boot_id(engine->boot_id);
}

static int fill_random(void *bytes, size_t count) {
    return getrandom(bytes, count, 0) == (ssize_t)count;
}

static ct_status open_resources(ct_engine *engine) {
    size_t slots = 2 * (size_t)engine->params.transfers_max;
    engine->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    engine->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    engine->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    engine->slots = ct_allocate(slots * sizeof(*engine->slots));
    engine->transfer_ids = ct_allocate(slots * sizeof(*engine->transfer_ids));
    engine->free_slots = ct_allocate(slots * sizeof(*engine->free_slots));
    if (engine->epoll_fd < 0 || engine->wake_fd < 0 || engine->event_fd < 0 ||
        engine->slots == NULL || engine->transfer_ids == NULL || engine->free_slots == NULL ||
        !fill_random(engine->id.bytes, sizeof(engine->id.bytes)) ||
        !fill_random(engine->proof, sizeof(engine->proof)) ||
        ct_engine_watch(engine, &engine->wake_source, engine->wake_fd, EPOLLIN) != CT_OK) {
        return CT_ENOMEM;
    }
    for (size_t i = 0; i < slots; i++) {
        engine->free_slots[engine->free_slot_count++] = (uint32_t)(slots - 1 - i);
    }
    ct_status status = ct_arena_open(&engine->lists, engine->params.list_bytes);
    if (status != CT_OK) {
        return status;
    }
    return start_thread(engine) == 0 ? CT_OK : CT_ENOMEM;
}

ct_status ct_engine_create(const ct_engine_params *params, ct_engine **engine_p) {
    ct_engine_params given;
    ct_status status = ct_params_read(params, &given, sizeof(given));
    if (status != CT_OK) {
        return status;
    }
    defaults(&given);
    if (given.transfers_max > CT_TRANSFERS_LIMIT || given.lease_ns <= given.heartbeat_ns ||
        given.admits_tracers > 1) {
        return CT_EINVAL;
    }
    ct_engine *engine = ct_allocate(sizeof(*engine));
    if (engine == NULL) {
        return CT_ENOMEM;
    }
    init(engine, &given);
    status = open_resources(engine);
    if (status != CT_OK) {
        free_engine(engine);
        return status;
    }
    if (given.admits_tracers) {
        // Where there is no Yama there is nothing to admit.
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    }
    *engine_p = engine;
    return CT_OK;
}

void ct_engine_destroy(ct_engine *engine) {
    if (engine == NULL) {
        return;
    }
    pthread_mutex_lock(&engine->lock);
    engine->is_stopping = 1;
    ct_engine_wake_locked(engine);
    pthread_mutex_unlock(&engine->lock);
    pthread_join(engine->thread, NULL);
    free_engine(engine);
}

ct_engine_id ct_engine_identity(const ct_engine *engine) {
    return engine->id;
}

int ct_engine_descriptor(const ct_engine *engine) {
    return engine->event_fd;
}

ct_stats ct_engine_stats(ct_engine *engine) {
    pthread_mutex_lock(&engine->lock);
    ct_stats stats = engine->stats;
    pthread_mutex_unlock(&engine->lock);
    return stats;
}
