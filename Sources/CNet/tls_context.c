#include "tls_context.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct cn_tls_context {
    _Atomic(size_t) references;
    bool is_server;
    BIO_METHOD *method;
    pthread_mutex_t mutex; /* guards `ssl`, which a reload replaces */
    SSL_CTX *ssl;
    char *client_ca_file; /* for reloads */
};

void cn_tls_describe_error(char *text, size_t text_bytes)
{
    unsigned long code = ERR_get_error();
    const char *reason = ERR_reason_error_string(code);
    if (reason == NULL)
        reason = code == 0 ? "unexpected end" : "unknown error";
    strncpy(text, reason, text_bytes - 1);
    text[text_bytes - 1] = 0;
    ERR_clear_error();
}

/* CN_TLS, after writing "`what`: the reason". */
static cn_status fail(const char *what, char *problem, size_t problem_bytes)
{
    if (problem != NULL && problem_bytes > 0) {
        char reason[160];
        cn_tls_describe_error(reason, sizeof reason);
        snprintf(problem, problem_bytes, "%s: %s", what, reason);
    }
    ERR_clear_error();
    return CN_TLS;
}

static int choose_protocol(SSL *ssl, const uint8_t **name, uint8_t *name_count,
                           const uint8_t *offered, unsigned offered_count, void *user)
{
    (void)ssl;
    (void)user;
    static const uint8_t ours[] = "\x02h2\x08http/1.1";
    int code = SSL_select_next_proto((uint8_t **)(uintptr_t)name, name_count, ours,
                                     sizeof ours - 1, offered, offered_count);
    return code == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static SSL_CTX *new_ssl_context(bool is_server)
{
    SSL_CTX *ssl = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
    if (ssl == NULL)
        return NULL;
    SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION);
    SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS);
    if (is_server)
        SSL_CTX_set_alpn_select_cb(ssl, choose_protocol, NULL);
    return ssl;
}

static cn_status new_context(bool is_server, SSL_CTX *ssl, cn_tls_context **context_p)
{
    cn_tls_context *context = calloc(1, sizeof *context);
    BIO_METHOD *method = cn_tls_make_bio_method();
    if (context == NULL || method == NULL) {
        free(context);
        BIO_meth_free(method);
        SSL_CTX_free(ssl);
        return CN_NO_MEMORY;
    }
    context->references = 1;
    context->is_server = is_server;
    context->method = method;
    context->ssl = ssl;
    pthread_mutex_init(&context->mutex, NULL);
    *context_p = context;
    return CN_OK;
}

