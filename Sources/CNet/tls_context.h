/* What tls.c needs of a TLS context. */
#ifndef CN_TLS_CONTEXT_H
#define CN_TLS_CONTEXT_H

#include <openssl/ssl.h>

#include "cnet.h"

#pragma GCC visibility push(hidden)

/* NULL without memory. */
SSL *cn_tls_context_new_ssl(cn_tls_context *context);
bool cn_tls_context_is_server(const cn_tls_context *context);
const BIO_METHOD *cn_tls_context_bio_method(const cn_tls_context *context);
/* The oldest error of OpenSSL's queue, as one line. */
void cn_tls_describe_error(char *text, size_t text_bytes);
/* tls.c: what its connections read and write by; NULL without memory. */
BIO_METHOD *cn_tls_make_bio_method(void);

#pragma GCC visibility pop

#endif
