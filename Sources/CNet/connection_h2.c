#include "connection.h"
#include "fields.h"

/* One write carries so much at least, if there is so much. */
enum { SEND_BYTES = 64 << 10 };

static cn_exchange *exchange_of(const cn_h2_stream *stream)
{
    return stream->user;
}

static void receive_head(void *user, cn_h2_stream *stream, const cn_head *head)
{
    cn_connection *connection = user;
    if (connection->client != NULL) {
        cn_exchange *exchange = exchange_of(stream);
        exchange->has_responded = true;
        exchange->in_ns = cn_loop_now(connection->loop);
        cn_exchange_arm(exchange);
        if (!exchange->is_detached)
            connection->events->responded(exchange->user, head);
        return;
    }
    cn_exchange *exchange = cn_exchange_new(connection);
    if (exchange == NULL) {
        cn_h2_reset(connection->h2, stream);
        return;
    }
    exchange->stream = stream;
    stream->user = exchange;
    if (head == NULL) {
        cn_exchange_refuse(exchange, 431, "header section too large");
        return;
    }
    exchange->is_head_request = cn_is_head_method(head->method);
    exchange->needs_continue = stream->expects_continue;
    cn_exchange_dispatch(exchange, head);
}

static void receive_body(void *user, cn_h2_stream *stream, const uint8_t *bytes, size_t count)
{
    cn_connection *connection = user;
    cn_exchange *exchange = exchange_of(stream);
    exchange->in_ns = cn_loop_now(connection->loop);
    if (!exchange->is_detached && exchange->end_status == CN_OK)
        connection->events->body(exchange->user, bytes, count);
}

static void receive_end(void *user, cn_h2_stream *stream, const cn_head *trailers)
{
    cn_connection *connection = user;
    cn_exchange *exchange = exchange_of(stream);
    exchange->in_ended = true;
    exchange->needs_continue = false;
    if (!exchange->is_detached && exchange->end_status == CN_OK)
        connection->events->ended(exchange->user, trailers);
}

/* Counts a request that its client gave up or spoiled: it may have cost work, and a client may do
 * no more of it than is allowed (CVE-2023-44487, CVE-2025-8671). */
static void count_spoiled(cn_connection *connection)
{
    static const uint64_t second_ns = 1000000000;
    const cn_listener_config *config = cn_listener_get_config(connection->listener);
    uint64_t seconds = (cn_loop_now(connection->loop) - connection->spoiled_ns) / second_ns;
    uint64_t forgiven = seconds * config->h2_reset_rate;
    connection->spoiled_ns += seconds * second_ns;
    connection->spoiled_count -=
        forgiven < connection->spoiled_count ? (uint32_t)forgiven : connection->spoiled_count;
    connection->spoiled_count++;
}

static bool is_abused(const cn_connection *connection)
{
    return connection->listener != NULL &&
           connection->spoiled_count >
               cn_listener_get_config(connection->listener)->h2_reset_burst;
}

static void close_stream(void *user, cn_h2_stream *stream, cn_status status)
{
    cn_connection *connection = user;
    cn_exchange *exchange = exchange_of(stream);
    stream->user = NULL;
    connection->frees_stream = true;
    if (connection->listener != NULL && exchange->end_status == CN_OK && status != CN_OK)
        count_spoiled(connection);
    cn_exchange_close(exchange, exchange->end_status == CN_OK ? status : exchange->end_status,
                      NULL);
}

static const cn_h2_events events = {
    .head = receive_head,
    .body = receive_body,
    .ended = receive_end,
    .closed = close_stream,
};

cn_status cn_connection_h2_start(cn_connection *connection)
{
    const cn_h2_config config = {
        .is_client = connection->client != NULL,
        .max_head_bytes = connection->config->max_head_bytes,
        .stream_window_bytes = connection->config->h2_stream_window_bytes,
        .max_stream_count = connection->config->h2_max_stream_count,
    };
    return cn_h2_create(&config, &events, connection, &connection->h2);
}

static void send_frames(cn_connection *connection)
{
    cn_h2 *h2 = connection->h2;
    while (!connection->is_writing && connection->failure == CN_OK) {
        cn_loop_lend(connection->loop, &connection->out);
        cn_status status = cn_h2_send(h2, &connection->out, SEND_BYTES);
        size_t count = cn_bytes_count(&connection->out);
        cn_connection_flush(connection);
        if (status != CN_OK) {
            cn_connection_fail(connection, status, cn_h2_problem(h2));
            return;
        }
        if (count < SEND_BYTES)
            return;
    }
}

void cn_connection_h2_receive(cn_connection *connection, const uint8_t *bytes, size_t count)
{
    cn_status status = cn_h2_receive(connection->h2, bytes, count);
    if (status == CN_OK)
        return;
    /* A GOAWAY that names the reason is due. */
    const char *problem = cn_h2_problem(connection->h2);
    send_frames(connection);
    cn_connection_close(connection, status, problem);
}

static void report_writable(cn_connection *connection)
{
    cn_node *node = connection->blocked.next;
    while (node != &connection->blocked) {
        cn_node *next = node->next;
        cn_exchange_report_writable(CN_CONTAINER(node, cn_exchange, blocked));
        node = next;
    }
}

/* Neither the rest of a head nor a next stream is waited for without end. */
static void update_wait(cn_connection *connection)
{
    int32_t head = connection->listener == NULL ? 0 : cn_h2_open_head(connection->h2);
    if (head != 0) {
        if (connection->wait != CN_WAIT_HEAD || connection->awaited_head != head)
            cn_connection_wait(connection, CN_WAIT_HEAD,
                               cn_listener_get_config(connection->listener)->head_timeout_ms);
        connection->awaited_head = head;
        return;
    }
    if (cn_h2_stream_count(connection->h2) > 0) {
        if (connection->wait != CN_WAIT_NONE)
            cn_connection_wait(connection, CN_WAIT_NONE, 0);
        return;
    }
    if (connection->wait == CN_WAIT_IDLE)
        return;
    uint32_t timeout_ms = connection->client == NULL ? connection->config->idle_timeout_ms
                                                     : cn_client_keep_alive(connection->client);
    cn_connection_wait(connection, CN_WAIT_IDLE, timeout_ms);
}

void cn_connection_h2_settle(cn_connection *connection)
{
    send_frames(connection);
    if (is_abused(connection)) {
        cn_h2_end(connection->h2, true);
        send_frames(connection);
    }
    if (connection->failure != CN_OK)
        return;
    report_writable(connection);
    if (cn_h2_is_over(connection->h2)) {
        cn_connection_close_when_flushed(connection, false);
        return;
    }
    if (connection->client != NULL && !connection->is_ready) {
        if (cn_h2_has_settings(connection->h2))
            cn_client_ready(connection->client);
        return;
    }
    update_wait(connection);
    if (connection->frees_stream && connection->client != NULL) {
        connection->frees_stream = false;
        cn_client_report_available(connection->client);
    }
}
