#include "loop.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void cn_ring_init(cn_node *ring)
{
    ring->next = ring->previous = ring;
}

void cn_ring_append(cn_node *ring, cn_node *node)
{
    node->next = ring;
    node->previous = ring->previous;
    ring->previous->next = node;
    ring->previous = node;
}

void cn_ring_remove(cn_node *node)
{
    if (node->next == NULL)
        return;
    node->next->previous = node->previous;
    node->previous->next = node->next;
    *node = (cn_node){0};
}

void cn_loop_add(cn_loop *loop, cn_resource *resource)
{
    cn_ring_append(&loop->resources, &resource->node);
}

void cn_loop_defer(cn_loop *loop, cn_deferred *deferred)
{
    if (deferred->node.next == NULL)
        cn_ring_append(&loop->deferred, &deferred->node);
}

void cn_loop_lend(cn_loop *loop, cn_bytes *bytes)
{
    if (bytes->data != NULL || loop->spare_count == 0)
        return;
    bytes->data = loop->spare[--loop->spare_count];
    bytes->begin = bytes->end = 0;
    bytes->capacity = CN_SPARE_BYTES;
}

void cn_loop_reclaim(cn_loop *loop, cn_bytes *bytes)
{
    if (bytes->data == NULL)
        return;
    if (bytes->capacity >= CN_SPARE_BYTES && bytes->capacity < 2 * CN_SPARE_BYTES &&
        loop->spare_count < CN_SPARE_COUNT) {
        loop->spare[loop->spare_count++] = bytes->data;
        bytes->data = NULL;
    }
    cn_bytes_free(bytes);
}

/* Work may make work. After some rounds it waits for the next turn, so that reading goes on. */
static void run_deferred(cn_loop *loop)
{
    for (int round = 0; round < 4 && loop->deferred.next != &loop->deferred; round++) {
        cn_node ring = loop->deferred;
        ring.next->previous = ring.previous->next = &ring;
        cn_ring_init(&loop->deferred);
        while (ring.next != &ring) {
            cn_deferred *deferred = (cn_deferred *)ring.next;
            cn_ring_remove(&deferred->node);
            deferred->run(deferred);
        }
    }
}

static void on_idle(uv_idle_t *idle)
{
    (void)idle;
}

static void on_timer(uv_timer_t *timer)
{
    cn_loop *loop = timer->data;
    loop->armed_ns = 0;
    cn_deadlines_fire(loop);
}

static void arm_timer(cn_loop *loop)
{
    uint64_t due_ns = loop->heap_count == 0 ? 0 : loop->heap[1]->due_ns;
    if (due_ns == loop->armed_ns)
        return;
    loop->armed_ns = due_ns;
    if (due_ns == 0) {
        uv_timer_stop(&loop->timer);
        return;
    }
    uv_update_time(&loop->uv);
    uint64_t now = uv_hrtime();
    uint64_t wait_ms = due_ns <= now ? 0 : (due_ns - now + 999999) / 1000000;
    uv_timer_start(&loop->timer, on_timer, wait_ms, 0);
}

static void on_prepare(uv_prepare_t *prepare)
{
    cn_loop *loop = prepare->data;
    run_deferred(loop);
    if (loop->deferred.next == &loop->deferred)
        uv_idle_stop(&loop->idle);
    else
        uv_idle_start(&loop->idle, on_idle);
    arm_timer(loop);
}

static void stop(cn_loop *loop)
{
    cn_deadlines_fire(loop);
    loop->stopping = true;
    while (loop->resources.next != &loop->resources) {
        cn_resource *resource = (cn_resource *)loop->resources.next;
        resource->stop(resource);
    }
    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->prepare, NULL);
    uv_close((uv_handle_t *)&loop->idle, NULL);
    uv_close((uv_handle_t *)&loop->timer, NULL);
}

static void on_wake(uv_async_t *wake)
{
    cn_loop *loop = wake->data;
    /* Read first: what was asked for before the stop still runs. */
    bool stop_requested = loop->stop_requested;
    loop->on_wake(loop->user);
    if (stop_requested && !loop->stopping)
        stop(loop);
}

static void run(void *argument)
{
    cn_loop *loop = argument;
    pthread_setname_np(pthread_self(), loop->name);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    uv_loop_close(&loop->uv);
    loop->on_stop(loop->user);
}

