#include "connection.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* Above it, writing at once is cheaper than copying. */
    COALESCE_BYTES = 8 << 10,
    /* More is not held back until the end of the turn. */
    FLUSH_BYTES = 64 << 10,
    /* HTTP/2: a peer that does not read is not read from. */
    MAX_BACKLOG_BYTES = 1 << 20,
    MAX_LINGER_BYTES = 128 << 20,
    LINGER_MS = 10000,
    KEEP_ALIVE_PROBE_S = 60,
};

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/* ---- beginning */

static void stop_connection(cn_resource *resource)
{
    cn_connection_close((cn_connection *)resource, CN_CANCELLED, NULL);
}

static void settle(cn_connection *connection);

static void run_deferred(cn_deferred *deferred)
{
    settle(CN_CONTAINER(deferred, cn_connection, deferred));
}

static void on_deadline(cn_deadline *deadline);

cn_status cn_connection_init(cn_connection *connection, cn_loop *loop,
                             const cn_connection_config *config, const cn_exchange_events *events)
{
    connection->resource.stop = stop_connection;
    connection->deferred.run = run_deferred;
    connection->loop = loop;
    connection->config = config;
    connection->events = events;
    cn_ring_init(&connection->blocked);
    if (!cn_deadline_init(loop, &connection->deadline, on_deadline))
        return CN_NO_MEMORY;
    cn_loop_add(loop, &connection->resource);
    return CN_OK;
}

static void become_h1(cn_connection *connection)
{
    connection->mode = CN_MODE_H1;
    cn_h1_init(&connection->h1, connection->client != NULL, connection->config->max_head_bytes);
}

static void become_h2(cn_connection *connection)
{
    connection->mode = CN_MODE_H2;
    cn_status status = cn_connection_h2_start(connection);
    if (status != CN_OK)
        cn_connection_fail(connection, status, NULL);
}

/* The transport is ready: chooses the codec as far as it is known. */
static void choose_codec(cn_connection *connection)
{
    bool chose_h2 = connection->tls != NULL && cn_tls_chose_h2(connection->tls);
    if (connection->client == NULL) {
        if (chose_h2)
            become_h2(connection);
        else
            connection->mode = CN_MODE_SNIFFING;
        cn_connection_wait(connection, CN_WAIT_IDLE, connection->config->idle_timeout_ms);
        return;
    }
    cn_codec codec = cn_client_codec(connection->client);
    if (chose_h2 || (connection->tls == NULL && codec == CN_CODEC_HTTP2)) {
        /* Ready once the server's SETTINGS are there. */
        become_h2(connection);
        return;
    }
    if (codec == CN_CODEC_NONE)
        connection->mode = CN_MODE_BYTES;
    else
        become_h1(connection);
    cn_client_ready(connection->client);
}

void cn_connection_begin(cn_connection *connection)
{
    uv_tcp_nodelay(&connection->tcp, 1);
    uv_tcp_keepalive(&connection->tcp, 1, KEEP_ALIVE_PROBE_S);
    cn_tls_context *context = connection->config->tls;
    if (context == NULL) {
        choose_codec(connection);
    } else {
        cn_client *client = connection->client;
        connection->mode = CN_MODE_HANDSHAKE;
        cn_status status = cn_tls_create(
            context, client == NULL ? NULL : cn_client_server_name(client),
            client == NULL ? CN_CODEC_HTTP1 : cn_client_codec(client), &connection->tls);
        if (status == CN_OK && client != NULL)
            status = cn_tls_start(connection->tls, &connection->cipher);
        if (status != CN_OK)
            cn_connection_fail(connection, status, "cannot start the handshake");
    }
    cn_connection_touch(connection);
}

/* ---- waiting */

void cn_connection_wait(cn_connection *connection, cn_wait wait, uint32_t timeout_ms)
{
    if (connection->is_closing)
        return;
    connection->wait = timeout_ms == 0 ? CN_WAIT_NONE : wait;
    if (connection->wait == CN_WAIT_NONE)
        cn_deadline_clear(connection->loop, &connection->deadline);
    else
        cn_deadline_set(connection->loop, &connection->deadline,
                        uv_hrtime() + timeout_ms * UINT64_C(1000000));
}

