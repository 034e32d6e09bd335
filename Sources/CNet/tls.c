#include "tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

#include "tls_context.h"

struct cn_tls {
    SSL *ssl;
    cn_tls_context *context;
    const uint8_t *input; /* borrowed from cn_tls_feed */
    size_t input_count;
    cn_bytes *out; /* during a call */
    char problem[160];
};

/* ---- the BIO: reads what was fed, writes to `out`. No memory of its own, so an idle connection
 * holds none. */

static int bio_read(BIO *bio, char *buffer, int count)
{
    cn_tls *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (tls->input_count == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t taken = tls->input_count < (size_t)count ? tls->input_count : (size_t)count;
    memcpy(buffer, tls->input, taken);
    tls->input += taken;
    tls->input_count -= taken;
    return (int)taken;
}

static int bio_write(BIO *bio, const char *bytes, int count)
{
    cn_tls *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    cn_bytes_append(tls->out, bytes, (size_t)count);
    return count;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH || command == BIO_CTRL_DUP ? 1 : 0;
}

BIO_METHOD *cn_tls_make_bio_method(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "cn_tls");
    if (method != NULL) {
        BIO_meth_set_read(method, bio_read);
        BIO_meth_set_write(method, bio_write);
        BIO_meth_set_ctrl(method, bio_control);
    }
    return method;
}

/* ---- failures */

static cn_status fail(cn_tls *tls)
{
    cn_tls_describe_error(tls->problem, sizeof tls->problem);
    long verified = SSL_get_verify_result(tls->ssl);
    if (verified != X509_V_OK && !SSL_is_init_finished(tls->ssl)) {
        strncpy(tls->problem, X509_verify_cert_error_string(verified), sizeof tls->problem - 1);
        tls->problem[sizeof tls->problem - 1] = 0;
    }
    return CN_TLS;
}

const char *cn_tls_problem(const cn_tls *tls)
{
    return tls->problem;
}

/* ---- connections */

static bool set_server_name(SSL *ssl, const char *name)
{
    uint8_t address[sizeof(struct in6_addr)];
    if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    return SSL_set_tlsext_host_name(ssl, name) == 1 && SSL_set1_host(ssl, name) == 1;
}

/* HTTP/2 is offered beside HTTP/1.1; what is not HTTP has no name. */
static bool offer_codec(SSL *ssl, cn_codec codec)
{
    static const uint8_t names[] = "\x02h2\x08http/1.1";
    if (codec == CN_CODEC_NONE)
        return true;
    size_t skipped = codec == CN_CODEC_HTTP2 ? 0 : 3;
    return SSL_set_alpn_protos(ssl, names + skipped, (unsigned)(sizeof names - 1 - skipped)) == 0;
}

cn_status cn_tls_create(cn_tls_context *context, const char *server_name, cn_codec codec,
                        cn_tls **tls_p)
{
    cn_tls *tls = calloc(1, sizeof *tls);
    if (tls == NULL)
        return CN_NO_MEMORY;
    cn_tls_context_retain(context);
    tls->context = context;
    tls->ssl = cn_tls_context_new_ssl(context);
    BIO *bio = tls->ssl == NULL ? NULL : BIO_new(cn_tls_context_bio_method(context));
    if (bio == NULL) {
        cn_tls_destroy(tls);
        return CN_NO_MEMORY;
    }
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->ssl, bio, bio);
    if (cn_tls_context_is_server(context)) {
        SSL_set_accept_state(tls->ssl);
    } else {
        SSL_set_connect_state(tls->ssl);
        if (!offer_codec(tls->ssl, codec) ||
            (server_name != NULL && !set_server_name(tls->ssl, server_name))) {
            cn_tls_destroy(tls);
            return CN_TLS;
        }
    }
    *tls_p = tls;
    return CN_OK;
}

void cn_tls_destroy(cn_tls *tls)
{
    if (tls == NULL)
        return;
    SSL_free(tls->ssl);
    cn_tls_context_release(tls->context);
    free(tls);
}

void cn_tls_feed(cn_tls *tls, const uint8_t *bytes, size_t count)
{
    tls->input = bytes;
    tls->input_count = count;
}

cn_status cn_tls_read(cn_tls *tls, uint8_t *plain, size_t capacity, cn_bytes *out, size_t *count_p)
{
    tls->out = out;
    ERR_clear_error();
    size_t count = 0;
    int code = SSL_read_ex(tls->ssl, plain, capacity, &count);
    int error = code == 1 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, code);
    tls->out = NULL;
    if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_ZERO_RETURN)
        return fail(tls);
    *count_p = code == 1 ? count : 0;
    return CN_OK;
}

cn_status cn_tls_write(cn_tls *tls, const uint8_t *bytes, size_t count, cn_bytes *out)
{
    if (count == 0)
        return CN_OK;
    tls->out = out;
    ERR_clear_error();
    size_t written;
    /* The BIO takes everything, so all is written or it failed. */
    int code = SSL_write_ex(tls->ssl, bytes, count, &written);
    tls->out = NULL;
    return code == 1 ? CN_OK : fail(tls);
}

cn_status cn_tls_start(cn_tls *tls, cn_bytes *out)
{
    tls->out = out;
    ERR_clear_error();
    int code = SSL_do_handshake(tls->ssl);
    int error = code == 1 ? SSL_ERROR_NONE : SSL_get_error(tls->ssl, code);
    tls->out = NULL;
    return error == SSL_ERROR_NONE || error == SSL_ERROR_WANT_READ ? CN_OK : fail(tls);
}

void cn_tls_close(cn_tls *tls, cn_bytes *out)
{
    if (!SSL_is_init_finished(tls->ssl))
        return;
    tls->out = out;
    ERR_clear_error();
    /* 0 or 1; on an error the peer sees a cut, which is true. */
    SSL_shutdown(tls->ssl);
    tls->out = NULL;
}

bool cn_tls_is_ready(const cn_tls *tls)
{
    return SSL_is_init_finished(tls->ssl);
}

bool cn_tls_is_closed(const cn_tls *tls)
{
    return (SSL_get_shutdown(tls->ssl) & SSL_RECEIVED_SHUTDOWN) != 0;
}

bool cn_tls_chose_h2(const cn_tls *tls)
{
    const uint8_t *name;
    unsigned count;
    SSL_get0_alpn_selected(tls->ssl, &name, &count);
    return count == 2 && memcmp(name, "h2", 2) == 0;
}
