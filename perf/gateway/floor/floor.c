#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "CRelayFloor.h"

enum { READ_BYTES = 64 << 10 };

/* One direction's source is the other's target. Both ends close together. */
typedef struct end {
    uv_tcp_t tcp;
    struct end *other;
    bool is_closed;
} end;

typedef struct late_write {
    uv_write_t write;
    uv_buf_t buffer;
} late_write;

static struct sockaddr_in upstream;
static uint8_t read_bytes[READ_BYTES];

static void on_closed(uv_handle_t *handle)
{
    end *closed = handle->data;
    if (closed->other != NULL)
        closed->other->other = NULL;
    free(closed);
}

static void close_end(end *end)
{
    if (end == NULL || end->is_closed)
        return;
    end->is_closed = true;
    uv_close((uv_handle_t *)&end->tcp, on_closed);
}

static void close_both(end *end)
{
    close_end(end->other);
    close_end(end);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)handle, (void)suggested;
    *buffer = uv_buf_init((char *)read_bytes, READ_BYTES);
}

static void on_written(uv_write_t *write, int status)
{
    late_write *late = (late_write *)write;
    if (status < 0)
        close_both(write->handle->data);
    free(late->buffer.base);
    free(late);
}

/* What does not go at once is copied, without a bound: the load never lets it grow. */
static void write_late(end *end, const char *bytes, size_t count)
{
    late_write *late = malloc(sizeof *late);
    char *copy = malloc(count);
    if (late == NULL || copy == NULL)
        abort();
    memcpy(copy, bytes, count);
    late->buffer = uv_buf_init(copy, (unsigned)count);
    if (uv_write(&late->write, (uv_stream_t *)&end->tcp, &late->buffer, 1, on_written) != 0)
        abort();
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    end *source = stream->data;
    if (count < 0 || source->other == NULL) {
        close_both(source);
        return;
    }
    uv_buf_t bytes = uv_buf_init(buffer->base, (unsigned)count);
    int taken = count > 0 ? uv_try_write((uv_stream_t *)&source->other->tcp, &bytes, 1) : 0;
    if (taken < 0 && taken != UV_EAGAIN) {
        close_both(source);
        return;
    }
    if (taken < 0)
        taken = 0;
    if (taken < count)
        write_late(source->other, buffer->base + taken, (size_t)(count - taken));
}

static void on_connected(uv_connect_t *connect, int status)
{
    end *server = connect->handle->data;
    free(connect);
    if (status < 0 || server->other == NULL) {
        close_both(server);
        return;
    }
    uv_read_start((uv_stream_t *)&server->tcp, on_alloc, on_read);
    uv_read_start((uv_stream_t *)&server->other->tcp, on_alloc, on_read);
}

static end *new_end(uv_loop_t *loop)
{
    end *end = calloc(1, sizeof *end);
    if (end == NULL)
        abort();
    uv_tcp_init(loop, &end->tcp);
    uv_tcp_nodelay(&end->tcp, 1);
    end->tcp.data = end;
    return end;
}

static void on_connection(uv_stream_t *listener, int status)
{
    if (status < 0)
        return;
    end *client = new_end(listener->loop), *server = new_end(listener->loop);
    uv_connect_t *connect = malloc(sizeof *connect);
    if (connect == NULL)
        abort();
    client->other = server;
    server->other = client;
    if (uv_accept(listener, (uv_stream_t *)&client->tcp) != 0 ||
        uv_tcp_connect(connect, &server->tcp, (const struct sockaddr *)&upstream, on_connected) !=
            0) {
        free(connect);
        close_both(client);
    }
}

void crf_relay(uint16_t upstream_port, void (*ready)(uint16_t port))
{
    struct sockaddr_in address;
    int address_bytes = sizeof address;
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    uv_tcp_init(loop, &listener);
    uv_ip4_addr("127.0.0.1", upstream_port, &upstream);
    uv_ip4_addr("127.0.0.1", 0, &address);
    if (uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0) != 0 ||
        uv_listen((uv_stream_t *)&listener, 128, on_connection) != 0 ||
        uv_tcp_getsockname(&listener, (struct sockaddr *)&address, &address_bytes) != 0)
        return;
    ready(ntohs(address.sin_port));
    uv_run(loop, UV_RUN_DEFAULT);
}