static void on_deadline(cn_deadline *deadline)
{
    cn_connection *connection = CN_CONTAINER(deadline, cn_connection, deadline);
    switch (connection->wait) {
    case CN_WAIT_NONE:
        break;
    case CN_WAIT_CONNECT:
        cn_connection_close(connection, CN_CONNECT_TIMEOUT, NULL);
        break;
    case CN_WAIT_HEAD:
        if (connection->mode == CN_MODE_H1 && cn_h1_is_inside(&connection->h1))
            cn_connection_h1_refuse(connection, 408, CN_HEAD_TIMEOUT,
                                    "the request head took too long");
        else
            cn_connection_close(connection, CN_HEAD_TIMEOUT, NULL);
        break;
    case CN_WAIT_IDLE:
        if (connection->mode == CN_MODE_H2) {
            cn_h2_end(connection->h2, false);
            cn_connection_close_when_flushed(connection, false);
        } else {
            cn_connection_close(connection, CN_IDLE_TIMEOUT, NULL);
        }
        break;
    case CN_WAIT_LINGER:
        cn_connection_close(connection, CN_OK, NULL);
        break;
    }
}

/* ---- reading */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)suggested;
    cn_connection *connection = handle->data;
    *buffer = uv_buf_init((char *)connection->loop->read, CN_READ_BYTES);
}

static void receive(cn_connection *connection, const uint8_t *bytes, size_t count);

/* Servers without ALPN: the first bytes tell the version. */
static void sniff(cn_connection *connection, const uint8_t *bytes, size_t count)
{
    cn_bytes *stash = &connection->stash;
    size_t held = cn_bytes_count(stash);
    size_t wanted = sizeof preface - 1 - held;
    size_t compared = count < wanted ? count : wanted;
    bool matches = memcmp(bytes, preface + held, compared) == 0;
    if (matches && compared < wanted) {
        cn_bytes_append(stash, bytes, count);
        return;
    }
    if (matches)
        become_h2(connection);
    else
        become_h1(connection);
    cn_bytes first = *stash;
    *stash = (cn_bytes){0};
    if (held > 0)
        receive(connection, cn_bytes_front(&first), held);
    cn_bytes_free(&first);
    receive(connection, bytes, count);
}

static void linger(cn_connection *connection, size_t count)
{
    connection->discarded_bytes += count;
    if (connection->discarded_bytes > MAX_LINGER_BYTES)
        cn_connection_close(connection, CN_OK, NULL);
}

/* Plain bytes. */
static void receive(cn_connection *connection, const uint8_t *bytes, size_t count)
{
    if (connection->is_closing || connection->failure != CN_OK || count == 0)
        return;
    switch (connection->mode) {
    case CN_MODE_SNIFFING:
        if (connection->wait != CN_WAIT_HEAD)
            cn_connection_wait(connection, CN_WAIT_HEAD,
                               cn_listener_get_config(connection->listener)->head_timeout_ms);
        sniff(connection, bytes, count);
        break;
    case CN_MODE_H1:
        cn_connection_h1_receive(connection, bytes, count);
        break;
    case CN_MODE_H2:
        cn_connection_h2_receive(connection, bytes, count);
        break;
    case CN_MODE_BYTES:
        if (connection->current == NULL)
            cn_connection_close(connection, CN_PROTOCOL, "bytes that nobody asked for");
        else
            connection->events->body(connection->current->user, bytes, count);
        break;
    case CN_MODE_LINGERING:
        linger(connection, count);
        break;
    case CN_MODE_RESOLVING:
    case CN_MODE_CONNECTING:
    case CN_MODE_HANDSHAKE:
        break;
    }
}

static void receive_cipher(cn_connection *connection, const uint8_t *bytes, size_t count)
{
    cn_loop *loop = connection->loop;
    cn_tls *tls = connection->tls;
    cn_tls_feed(tls, bytes, count);
    for (;;) {
        size_t plain_count;
        cn_status status = cn_tls_read(tls, loop->plain, CN_PLAIN_BYTES, &connection->cipher,
                                       &plain_count);
        if (status != CN_OK) {
            cn_connection_flush(connection);
            cn_connection_close(connection, status, cn_tls_problem(tls));
            return;
        }
        if (connection->mode == CN_MODE_HANDSHAKE && cn_tls_is_ready(tls))
            choose_codec(connection);
        if (plain_count == 0)
            break;
        receive(connection, loop->plain, plain_count);
        if (connection->is_closing)
            return;
    }
    cn_tls_feed(tls, NULL, 0);
}