static cn_status init(cn_loop *loop)
{
    int code = uv_loop_init(&loop->uv);
    if (code != 0)
        return cn_status_from_uv(code);
    code = uv_async_init(&loop->uv, &loop->wake, on_wake);
    if (code != 0) {
        uv_loop_close(&loop->uv);
        return cn_status_from_uv(code);
    }
    uv_prepare_init(&loop->uv, &loop->prepare);
    uv_idle_init(&loop->uv, &loop->idle);
    uv_timer_init(&loop->uv, &loop->timer);
    uv_prepare_start(&loop->prepare, on_prepare);
    loop->wake.data = loop->prepare.data = loop->timer.data = loop;
    return CN_OK;
}

cn_status cn_loop_start(const char *name, void (*on_wake_up)(void *user),
                        void (*on_stop)(void *user), void *user, cn_loop **loop_p)
{
    signal(SIGPIPE, SIG_IGN);
    cn_loop *loop = calloc(1, sizeof *loop);
    if (loop == NULL)
        return CN_NO_MEMORY;
    loop->on_wake = on_wake_up;
    loop->on_stop = on_stop;
    loop->user = user;
    strncpy(loop->name, name, sizeof loop->name - 1);
    cn_ring_init(&loop->resources);
    cn_ring_init(&loop->deferred);
    cn_status status = init(loop);
    if (status != CN_OK) {
        free(loop);
        return status;
    }
    int code = uv_thread_create(&loop->thread, run, loop);
    if (code != 0) {
        stop(loop);
        uv_run(&loop->uv, UV_RUN_DEFAULT);
        uv_loop_close(&loop->uv);
        cn_loop_destroy(loop);
        return cn_status_from_uv(code);
    }
    *loop_p = loop;
    return CN_OK;
}

void cn_loop_wake(cn_loop *loop)
{
    uv_async_send(&loop->wake);
}

bool cn_loop_is_current(const cn_loop *loop)
{
    uv_thread_t self = uv_thread_self();
    return uv_thread_equal(&self, &loop->thread) != 0;
}

bool cn_loop_is_stopping(const cn_loop *loop)
{
    return loop->stopping;
}

void cn_loop_stop(cn_loop *loop)
{
    loop->stop_requested = true;
    uv_async_send(&loop->wake);
}

void cn_loop_join(cn_loop *loop)
{
    uv_thread_join(&loop->thread);
}

void cn_loop_destroy(cn_loop *loop)
{
    if (loop == NULL)
        return;
    for (size_t i = 0; i < loop->spare_count; i++)
        free(loop->spare[i]);
    free(loop->heap);
    free(loop);
}

cn_span cn_loop_date(cn_loop *loop)
{
    time_t now = time(NULL);
    if (now != loop->date_s) {
        /* Not strftime: names must not follow the locale. */
        static const char days[] = "SunMonTueWedThuFriSat";
        static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
        struct tm tm;
        char text[64];
        gmtime_r(&now, &tm);
        snprintf(text, sizeof text, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT",
                 days + tm.tm_wday * 3, tm.tm_mday, months + tm.tm_mon * 3, tm.tm_year + 1900,
                 tm.tm_hour, tm.tm_min, tm.tm_sec);
        memcpy(loop->date, text, sizeof loop->date);
        loop->date_s = now;
    }
    return (cn_span){(const uint8_t *)loop->date, sizeof loop->date - 1};
}

cn_status cn_status_from_uv(int code)
{
    switch (code) {
    case 0:
        return CN_OK;
    case UV_ENOMEM:
    case UV_ENOBUFS:
        return CN_NO_MEMORY;
    case UV_EINVAL:
        return CN_INVALID_ARGUMENT;
    case UV_EADDRINUSE:
        return CN_ADDRESS_IN_USE;
    case UV_EADDRNOTAVAIL:
        return CN_ADDRESS_NOT_AVAILABLE;
    case UV_EACCES:
    case UV_EPERM:
        return CN_ACCESS_DENIED;
    case UV_ENOENT:
    case UV_ESRCH:
    case UV_ENOTDIR:
        return CN_NOT_FOUND;
    case UV_ECONNREFUSED:
        return CN_CONNECT_REFUSED;
    case UV_EHOSTUNREACH:
    case UV_ENETUNREACH:
    case UV_ETIMEDOUT:
        return CN_CONNECT_FAILED;
    case UV_EOF:
        return CN_CLOSED;
    case UV_ECONNRESET:
    case UV_EPIPE:
    case UV_ECONNABORTED:
        return CN_RESET;
    case UV_ECANCELED:
        return CN_CANCELLED;
    case UV_EMFILE:
    case UV_ENFILE:
        return CN_TOO_MANY_FILES;
    default:
        return CN_SYSTEM;
    }
}

void cn_free(void *memory)
{
    free(memory);
}
