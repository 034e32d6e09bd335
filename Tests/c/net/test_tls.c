/* The TLS codec: a client and a server talk through memory, in pieces of any size. */
#include <string.h>

#include "check.h"
#include "tls.h"

static cn_tls_context *make_server(void)
{
    static const char *const names[] = {"localhost", "127.0.0.1"};
    cn_tls_context *context;
    CHECK(cn_tls_context_create_self_signed(names, 2, NULL, 0, &context) == CN_OK);
    return context;
}

static cn_tls_context *make_client(void)
{
    cn_tls_context *context;
    CHECK(cn_tls_context_create_client(CN_TLS_VERIFY_NONE, NULL, NULL, NULL, NULL, 0, &context) ==
          CN_OK);
    return context;
}

/* Gives `wire` to `tls` piece by piece; plain bytes are appended to `plain`. */
static cn_status deliver(cn_tls *tls, cn_bytes *wire, size_t step, cn_bytes *plain, cn_bytes *out)
{
    cn_status status = CN_OK;
    while (cn_bytes_count(wire) > 0 && status == CN_OK) {
        size_t count = cn_bytes_count(wire) < step ? cn_bytes_count(wire) : step;
        uint8_t *piece = malloc(count);
        memcpy(piece, cn_bytes_front(wire), count);
        cn_bytes_consume(wire, count);
        cn_tls_feed(tls, piece, count);
        for (;;) {
            uint8_t buffer[1000];
            size_t read;
            status = cn_tls_read(tls, buffer, sizeof buffer, out, &read);
            if (status != CN_OK || read == 0)
                break;
            cn_bytes_append(plain, buffer, read);
        }
        free(piece);
    }
    return status;
}

static void conversation(size_t step, cn_codec codec)
{
    cn_tls_context *server_context = make_server(), *client_context = make_client();
    cn_tls *server, *client;
    cn_bytes to_server = {0}, to_client = {0}, at_server = {0}, at_client = {0};
    CHECK(cn_tls_create(server_context, NULL, CN_CODEC_HTTP1, &server) == CN_OK);
    CHECK(cn_tls_create(client_context, "localhost", codec, &client) == CN_OK);
    CHECK(cn_tls_start(client, &to_server) == CN_OK);
    while (cn_bytes_count(&to_server) + cn_bytes_count(&to_client) > 0) {
        CHECK(deliver(server, &to_server, step, &at_server, &to_client) == CN_OK);
        CHECK(deliver(client, &to_client, step, &at_client, &to_server) == CN_OK);
    }
    CHECK(cn_tls_is_ready(server) && cn_tls_is_ready(client));
    CHECK(cn_tls_chose_h2(server) == (codec == CN_CODEC_HTTP2));
    CHECK(cn_tls_chose_h2(client) == (codec == CN_CODEC_HTTP2));
    static uint8_t text[50000];
    memset(text, 'x', sizeof text);
    CHECK(cn_tls_write(client, text, sizeof text, &to_server) == CN_OK);
    CHECK(deliver(server, &to_server, step, &at_server, &to_client) == CN_OK);
    CHECK(cn_bytes_count(&at_server) == sizeof text);
    CHECK(memcmp(cn_bytes_front(&at_server), text, sizeof text) == 0);
    cn_tls_close(server, &to_client);
    CHECK(deliver(client, &to_client, step, &at_client, &to_server) == CN_OK);
    CHECK(cn_tls_is_closed(client) && !cn_tls_is_closed(server));
    cn_tls_destroy(server);
    cn_tls_destroy(client);
    cn_tls_context_release(server_context);
    cn_tls_context_release(client_context);
    cn_bytes_free(&to_server);
    cn_bytes_free(&to_client);
    cn_bytes_free(&at_server);
    cn_bytes_free(&at_client);
}

static void garbage(void)
{
    cn_tls_context *context = make_server();
    cn_tls *server;
    cn_bytes wire = {0}, plain = {0}, out = {0};
    CHECK(cn_tls_create(context, NULL, CN_CODEC_HTTP1, &server) == CN_OK);
    cn_bytes_append_text(&wire, "GET / HTTP/1.1\r\n\r\n");
    CHECK(deliver(server, &wire, 100, &plain, &out) == CN_TLS);
    CHECK(strlen(cn_tls_problem(server)) > 0);
    cn_tls_destroy(server);
    cn_tls_context_release(context);
    cn_bytes_free(&wire);
    cn_bytes_free(&plain);
    cn_bytes_free(&out);
}

static void problems_are_told(void)
{
    char problem[200] = "";
    cn_tls_context *context = NULL;
    CHECK(cn_tls_context_create_server("/no/such/file", "/no/such/key", NULL, problem,
                                       sizeof problem, &context) == CN_TLS);
    CHECK(context == NULL && strstr(problem, "/no/such/file") != NULL);
    CHECK(cn_tls_context_create_client(CN_TLS_VERIFY_NONE, NULL, "/certificate", NULL, NULL, 0,
                                       &context) == CN_INVALID_ARGUMENT);
}

int main(void)
{
    conversation(1, CN_CODEC_HTTP2);
    conversation(77, CN_CODEC_HTTP1);
    conversation(1 << 20, CN_CODEC_NONE);
    garbage();
    problems_are_told();
    return 0;
}