static void end_of_input(cn_connection *connection)
{
    switch (connection->mode) {
    case CN_MODE_H1:
        /* Without close_notify somebody may have cut the end off. */
        if (connection->tls == NULL || cn_tls_is_closed(connection->tls) ||
            connection->h1.state != CN_H1_IN_REST) {
            cn_connection_h1_end_of_input(connection);
            return;
        }
        break;
    case CN_MODE_HANDSHAKE:
        cn_connection_close(connection, CN_TLS, "closed during the handshake");
        return;
    case CN_MODE_LINGERING:
        cn_connection_close(connection, CN_OK, NULL);
        return;
    default:
        break;
    }
    cn_connection_close(connection, CN_CLOSED, NULL);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    cn_connection *connection = stream->data;
    if (count == UV_EOF) {
        connection->is_reading = false;
        connection->input_ended = true;
        end_of_input(connection);
    } else if (count < 0) {
        cn_connection_close(connection, cn_status_from_uv((int)count), NULL);
    } else if (count > 0) {
        const uint8_t *bytes = (const uint8_t *)buffer->base;
        if (connection->tls != NULL && connection->mode != CN_MODE_LINGERING)
            receive_cipher(connection, bytes, (size_t)count);
        else
            receive(connection, bytes, (size_t)count);
    }
    if (!connection->is_closing)
        cn_connection_touch(connection);
}

static bool wants_reading(const cn_connection *connection)
{
    switch (connection->mode) {
    case CN_MODE_RESOLVING:
    case CN_MODE_CONNECTING:
        return false;
    case CN_MODE_H1:
        return cn_bytes_count(&connection->stash) == 0 &&
               (connection->current == NULL || !connection->current->is_paused);
    case CN_MODE_H2:
        return cn_connection_backlog(connection) < MAX_BACKLOG_BYTES;
    case CN_MODE_BYTES:
        return connection->current == NULL || !connection->current->is_paused;
    case CN_MODE_HANDSHAKE:
    case CN_MODE_SNIFFING:
    case CN_MODE_LINGERING:
        return true;
    }
    return true;
}

void cn_connection_update_reading(cn_connection *connection)
{
    bool wants = !connection->is_closing && !connection->input_ended && wants_reading(connection);
    if (wants == connection->is_reading)
        return;
    connection->is_reading = wants;
    uv_stream_t *stream = (uv_stream_t *)&connection->tcp;
    if (wants)
        uv_read_start(stream, on_alloc, on_read);
    else
        uv_read_stop(stream);
}

/* ---- writing */

size_t cn_connection_backlog(const cn_connection *connection)
{
    return cn_bytes_count(&connection->out) + cn_bytes_count(&connection->cipher) +
           (connection->is_writing
                ? uv_stream_get_write_queue_size((const uv_stream_t *)&connection->tcp)
                : 0);
}

static void write_failed(cn_connection *connection, int code)
{
    /* A server that answers early and closes makes a client's writing fail, with the answer still
     * to be read. */
    if (connection->client != NULL && connection->mode == CN_MODE_H1)
        connection->is_out_broken = true;
    else
        cn_connection_fail(connection, cn_status_from_uv(code), NULL);
}

static void on_written(uv_write_t *write, int code)
{
    cn_connection *connection = write->data;
    connection->is_writing = false;
    cn_bytes_consume(&connection->flight, cn_bytes_count(&connection->flight));
    cn_loop_reclaim(connection->loop, &connection->flight);
    if (connection->is_closing)
        return;
    if (code < 0)
        write_failed(connection, code);
    settle(connection);
}

/* Tries to write; the count taken, 0 on failure. */
static size_t try_write(cn_connection *connection, const uv_buf_t *buffers, unsigned count)
{
    int taken = uv_try_write((uv_stream_t *)&connection->tcp, buffers, count);
    if (taken >= 0) {
        if (connection->current != NULL)
            connection->current->was_sent = true;
        return (size_t)taken;
    }
    if (taken != UV_EAGAIN)
        write_failed(connection, taken);
    return 0;
}

