/* Timers, file descriptors and signals. */
#include <stdlib.h>

#include "loop.h"

/* ---- timers */

struct cn_timer {
    cn_resource resource;
    cn_loop *loop;
    cn_deadline deadline;
    uint64_t repeat_ns;
    void (*on_fire)(void *user);
    cn_gone on_gone;
    void *user;
};

static void fire_timer(cn_deadline *deadline)
{
    cn_timer *timer = CN_CONTAINER(deadline, cn_timer, deadline);
    if (timer->repeat_ns > 0) {
        /* A loop that fell behind skips what it missed. */
        uint64_t now = uv_hrtime();
        uint64_t next = deadline->due_ns + timer->repeat_ns;
        cn_deadline_set(timer->loop, deadline, next > now ? next : now + timer->repeat_ns);
    }
    timer->on_fire(timer->user);
}

static void stop_timer(cn_resource *resource)
{
    cn_timer_destroy((cn_timer *)resource);
}

cn_status cn_timer_create(cn_loop *loop, uint64_t delay_ns, uint64_t repeat_ns,
                          void (*on_fire)(void *user), cn_gone on_gone, void *user,
                          cn_timer **timer_p)
{
    if (loop->stopping)
        return CN_CANCELLED;
    cn_timer *timer = malloc(sizeof *timer);
    if (timer == NULL)
        return CN_NO_MEMORY;
    *timer = (cn_timer){
        .resource.stop = stop_timer,
        .loop = loop,
        .repeat_ns = repeat_ns,
        .on_fire = on_fire,
        .on_gone = on_gone,
        .user = user,
    };
    if (!cn_deadline_init(loop, &timer->deadline, fire_timer)) {
        free(timer);
        return CN_NO_MEMORY;
    }
    cn_loop_add(loop, &timer->resource);
    cn_deadline_set(loop, &timer->deadline, uv_hrtime() + delay_ns);
    *timer_p = timer;
    return CN_OK;
}

void cn_timer_destroy(cn_timer *timer)
{
    if (timer == NULL)
        return;
    cn_ring_remove(&timer->resource.node);
    cn_deadline_fini(timer->loop, &timer->deadline);
    cn_gone on_gone = timer->on_gone;
    void *user = timer->user;
    free(timer);
    on_gone(user);
}

/* ---- file descriptors */

struct cn_poll {
    cn_resource resource;
    uv_poll_t uv;
    void (*on_readable)(void *user);
    cn_gone on_gone;
    void *user;
};

static void on_poll(uv_poll_t *uv, int status, int events)
{
    (void)status;
    (void)events;
    cn_poll *poll = uv->data;
    poll->on_readable(poll->user);
}

static void on_poll_closed(uv_handle_t *handle)
{
    cn_poll *poll = handle->data;
    cn_gone on_gone = poll->on_gone;
    void *user = poll->user;
    free(poll);
    on_gone(user);
}

static void stop_poll(cn_resource *resource)
{
    cn_poll_destroy((cn_poll *)resource);
}

cn_status cn_poll_create(cn_loop *loop, int fd, void (*on_readable)(void *user), cn_gone on_gone,
                         void *user, cn_poll **poll_p)
{
    if (loop->stopping)
        return CN_CANCELLED;
    cn_poll *poll = malloc(sizeof *poll);
    if (poll == NULL)
        return CN_NO_MEMORY;
    *poll = (cn_poll){
        .resource.stop = stop_poll,
        .on_readable = on_readable,
        .on_gone = on_gone,
        .user = user,
    };
    int code = uv_poll_init(&loop->uv, &poll->uv, fd);
    if (code != 0) {
        free(poll);
        return cn_status_from_uv(code);
    }
    poll->uv.data = poll;
    cn_loop_add(loop, &poll->resource);
    /* Fails only for events that were not asked for. */
    uv_poll_start(&poll->uv, UV_READABLE, on_poll);
    *poll_p = poll;
    return CN_OK;
}

void cn_poll_destroy(cn_poll *poll)
{
    if (poll == NULL)
        return;
    cn_ring_remove(&poll->resource.node);
    uv_close((uv_handle_t *)&poll->uv, on_poll_closed);
}

/* ---- signals */

struct cn_signals {
    cn_resource resource;
    void (*on_signal)(void *user, int number);
    cn_gone on_gone;
    void *user;
    size_t open_count;
    size_t count;
    uv_signal_t uv[];
};

static void on_signal(uv_signal_t *uv, int number)
{
    cn_signals *signals = uv->data;
    signals->on_signal(signals->user, number);
}

static void on_signal_closed(uv_handle_t *handle)
{
    cn_signals *signals = handle->data;
    if (--signals->open_count > 0)
        return;
    cn_gone on_gone = signals->on_gone;
    void *user = signals->user;
    free(signals);
    if (on_gone != NULL)
        on_gone(user);
}

static void close_signals(cn_signals *signals)
{
    for (size_t i = 0; i < signals->count; i++)
        uv_close((uv_handle_t *)&signals->uv[i], on_signal_closed);
}

static void stop_signals(cn_resource *resource)
{
    cn_signals_destroy((cn_signals *)resource);
}

cn_status cn_signals_create(cn_loop *loop, const int *numbers, size_t number_count,
                            void (*on_number)(void *user, int number), cn_gone on_gone, void *user,
                            cn_signals **signals_p)
{
    if (loop->stopping)
        return CN_CANCELLED;
    if (number_count == 0)
        return CN_INVALID_ARGUMENT;
    cn_signals *signals = calloc(1, sizeof *signals + number_count * sizeof signals->uv[0]);
    if (signals == NULL)
        return CN_NO_MEMORY;
    signals->resource.stop = stop_signals;
    signals->on_signal = on_number;
    signals->user = user;
    for (size_t i = 0; i < number_count; i++) {
        int code = uv_signal_init(&loop->uv, &signals->uv[i]);
        if (code == 0) {
            signals->uv[i].data = signals;
            signals->count = signals->open_count = i + 1;
            code = uv_signal_start(&signals->uv[i], on_signal, numbers[i]);
        }
        if (code != 0) {
            if (signals->count == 0)
                free(signals);
            else
                close_signals(signals);
            return cn_status_from_uv(code);
        }
    }
    signals->on_gone = on_gone;
    cn_loop_add(loop, &signals->resource);
    *signals_p = signals;
    return CN_OK;
}

void cn_signals_destroy(cn_signals *signals)
{
    if (signals == NULL)
        return;
    cn_ring_remove(&signals->resource.node);
    close_signals(signals);
}
