#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "connection.h"

static const uint64_t ms = 1000000;

/* ---- life */

static void on_deadline(cn_deadline *deadline);

cn_exchange *cn_exchange_new(cn_connection *connection)
{
    cn_exchange *exchange = calloc(1, sizeof *exchange);
    if (exchange == NULL || !cn_deadline_init(connection->loop, &exchange->deadline, on_deadline)) {
        free(exchange);
        return NULL;
    }
    exchange->connection = connection;
    exchange->out_left = -1;
    exchange->in_ns = exchange->out_ns = cn_loop_now(connection->loop);
    return exchange;
}

void cn_exchange_close(cn_exchange *exchange, cn_status status, const char *detail)
{
    cn_connection *connection = exchange->connection;
    cn_ring_remove(&exchange->blocked);
    cn_deadline_fini(connection->loop, &exchange->deadline);
    if (!exchange->is_detached)
        connection->events->closed(exchange->user, status, detail);
    free(exchange);
}

size_t cn_error_body(char *text, uint32_t status, const char *problem)
{
    int count = snprintf(text, CN_ERROR_BODY_BYTES,
                         "{\"error\":{\"message\":\"%s\",\"type\":\"invalid_request_error\","
                         "\"param\":null,\"code\":%u}}",
                         problem, status);
    return (size_t)count;
}

void cn_exchange_refuse(cn_exchange *exchange, uint32_t status, const char *problem)
{
    char body[CN_ERROR_BODY_BYTES], bytes[64];
    size_t body_count = cn_error_body(body, status, problem);
    int count = snprintf(bytes, sizeof bytes, "content-typeapplication/jsoncontent-length%zu",
                         body_count);
    const cn_field fields[] = {{0, 12, 12, 16}, {28, 14, 42, (uint32_t)count - 42}};
    const cn_head head = {
        .status = status,
        .bytes = (const uint8_t *)bytes,
        .bytes_count = (size_t)count,
        .fields = fields,
        .field_count = 2,
    };
    exchange->is_detached = true;
    cn_exchange_respond(exchange, &head);
    cn_exchange_write(exchange, (const uint8_t *)body, body_count);
    cn_exchange_finish(exchange, NULL);
}

/* The request's body is wanted: answers 100 to a client that waits for it. */
static void let_continue(cn_exchange *exchange)
{
    if (!exchange->needs_continue || exchange->has_responded || exchange->is_paused)
        return;
    exchange->needs_continue = false;
    cn_exchange_inform(exchange, 100);
}

void cn_exchange_dispatch(cn_exchange *exchange, const cn_head *head)
{
    cn_exchange_arm(exchange);
    exchange->user = cn_listener_request(exchange->connection->listener, exchange, head);
    if (exchange->user == NULL && !exchange->has_responded) {
        cn_exchange_refuse(exchange, 404, "no such path");
    } else if (exchange->user == NULL) {
        exchange->is_detached = true;
        cn_exchange_finish(exchange, NULL);
    }
    let_continue(exchange);
}

/* ---- deadlines */

static bool is_client(const cn_exchange *exchange)
{
    return exchange->connection->client != NULL;
}

/* Bytes of the outgoing message that have not left. */
static size_t out_bytes(const cn_exchange *exchange)
{
    if (exchange->stream != NULL)
        return cn_bytes_count(&exchange->stream->pending);
    return cn_connection_backlog(exchange->connection);
}

static bool awaits_response(const cn_exchange *exchange)
{
    return is_client(exchange) && !exchange->has_responded && exchange->out_finished;
}

static uint64_t earlier(uint64_t one, uint64_t other)
{
    return one == 0 || (other != 0 && other < one) ? other : one;
}

/* When the exchange is to be given up; 0: never, as it stands. */
static uint64_t due_ns(const cn_exchange *exchange)
{
    uint64_t idle_ns = exchange->connection->config->idle_timeout_ms * ms;
    uint64_t due = 0;
    bool awaits_body = !exchange->in_ended && (!is_client(exchange) || exchange->has_responded);
    if (idle_ns > 0 && awaits_body && !exchange->is_paused)
        due = exchange->in_ns + idle_ns;
    if (idle_ns > 0 && out_bytes(exchange) > 0)
        due = earlier(due, exchange->out_ns + idle_ns);
    if (awaits_response(exchange)) {
        uint64_t timeout_ns = cn_client_response_timeout(exchange->connection->client) * ms;
        if (timeout_ns > 0)
            due = earlier(due, exchange->out_ns + timeout_ns);
    }
    return due;
}

