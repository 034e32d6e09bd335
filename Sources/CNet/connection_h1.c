#include <stdlib.h>
#include <string.h>

#include "connection.h"
#include "fields.h"

enum {
    /* What is read of a request that has its answer, to keep the connection. */
    MAX_DISCARD_BYTES = 256 << 10,
    DISCARD_MS = 10000,
};

/* ---- servers */

static void begin_request(cn_connection *connection)
{
    const cn_h1 *h1 = &connection->h1;
    cn_connection_wait(connection, CN_WAIT_NONE, 0);
    cn_exchange *exchange = cn_exchange_new(connection);
    if (exchange == NULL) {
        cn_connection_close(connection, CN_NO_MEMORY, NULL);
        return;
    }
    connection->current = exchange;
    exchange->is_head_request = cn_is_head_method(h1->head.method);
    exchange->needs_continue = h1->expects_continue && h1->state != CN_H1_AT_END;
    cn_exchange_dispatch(exchange, &h1->head);
}

/* The connection is between two requests. */
static void await_request(cn_connection *connection)
{
    connection->is_discarding = false;
    if (!connection->h1.keep_alive || connection->is_draining || connection->input_ended) {
        cn_connection_close_when_flushed(connection, cn_bytes_count(&connection->stash) > 0);
        return;
    }
    cn_h1_next_message(&connection->h1);
    cn_connection_wait(connection, CN_WAIT_IDLE, connection->config->idle_timeout_ms);
}

/* Ends the exchange if its response is written. False if it goes on. */
static bool complete_request(cn_connection *connection)
{
    cn_exchange *exchange = connection->current;
    if (!exchange->out_finished)
        return false;
    cn_connection_flush(connection);
    if (connection->failure != CN_OK || cn_connection_backlog(connection) > 0)
        return false;
    bool in_ended = exchange->in_ended;
    connection->current = NULL;
    cn_exchange_close(exchange, CN_OK, NULL);
    if (in_ended) {
        await_request(connection);
    } else if (!connection->h1.keep_alive) {
        cn_connection_close_when_flushed(connection, true);
    } else {
        /* The client is still sending what nobody wants. */
        connection->is_discarding = true;
        connection->discarded_bytes = 0;
        cn_connection_wait(connection, CN_WAIT_LINGER, DISCARD_MS);
    }
    return true;
}

void cn_connection_h1_refuse(cn_connection *connection, uint32_t http_status, cn_status reason,
                             const char *problem)
{
    cn_exchange *exchange = connection->current;
    bool has_responded = exchange != NULL && exchange->has_responded;
    connection->current = NULL;
    if (exchange != NULL)
        cn_exchange_close(exchange, reason, problem);
    if (has_responded || connection->is_discarding) {
        cn_connection_close(connection, reason, problem);
        return;
    }
    char body[CN_ERROR_BODY_BYTES];
    size_t count = cn_error_body(body, http_status, problem);
    static const char fields[] = "content-typeapplication/json";
    static const cn_field field = {0, 12, 12, 16};
    const cn_head head = {
        .status = http_status,
        .bytes = (const uint8_t *)fields,
        .bytes_count = sizeof fields - 1,
        .fields = &field,
        .field_count = 1,
    };
    cn_h1_write_response(&connection->out, &head, (int64_t)count, false, CN_HTTP_1_1,
                         cn_loop_date(connection->loop));
    cn_bytes_append(&connection->out, body, count);
    cn_connection_close_when_flushed(connection, true);
}

/* ---- clients */

static void complete_response(cn_connection *connection, bool has_more)
{
    cn_exchange *exchange = connection->current;
    cn_connection_flush(connection);
    bool is_reusable = connection->h1.keep_alive && exchange->out_finished && !has_more &&
                       connection->failure == CN_OK && !connection->is_out_broken &&
                       !connection->input_ended && cn_connection_backlog(connection) == 0;
    connection->current = NULL;
    cn_exchange_close(exchange, CN_OK, NULL);
    if (!is_reusable) {
        cn_connection_close(connection, CN_OK, NULL);
        return;
    }
    cn_connection_wait(connection, CN_WAIT_IDLE, cn_client_keep_alive(connection->client));
    cn_client_report_available(connection->client);
}

static void receive_response(cn_connection *connection)
{
    cn_exchange *exchange = connection->current;
    const cn_head *head = &connection->h1.head;
    exchange->in_ns = cn_loop_now(connection->loop);
    if (head->status < 200)
        return;
    exchange->has_responded = true;
    cn_exchange_arm(exchange);
    if (!exchange->is_detached)
        connection->events->responded(exchange->user, head);
}