static cn_status use_certificate(SSL_CTX *ssl, const char *certificate_file, const char *key_file,
                                 char *problem, size_t problem_bytes)
{
    if (SSL_CTX_use_certificate_chain_file(ssl, certificate_file) != 1)
        return fail(certificate_file, problem, problem_bytes);
    if (SSL_CTX_use_PrivateKey_file(ssl, key_file, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(ssl) != 1)
        return fail(key_file, problem, problem_bytes);
    return CN_OK;
}

static cn_status make_server(const char *certificate_file, const char *key_file,
                             const char *client_ca_file, char *problem, size_t problem_bytes,
                             SSL_CTX **ssl_p)
{
    SSL_CTX *ssl = new_ssl_context(true);
    if (ssl == NULL)
        return CN_NO_MEMORY;
    cn_status status = use_certificate(ssl, certificate_file, key_file, problem, problem_bytes);
    if (status == CN_OK && client_ca_file != NULL) {
        STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(client_ca_file);
        if (names == NULL || SSL_CTX_load_verify_file(ssl, client_ca_file) != 1) {
            sk_X509_NAME_pop_free(names, X509_NAME_free);
            status = fail(client_ca_file, problem, problem_bytes);
        } else {
            SSL_CTX_set_client_CA_list(ssl, names);
            SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
            /* Resumed sessions of clients that were checked need a context id. */
            SSL_CTX_set_session_id_context(ssl, (const uint8_t *)"llmd", 4);
        }
    }
    if (status != CN_OK) {
        SSL_CTX_free(ssl);
        return status;
    }
    *ssl_p = ssl;
    return CN_OK;
}

cn_status cn_tls_context_create_server(const char *certificate_file, const char *key_file,
                                       const char *client_ca_file, char *problem,
                                       size_t problem_bytes, cn_tls_context **context_p)
{
    SSL_CTX *ssl;
    cn_status status = make_server(certificate_file, key_file, client_ca_file, problem,
                                   problem_bytes, &ssl);
    if (status != CN_OK)
        return status;
    cn_tls_context *context;
    status = new_context(true, ssl, &context);
    if (status != CN_OK)
        return status;
    if (client_ca_file != NULL) {
        context->client_ca_file = strdup(client_ca_file);
        if (context->client_ca_file == NULL) {
            /* A reload without it would let everybody in. */
            cn_tls_context_release(context);
            return CN_NO_MEMORY;
        }
    }
    *context_p = context;
    return CN_OK;
}

cn_status cn_tls_context_reload(cn_tls_context *context, const char *certificate_file,
                                const char *key_file, char *problem, size_t problem_bytes)
{
    SSL_CTX *ssl;
    cn_status status = make_server(certificate_file, key_file, context->client_ca_file, problem,
                                   problem_bytes, &ssl);
    if (status != CN_OK)
        return status;
    pthread_mutex_lock(&context->mutex);
    SSL_CTX *old = context->ssl;
    context->ssl = ssl;
    pthread_mutex_unlock(&context->mutex);
    SSL_CTX_free(old);
    return CN_OK;
}

cn_status cn_tls_context_create_client(cn_tls_verify verify, const char *ca_file,
                                       const char *certificate_file, const char *key_file,
                                       char *problem, size_t problem_bytes,
                                       cn_tls_context **context_p)
{
    if ((certificate_file == NULL) != (key_file == NULL))
        return CN_INVALID_ARGUMENT;
    SSL_CTX *ssl = new_ssl_context(false);
    if (ssl == NULL)
        return CN_NO_MEMORY;
    cn_status status = CN_OK;
    if (verify == CN_TLS_VERIFY_SYSTEM && SSL_CTX_set_default_verify_paths(ssl) != 1)
        status = fail("the system's CAs", problem, problem_bytes);
    if (verify == CN_TLS_VERIFY_FILE && SSL_CTX_load_verify_file(ssl, ca_file) != 1)
        status = fail(ca_file, problem, problem_bytes);
    if (verify != CN_TLS_VERIFY_NONE)
        SSL_CTX_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    if (status == CN_OK && certificate_file != NULL)
        status = use_certificate(ssl, certificate_file, key_file, problem, problem_bytes);
    if (status != CN_OK) {
        SSL_CTX_free(ssl);
        return status;
    }
    return new_context(false, ssl, context_p);
}

/* ---- self-signed */

static bool add_extension(X509 *certificate, int kind, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, certificate, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
    bool is_added = extension != NULL && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return is_added;
}

/* "DNS:localhost,IP:127.0.0.1"; NULL without memory. */
static char *alternative_names(const char *const *names, size_t name_count)
{
    size_t bytes = 1;
    for (size_t i = 0; i < name_count; i++)
        bytes += strlen(names[i]) + sizeof ",DNS:";
    char *text = malloc(bytes);
    if (text == NULL)
        return NULL;
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < name_count; i++) {
        uint8_t address[sizeof(struct in6_addr)];
        bool is_address = inet_pton(AF_INET, names[i], address) == 1 ||
                          inet_pton(AF_INET6, names[i], address) == 1;
        used += (size_t)snprintf(text + used, bytes - used, "%s%s:%s", i == 0 ? "" : ",",
                                 is_address ? "IP" : "DNS", names[i]);
    }
    return text;
}