void cn_exchange_arm(cn_exchange *exchange)
{
    uint64_t due = due_ns(exchange);
    if (due > 0 && (exchange->deadline.place == 0 || due < exchange->deadline.due_ns))
        cn_deadline_set(exchange->connection->loop, &exchange->deadline, due);
}

static void time_out(cn_exchange *exchange)
{
    cn_connection *connection = exchange->connection;
    cn_status status = awaits_response(exchange) ? CN_RESPONSE_TIMEOUT : CN_IDLE_TIMEOUT;
    if (exchange->stream != NULL) {
        exchange->end_status = status;
        cn_h2_reset(connection->h2, exchange->stream);
        cn_connection_touch(connection);
    } else if (!is_client(exchange) && !exchange->in_ended && !exchange->has_responded) {
        cn_connection_h1_refuse(connection, 408, status, "the request body made no progress");
    } else {
        cn_connection_close(connection, status, NULL);
    }
}

static void on_deadline(cn_deadline *deadline)
{
    cn_exchange *exchange = CN_CONTAINER(deadline, cn_exchange, deadline);
    uint64_t now = uv_hrtime();
    size_t left = out_bytes(exchange);
    if (left != exchange->seen_bytes) {
        exchange->seen_bytes = left;
        exchange->out_ns = now;
    }
    uint64_t due = due_ns(exchange);
    if (due > now)
        cn_deadline_set(exchange->connection->loop, deadline, due);
    else if (due > 0)
        time_out(exchange);
}

/* ---- outgoing */

static bool is_over(const cn_exchange *exchange)
{
    return exchange->connection->is_closing || exchange->end_status != CN_OK ||
           exchange->connection->failure != CN_OK;
}

void cn_exchange_respond(cn_exchange *exchange, const cn_head *head)
{
    if (is_over(exchange) || exchange->has_responded || is_client(exchange))
        return;
    cn_connection *connection = exchange->connection;
    cn_head final = *head;
    if (final.status < 200 || final.status > 599)
        final.status = 500;
    if (exchange->stream != NULL) {
        exchange->out_bodiless = exchange->is_head_request || final.status == 204 ||
                                 final.status == 304;
        cn_status status = cn_h2_respond(connection->h2, exchange->stream, &final,
                                         !exchange->out_bodiless, cn_loop_date(connection->loop));
        if (status != CN_OK)
            cn_exchange_abort(exchange);
    } else {
        cn_connection_h1_respond(exchange, &final);
    }
    exchange->has_responded = true;
    exchange->needs_continue = false;
    cn_connection_touch(connection);
}

void cn_exchange_inform(cn_exchange *exchange, uint32_t status)
{
    if (is_over(exchange) || exchange->has_responded || is_client(exchange) || status < 100 ||
        status > 199 || status == 101)
        return;
    const cn_head head = {.status = status};
    if (exchange->stream != NULL)
        cn_h2_respond(exchange->connection->h2, exchange->stream, &head, true, (cn_span){0});
    else
        cn_connection_h1_inform(exchange, status);
    cn_connection_touch(exchange->connection);
}

bool cn_exchange_write(cn_exchange *exchange, const uint8_t *bytes, size_t count)
{
    if (is_over(exchange) || exchange->out_finished || count == 0 ||
        !(exchange->has_responded || is_client(exchange)))
        return true;
    cn_connection *connection = exchange->connection;
    const cn_span span = {bytes, count};
    if (connection->mode == CN_MODE_BYTES)
        cn_connection_send(connection, &span, 1);
    else if (exchange->stream == NULL)
        cn_connection_h1_write(exchange, bytes, count);
    else if (!exchange->out_bodiless)
        cn_h2_write(connection->h2, exchange->stream, bytes, count);
    cn_connection_touch(connection);
    if (out_bytes(exchange) <= connection->config->high_water_bytes)
        return true;
    exchange->is_blocked = true;
    if (exchange->stream != NULL && exchange->blocked.next == NULL)
        cn_ring_append(&connection->blocked, &exchange->blocked);
    exchange->out_ns = cn_loop_now(connection->loop);
    cn_exchange_arm(exchange);
    return false;
}