/* ---- both */

static void receive_body(cn_connection *connection)
{
    cn_exchange *exchange = connection->current;
    cn_span body = connection->h1.body;
    if (exchange == NULL) {
        connection->discarded_bytes += body.count;
        if (connection->discarded_bytes > MAX_DISCARD_BYTES)
            cn_connection_close_when_flushed(connection, true);
        return;
    }
    exchange->in_ns = cn_loop_now(connection->loop);
    if (!exchange->is_detached)
        connection->events->body(exchange->user, body.data, body.count);
}

static void receive_end(cn_connection *connection)
{
    cn_exchange *exchange = connection->current;
    if (exchange == NULL) {
        await_request(connection);
        return;
    }
    exchange->in_ended = true;
    exchange->needs_continue = false;
    const cn_head *trailers = &connection->h1.head;
    if (!exchange->is_detached)
        connection->events->ended(exchange->user, trailers->field_count > 0 ? trailers : NULL);
}

static void receive_failed(cn_connection *connection, cn_status status)
{
    const cn_h1 *h1 = &connection->h1;
    if (connection->client == NULL && status != CN_NO_MEMORY)
        cn_connection_h1_refuse(connection, h1->problem_status, status, h1->problem);
    else
        cn_connection_close(connection, status, h1->problem);
}

static bool is_usable(const cn_connection *connection)
{
    return !connection->is_closing && !connection->closes_when_flushed &&
           connection->failure == CN_OK && connection->mode == CN_MODE_H1;
}

void cn_connection_h1_receive(cn_connection *connection, const uint8_t *bytes, size_t count)
{
    bool is_client = connection->client != NULL;
    while (is_usable(connection)) {
        cn_exchange *exchange = connection->current;
        if (exchange != NULL && exchange->in_ended) {
            if (is_client) {
                complete_response(connection, count > 0);
                return;
            }
            if (complete_request(connection))
                continue;
            /* Requests are answered one after the other. */
            cn_bytes_append(&connection->stash, bytes, count);
            return;
        }
        if (is_client && exchange == NULL) {
            if (count > 0)
                cn_connection_close(connection, CN_PROTOCOL, "response without a request");
            return;
        }
        cn_h1_event event;
        cn_status status = cn_h1_next(&connection->h1, &bytes, &count, connection->loop->fields,
                                      CN_MAX_FIELD_COUNT, &event);
        if (status != CN_OK) {
            receive_failed(connection, status);
            return;
        }
        switch (event) {
        case CN_H1_NEED_MORE:
            if (!is_client && exchange == NULL && connection->wait == CN_WAIT_IDLE &&
                cn_h1_is_inside(&connection->h1))
                cn_connection_wait(connection, CN_WAIT_HEAD,
                                   cn_listener_get_config(connection->listener)->head_timeout_ms);
            return;
        case CN_H1_HEAD:
            if (is_client)
                receive_response(connection);
            else
                begin_request(connection);
            break;
        case CN_H1_BODY:
            receive_body(connection);
            break;
        case CN_H1_END:
            receive_end(connection);
            break;
        }
    }
}

void cn_connection_h1_end_of_input(cn_connection *connection)
{
    cn_exchange *exchange = connection->current;
    if (connection->closes_when_flushed)
        return;
    if (connection->client == NULL) {
        /* A client that has all but the rest of its response may stop sending. */
        if (exchange != NULL && exchange->in_ended && exchange->out_finished)
            return;
        cn_connection_close(connection, CN_CLOSED, NULL);
        return;
    }
    if (exchange != NULL && cn_h1_end_of_input(&connection->h1) == CN_OK &&
        connection->h1.state == CN_H1_AT_END) {
        cn_connection_h1_receive(connection, NULL, 0);
        return;
    }
    cn_connection_close(connection, CN_CLOSED, NULL);
}

void cn_connection_h1_settle(cn_connection *connection)
{
    cn_connection_flush(connection);
    if (!is_usable(connection))
        return;
    cn_exchange *exchange = connection->current;
    if (exchange != NULL) {
        cn_exchange_report_writable(exchange);
        if (connection->client != NULL || !complete_request(connection))
            return;
    }
    if (cn_bytes_count(&connection->stash) == 0 || !is_usable(connection))
        return;
    cn_bytes stash = connection->stash;
    connection->stash = (cn_bytes){0};
    cn_connection_h1_receive(connection, cn_bytes_front(&stash), cn_bytes_count(&stash));
    cn_bytes_free(&stash);
}