/* Gives what could not be written at once to libuv. */
static void start_flight(cn_connection *connection, cn_bytes *bytes)
{
    connection->flight = *bytes;
    *bytes = (cn_bytes){0};
    if (connection->current != NULL)
        connection->current->was_sent = true;
    connection->is_writing = true;
    connection->write.data = connection;
    uv_buf_t buffer = uv_buf_init((char *)(uintptr_t)cn_bytes_front(&connection->flight),
                                  (unsigned)cn_bytes_count(&connection->flight));
    int code = uv_write(&connection->write, (uv_stream_t *)&connection->tcp, &buffer, 1,
                        on_written);
    if (code != 0) {
        connection->is_writing = false;
        cn_bytes_free(&connection->flight);
        write_failed(connection, code);
    }
}

static void write_queue(cn_connection *connection, cn_bytes *bytes)
{
    if (cn_bytes_count(bytes) > 0) {
        uv_buf_t buffer = uv_buf_init((char *)(uintptr_t)cn_bytes_front(bytes),
                                      (unsigned)cn_bytes_count(bytes));
        cn_bytes_consume(bytes, try_write(connection, &buffer, 1));
    }
    if (connection->is_out_broken || connection->failure != CN_OK)
        cn_bytes_consume(bytes, cn_bytes_count(bytes));
    if (cn_bytes_count(bytes) > 0)
        start_flight(connection, bytes);
    else
        cn_loop_reclaim(connection->loop, bytes);
}

void cn_connection_flush(cn_connection *connection)
{
    if (connection->is_writing || connection->is_closing || connection->mode < CN_MODE_HANDSHAKE)
        return;
    if (connection->out.failed || connection->cipher.failed) {
        cn_connection_fail(connection, CN_NO_MEMORY, NULL);
        return;
    }
    if (connection->tls == NULL) {
        write_queue(connection, &connection->out);
        return;
    }
    cn_bytes *out = &connection->out;
    if (cn_bytes_count(out) > 0 && cn_tls_is_ready(connection->tls)) {
        cn_loop_lend(connection->loop, &connection->cipher);
        cn_status status = cn_tls_write(connection->tls, cn_bytes_front(out), cn_bytes_count(out),
                                        &connection->cipher);
        cn_bytes_consume(out, cn_bytes_count(out));
        cn_loop_reclaim(connection->loop, out);
        if (status != CN_OK)
            cn_connection_fail(connection, status, cn_tls_problem(connection->tls));
    }
    write_queue(connection, &connection->cipher);
}

void cn_connection_send(cn_connection *connection, const cn_span *spans, size_t span_count)
{
    if (connection->is_out_broken)
        return;
    size_t total = 0, skip = 0;
    for (size_t i = 0; i < span_count; i++)
        total += spans[i].count;
    cn_bytes *out = &connection->out;
    if (total >= COALESCE_BYTES && !connection->is_writing && connection->tls == NULL) {
        uv_buf_t buffers[5] = {uv_buf_init((char *)(uintptr_t)cn_bytes_front(out),
                                           (unsigned)cn_bytes_count(out))};
        for (size_t i = 0; i < span_count; i++)
            buffers[i + 1] = uv_buf_init((char *)(uintptr_t)spans[i].data,
                                         (unsigned)spans[i].count);
        unsigned first = cn_bytes_count(out) == 0 ? 1 : 0;
        size_t taken = try_write(connection, buffers + first, (unsigned)span_count + 1 - first);
        size_t of_queue = taken < cn_bytes_count(out) ? taken : cn_bytes_count(out);
        cn_bytes_consume(out, of_queue);
        skip = taken - of_queue;
        if (skip == total) {
            cn_loop_reclaim(connection->loop, out);
            return;
        }
    }
    cn_loop_lend(connection->loop, out);
    for (size_t i = 0; i < span_count; i++) {
        size_t skipped = skip < spans[i].count ? skip : spans[i].count;
        cn_bytes_append(out, spans[i].data + skipped, spans[i].count - skipped);
        skip -= skipped;
    }
    if (cn_bytes_count(out) >= FLUSH_BYTES)
        cn_connection_flush(connection);
}

/* ---- settling */

