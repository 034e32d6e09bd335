/* Child processes. */
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "loop.h"

/* A grandchild may keep a pipe open for ever. */
static const uint64_t pipe_grace_ns = 1000000000;

struct cn_process {
    cn_resource resource;
    cn_loop *loop;
    uv_process_t uv;
    uv_pipe_t pipes[2];
    bool has_pipe[2];
    size_t open_count; /* handles not closed yet */
    bool is_spawned;
    bool has_exited;
    int64_t exit_status;
    int term_signal;
    cn_deadline grace;
    cn_process_events events;
    void *user;
};

static void on_closed(uv_handle_t *handle)
{
    cn_process *process = handle->data;
    if (--process->open_count > 0)
        return;
    if (process->is_spawned)
        process->events.exited(process->user, process->exit_status, process->term_signal);
    free(process);
}

static void close_pipe(cn_process *process, int index)
{
    if (process->has_pipe[index] && !uv_is_closing((uv_handle_t *)&process->pipes[index]))
        uv_close((uv_handle_t *)&process->pipes[index], on_closed);
}

/* Everything that is still open. */
static void close_all(cn_process *process)
{
    cn_ring_remove(&process->resource.node);
    cn_deadline_fini(process->loop, &process->grace);
    close_pipe(process, 0);
    close_pipe(process, 1);
    uv_close((uv_handle_t *)&process->uv, on_closed);
}

static void finish_if_done(cn_process *process)
{
    if (!process->has_exited || uv_is_closing((uv_handle_t *)&process->uv))
        return;
    for (int i = 0; i < 2; i++) {
        if (process->has_pipe[i] && !uv_is_closing((uv_handle_t *)&process->pipes[i]))
            return;
    }
    close_all(process);
}

static void on_grace_over(cn_deadline *deadline)
{
    close_all(CN_CONTAINER(deadline, cn_process, grace));
}

static void on_process_exit(uv_process_t *uv, int64_t exit_status, int term_signal)
{
    cn_process *process = uv->data;
    process->has_exited = true;
    process->exit_status = exit_status;
    process->term_signal = term_signal;
    cn_deadline_set(process->loop, &process->grace, uv_hrtime() + pipe_grace_ns);
    finish_if_done(process);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)suggested;
    cn_process *process = handle->data;
    *buffer = uv_buf_init((char *)process->loop->read, CN_READ_BYTES);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    cn_process *process = stream->data;
    int index = stream == (uv_stream_t *)&process->pipes[0] ? 0 : 1;
    if (count > 0)
        process->events.output(process->user, index + 1, (const uint8_t *)buffer->base,
                               (size_t)count);
    if (count >= 0)
        return;
    close_pipe(process, index);
    finish_if_done(process);
}

static void stop_process(cn_resource *resource)
{
    cn_process *process = (cn_process *)resource;
    if (!process->has_exited) {
        uv_process_kill(&process->uv, SIGKILL);
        process->term_signal = SIGKILL;
    }
    close_all(process);
}

static void set_output(cn_process *process, uv_stdio_container_t *container, int index,
                       cn_output output)
{
    switch (output) {
    case CN_OUTPUT_INHERIT:
        container->flags = UV_INHERIT_FD;
        container->data.fd = index + 1;
        break;
    case CN_OUTPUT_NULL:
        container->flags = UV_IGNORE;
        break;
    case CN_OUTPUT_PIPE:
        uv_pipe_init(&process->loop->uv, &process->pipes[index], 0);
        process->pipes[index].data = process;
        process->has_pipe[index] = true;
        process->open_count++;
        container->flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE;
        container->data.stream = (uv_stream_t *)&process->pipes[index];
        break;
    }
}

cn_status cn_process_spawn(cn_loop *loop, const char *path, const char *const *arguments,
                           const char *const *environment, cn_output standard_output,
                           cn_output standard_error, const cn_process_events *events, void *user,
                           cn_process **process_p)
{
    if (loop->stopping)
        return CN_CANCELLED;
    cn_process *process = calloc(1, sizeof *process);
    if (process == NULL)
        return CN_NO_MEMORY;
    if (!cn_deadline_init(loop, &process->grace, on_grace_over)) {
        free(process);
        return CN_NO_MEMORY;
    }
    process->resource.stop = stop_process;
    process->loop = loop;
    process->events = *events;
    process->user = user;
    process->uv.data = process;
    process->open_count = 1;
    uv_stdio_container_t streams[3] = {{.flags = UV_IGNORE}};
    set_output(process, &streams[1], 0, standard_output);
    set_output(process, &streams[2], 1, standard_error);
    uv_process_options_t options = {
        /* A session of its own: Ctrl-C reaches a child through its parent alone. */
        .flags = UV_PROCESS_DETACHED,
        .exit_cb = on_process_exit,
        .file = path,
        /* libuv does not change what these point to. */
        .args = (char **)(uintptr_t)arguments,
        .env = (char **)(uintptr_t)environment,
        .stdio = streams,
        .stdio_count = 3,
    };
    int code = uv_spawn(&loop->uv, &process->uv, &options);
    cn_loop_add(loop, &process->resource);
    if (code != 0) {
        close_all(process);
        return cn_status_from_uv(code);
    }
    process->is_spawned = true;
    for (int i = 0; i < 2; i++) {
        if (process->has_pipe[i])
            uv_read_start((uv_stream_t *)&process->pipes[i], on_alloc, on_read);
    }
    *process_p = process;
    return CN_OK;
}

int cn_process_pid(const cn_process *process)
{
    return uv_process_get_pid(&process->uv);
}

cn_status cn_process_kill(cn_process *process, int signal_number)
{
    if (process->has_exited)
        return CN_NOT_FOUND;
    return cn_status_from_uv(uv_process_kill(&process->uv, signal_number));
}

void cn_follow_parent(int parent_pid, int signal_number)
{
    prctl(PR_SET_PDEATHSIG, signal_number);
    /* The parent may have ended before the call. */
    if (getppid() != parent_pid)
        raise(signal_number);
}