void cn_exchange_finish(cn_exchange *exchange, const cn_head *trailers)
{
    if (is_over(exchange) || exchange->out_finished ||
        !(exchange->has_responded || is_client(exchange)))
        return;
    cn_connection *connection = exchange->connection;
    if (exchange->stream == NULL)
        cn_connection_h1_finish(exchange, trailers);
    else if (!exchange->out_bodiless)
        cn_h2_finish(connection->h2, exchange->stream, trailers);
    exchange->out_finished = true;
    exchange->is_blocked = false;
    exchange->out_ns = cn_loop_now(connection->loop);
    cn_exchange_arm(exchange);
    cn_connection_touch(connection);
}

void cn_exchange_report_writable(cn_exchange *exchange)
{
    cn_connection *connection = exchange->connection;
    if (!exchange->is_blocked || out_bytes(exchange) > connection->config->low_water_bytes)
        return;
    exchange->is_blocked = false;
    cn_ring_remove(&exchange->blocked);
    if (!exchange->is_detached)
        connection->events->writable(exchange->user);
}

/* ---- incoming */

void cn_exchange_pause(cn_exchange *exchange)
{
    exchange->is_paused = true;
    if (exchange->stream != NULL)
        cn_h2_pause(exchange->stream);
    else
        cn_connection_update_reading(exchange->connection);
}

void cn_exchange_resume(cn_exchange *exchange)
{
    if (!exchange->is_paused || is_over(exchange))
        return;
    cn_connection *connection = exchange->connection;
    exchange->is_paused = false;
    exchange->in_ns = cn_loop_now(connection->loop);
    if (exchange->stream != NULL)
        cn_h2_resume(connection->h2, exchange->stream);
    let_continue(exchange);
    cn_exchange_arm(exchange);
    cn_connection_touch(connection);
}

/* ---- the end */

void cn_exchange_abort(cn_exchange *exchange)
{
    if (is_over(exchange))
        return;
    cn_connection *connection = exchange->connection;
    if (exchange->stream != NULL) {
        exchange->end_status = CN_CANCELLED;
        cn_h2_reset(connection->h2, exchange->stream);
        cn_connection_touch(connection);
    } else {
        cn_connection_fail(connection, CN_CANCELLED, NULL);
    }
}

void cn_exchange_cancel(cn_exchange *exchange)
{
    exchange->is_detached = true;
    cn_exchange_abort(exchange);
}

/* ---- questions */

bool cn_exchange_was_sent(const cn_exchange *exchange)
{
    return exchange->was_sent;
}

bool cn_exchange_is_h2(const cn_exchange *exchange)
{
    return exchange->stream != NULL;
}

/* Asked for with every request, and the same for all of a connection. */
static void find_peer(cn_connection *connection)
{
    struct sockaddr_storage address;
    int address_bytes = sizeof address;
    char host[INET6_ADDRSTRLEN];
    if (uv_tcp_getpeername(&connection->tcp, (struct sockaddr *)&address, &address_bytes) != 0)
        return;
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address;
        uv_ip4_name(v4, host, sizeof host);
        snprintf(connection->peer, sizeof connection->peer, "%s:%u", host, ntohs(v4->sin_port));
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address;
        uv_ip6_name(v6, host, sizeof host);
        snprintf(connection->peer, sizeof connection->peer, "[%s]:%u", host,
                 ntohs(v6->sin6_port));
    }
}

size_t cn_exchange_peer(const cn_exchange *exchange, char *text, size_t text_bytes)
{
    cn_connection *connection = exchange->connection;
    if (connection->peer[0] == 0)
        find_peer(connection);
    size_t count = strlen(connection->peer);
    if (count >= text_bytes)
        return 0;
    memcpy(text, connection->peer, count + 1);
    return count;
}