static bool sign(X509 *certificate, EVP_PKEY *key, const char *common_name,
                 const char *alternatives)
{
    X509_NAME *name = X509_get_subject_name(certificate);
    uint64_t serial;
    return RAND_bytes_ex(NULL, (uint8_t *)&serial, sizeof serial, 0) == 1 &&
           X509_set_version(certificate, 2) == 1 &&
           ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial >> 1) == 1 &&
           /* An hour back: clocks differ. */
           X509_gmtime_adj(X509_getm_notBefore(certificate), -3600) != NULL &&
           X509_gmtime_adj(X509_getm_notAfter(certificate), 365L * 24 * 3600) != NULL &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const uint8_t *)common_name, -1,
                                      -1, 0) == 1 &&
           X509_set_issuer_name(certificate, name) == 1 &&
           X509_set_pubkey(certificate, key) == 1 &&
           add_extension(certificate, NID_subject_alt_name, alternatives) &&
           add_extension(certificate, NID_basic_constraints, "critical,CA:TRUE") &&
           X509_sign(certificate, key, EVP_sha256()) > 0;
}

cn_status cn_tls_context_create_self_signed(const char *const *names, size_t name_count,
                                            char *problem, size_t problem_bytes,
                                            cn_tls_context **context_p)
{
    if (name_count == 0)
        return CN_INVALID_ARGUMENT;
    char *alternatives = alternative_names(names, name_count);
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    SSL_CTX *ssl = new_ssl_context(true);
    /* A common name holds 64 bytes. */
    char common_name[65];
    strncpy(common_name, names[0], sizeof common_name - 1);
    common_name[sizeof common_name - 1] = 0;
    bool is_made = alternatives != NULL && key != NULL && certificate != NULL && ssl != NULL &&
                   sign(certificate, key, common_name, alternatives) &&
                   SSL_CTX_use_certificate(ssl, certificate) == 1 &&
                   SSL_CTX_use_PrivateKey(ssl, key) == 1;
    cn_status status = is_made ? CN_OK : fail("self-signed certificate", problem, problem_bytes);
    free(alternatives);
    EVP_PKEY_free(key);
    X509_free(certificate);
    if (status != CN_OK) {
        SSL_CTX_free(ssl);
        return status;
    }
    return new_context(true, ssl, context_p);
}

/* ---- use */

cn_status cn_tls_context_certificate(cn_tls_context *context, char **pem_p)
{
    pthread_mutex_lock(&context->mutex);
    X509 *certificate = SSL_CTX_get0_certificate(context->ssl);
    if (certificate != NULL)
        X509_up_ref(certificate);
    pthread_mutex_unlock(&context->mutex);
    BIO *bio = BIO_new(BIO_s_mem());
    char *data;
    if (certificate == NULL || bio == NULL || PEM_write_bio_X509(bio, certificate) != 1) {
        X509_free(certificate);
        BIO_free(bio);
        return CN_NO_MEMORY;
    }
    X509_free(certificate);
    long count = BIO_get_mem_data(bio, &data);
    char *pem = malloc((size_t)count + 1);
    if (pem != NULL) {
        memcpy(pem, data, (size_t)count);
        pem[count] = 0;
        *pem_p = pem;
    }
    BIO_free(bio);
    return pem == NULL ? CN_NO_MEMORY : CN_OK;
}

void cn_tls_context_retain(cn_tls_context *context)
{
    context->references++;
}

void cn_tls_context_release(cn_tls_context *context)
{
    if (context == NULL || --context->references > 0)
        return;
    SSL_CTX_free(context->ssl);
    BIO_meth_free(context->method);
    pthread_mutex_destroy(&context->mutex);
    free(context->client_ca_file);
    free(context);
}

SSL *cn_tls_context_new_ssl(cn_tls_context *context)
{
    pthread_mutex_lock(&context->mutex);
    SSL *ssl = SSL_new(context->ssl);
    pthread_mutex_unlock(&context->mutex);
    return ssl;
}

bool cn_tls_context_is_server(const cn_tls_context *context)
{
    return context->is_server;
}

const BIO_METHOD *cn_tls_context_bio_method(const cn_tls_context *context)
{
    return context->method;
}
