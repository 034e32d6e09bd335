/* TLS without sockets, over OpenSSL: ciphertext in, plaintext out, and back. */
#ifndef CN_TLS_H
#define CN_TLS_H

#include "bytes.h"
#include "cnet.h"

#pragma GCC visibility push(hidden)

typedef struct cn_tls cn_tls;

/* Clients send and check `server_name`, unless it is NULL, and offer `codec` by ALPN. The context
 * is kept. */
cn_status cn_tls_create(cn_tls_context *context, const char *server_name, cn_codec codec,
                        cn_tls **tls_p);
void cn_tls_destroy(cn_tls *tls);
/* Takes ciphertext; it is borrowed until cn_tls_read returned 0 or failed. */
void cn_tls_feed(cn_tls *tls, const uint8_t *bytes, size_t count);
/* Decrypts what was fed. *count_p is 0 when all of it is used up. What must be sent is appended to
 * `out`, also on failure (an alert). */
cn_status cn_tls_read(cn_tls *tls, uint8_t *plain, size_t capacity, cn_bytes *out,
                      size_t *count_p);
/* Encrypts; only once cn_tls_is_ready. */
cn_status cn_tls_write(cn_tls *tls, const uint8_t *bytes, size_t count, cn_bytes *out);
/* Clients: the first message. */
cn_status cn_tls_start(cn_tls *tls, cn_bytes *out);
void cn_tls_close(cn_tls *tls, cn_bytes *out);
/* The handshake is complete. */
bool cn_tls_is_ready(const cn_tls *tls);
/* Whether the peer said that nothing follows. */
bool cn_tls_is_closed(const cn_tls *tls);
/* The protocol agreed on by ALPN is h2. */
bool cn_tls_chose_h2(const cn_tls *tls);
/* After a failure; lives as long as `tls`. */
const char *cn_tls_problem(const cn_tls *tls);

#pragma GCC visibility pop

#endif