/* ---- outgoing messages */

void cn_connection_h1_start(cn_exchange *exchange, const cn_head *head, int64_t body_bytes)
{
    cn_connection *connection = exchange->connection;
    cn_connection_wait(connection, CN_WAIT_NONE, 0);
    cn_h1_next_message(&connection->h1);
    /* POST, PUT, PATCH */
    bool expects_body = head->method.count > 0 && head->method.data[0] == 'P';
    exchange->is_head_request = cn_is_head_method(head->method);
    connection->h1.without_body = exchange->is_head_request;
    connection->current = exchange;
    exchange->out_chunked = body_bytes < 0;
    exchange->out_left = body_bytes;
    exchange->out_finished = body_bytes == 0;
    int64_t framing = body_bytes;
    if (body_bytes < 0)
        framing = CN_H1_CHUNKED;
    else if (body_bytes == 0 && !expects_body)
        framing = CN_H1_NO_BODY;
    cn_loop_lend(connection->loop, &connection->out);
    cn_h1_write_request(&connection->out, head, framing);
}

void cn_connection_h1_respond(cn_exchange *exchange, const cn_head *head)
{
    cn_connection *connection = exchange->connection;
    cn_h1 *h1 = &connection->h1;
    cn_span length = cn_head_find(head, CN_FIELD_CONTENT_LENGTH);
    int64_t framing = CN_H1_CHUNKED;
    exchange->out_left = length.data == NULL ? -1 : cn_parse_length(length.data, length.count);
    exchange->out_bodiless = exchange->is_head_request || head->status == 204 ||
                             head->status == 304;
    /* A client that waits for 100 may now send the body or not: who could tell? */
    if (connection->is_draining || exchange->needs_continue || h1->remaining > MAX_DISCARD_BYTES)
        h1->keep_alive = false;
    if (exchange->out_bodiless) {
        framing = head->status == 204 ? CN_H1_NO_BODY : CN_H1_KEEP_LENGTH;
        exchange->out_left = -1;
    } else if (exchange->out_left >= 0) {
        framing = CN_H1_KEEP_LENGTH;
    } else if (h1->version == CN_HTTP_1_0) {
        framing = CN_H1_NO_BODY;
        h1->keep_alive = false;
        connection->resets = true;
    }
    exchange->out_chunked = framing == CN_H1_CHUNKED;
    cn_loop_lend(connection->loop, &connection->out);
    cn_h1_write_response(&connection->out, head, framing, h1->keep_alive, h1->version,
                         cn_loop_date(connection->loop));
}

void cn_connection_h1_inform(cn_exchange *exchange, uint32_t status)
{
    cn_connection *connection = exchange->connection;
    if (connection->h1.version == CN_HTTP_1_0)
        return;
    const cn_head head = {.status = status};
    cn_h1_write_response(&connection->out, &head, CN_H1_NO_BODY, true, CN_HTTP_1_1,
                         (cn_span){0});
}

void cn_connection_h1_write(cn_exchange *exchange, const uint8_t *bytes, size_t count)
{
    cn_connection *connection = exchange->connection;
    if (exchange->out_bodiless)
        return;
    if (exchange->out_chunked) {
        char line[CN_H1_SIZE_LINE];
        const cn_span spans[] = {
            {(const uint8_t *)line, cn_h1_size_line(line, count)},
            {bytes, count},
            {(const uint8_t *)"\r\n", 2},
        };
        cn_connection_send(connection, spans, 3);
        return;
    }
    if (exchange->out_left >= 0) {
        if ((int64_t)count > exchange->out_left) {
            cn_connection_fail(connection, CN_INVALID_ARGUMENT, "body longer than its length");
            return;
        }
        exchange->out_left -= (int64_t)count;
    }
    const cn_span span = {bytes, count};
    cn_connection_send(connection, &span, 1);
}

void cn_connection_h1_finish(cn_exchange *exchange, const cn_head *trailers)
{
    cn_connection *connection = exchange->connection;
    if (exchange->out_left > 0)
        cn_connection_fail(connection, CN_INVALID_ARGUMENT, "body shorter than its length");
    else if (exchange->out_chunked && !connection->is_out_broken)
        cn_h1_write_last_chunk(&connection->out, trailers);
    connection->resets = false;
}