void cn_connection_touch(cn_connection *connection)
{
    if (!connection->is_closing)
        cn_loop_defer(connection->loop, &connection->deferred);
}

void cn_connection_fail(cn_connection *connection, cn_status status, const char *detail)
{
    if (connection->failure == CN_OK) {
        connection->failure = status;
        connection->failure_detail = detail;
    }
    cn_connection_touch(connection);
}

void cn_connection_close_when_flushed(cn_connection *connection, bool lingers)
{
    connection->closes_when_flushed = true;
    connection->lingers = connection->lingers || lingers;
    cn_connection_touch(connection);
}

static void on_shut_down(uv_shutdown_t *shutdown, int code)
{
    (void)shutdown;
    (void)code;
}

/* Everything is written: says so, and waits for a peer that may still be sending. */
static void end_output(cn_connection *connection)
{
    connection->closes_when_flushed = false;
    if (connection->tls != NULL) {
        cn_tls_close(connection->tls, &connection->cipher);
        cn_connection_flush(connection);
    }
    if (!connection->lingers) {
        cn_connection_close(connection, CN_OK, NULL);
        return;
    }
    connection->mode = CN_MODE_LINGERING;
    connection->discarded_bytes = 0;
    cn_bytes_free(&connection->stash);
    cn_connection_wait(connection, CN_WAIT_LINGER, LINGER_MS);
    if (uv_shutdown(&connection->shutdown, (uv_stream_t *)&connection->tcp, on_shut_down) != 0)
        cn_connection_close(connection, CN_OK, NULL);
}

static void settle(cn_connection *connection)
{
    if (connection->is_closing)
        return;
    if (connection->mode == CN_MODE_H1 && connection->failure == CN_OK)
        cn_connection_h1_settle(connection);
    else if (connection->mode == CN_MODE_H2 && connection->failure == CN_OK)
        cn_connection_h2_settle(connection);
    else
        cn_connection_flush(connection);
    if (connection->mode == CN_MODE_BYTES && connection->current != NULL)
        cn_exchange_report_writable(connection->current);
    if (connection->is_closing)
        return;
    if (connection->failure != CN_OK) {
        cn_connection_close(connection, connection->failure, connection->failure_detail);
        return;
    }
    if (connection->closes_when_flushed && cn_connection_backlog(connection) == 0)
        end_output(connection);
    cn_connection_update_reading(connection);
}

/* ---- the end */

static void release(cn_connection *connection)
{
    if (connection->client != NULL)
        cn_client_free(connection->client);
    else
        free(connection);
}

static void on_closed(uv_handle_t *handle)
{
    cn_connection *connection = handle->data;
    cn_bytes_free(&connection->flight);
    if (--connection->open_count == 0)
        release(connection);
}

void cn_connection_close(cn_connection *connection, cn_status status, const char *detail)
{
    if (connection->is_closing)
        return;
    connection->is_closing = true;
    cn_ring_remove(&connection->resource.node);
    cn_ring_remove(&connection->deferred.node);
    cn_deadline_fini(connection->loop, &connection->deadline);
    if (connection->current != NULL)
        cn_exchange_close(connection->current, status, detail);
    if (connection->h2 != NULL) {
        cn_h2_stream *stream;
        while ((stream = cn_h2_first_stream(connection->h2)) != NULL)
            /* The end of a connection may be in order; that of a stream before its own is not. */
            cn_h2_drop(connection->h2, stream, status == CN_OK ? CN_PROTOCOL : status);
        cn_h2_destroy(connection->h2);
        connection->h2 = NULL;
    }
    if (connection->listener != NULL)
        cn_listener_forget(connection->listener, connection);
    else
        cn_client_closed(connection->client, status, detail);
    cn_h1_free(&connection->h1);
    cn_tls_destroy(connection->tls);
    connection->tls = NULL;
    cn_bytes_free(&connection->out);
    cn_bytes_free(&connection->cipher);
    cn_bytes_free(&connection->stash);
    if (!connection->is_open) {
        if (connection->open_count == 0)
            release(connection);
        return;
    }
    if (!connection->resets || uv_tcp_close_reset(&connection->tcp, on_closed) != 0)
        uv_close((uv_handle_t *)&connection->tcp, on_closed);
}
