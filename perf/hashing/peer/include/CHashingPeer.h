/* What ours is measured against: OpenSSL on messages that were encoded beforehand. */
#ifndef CHASHING_PEER_H
#define CHASHING_PEER_H

#include <stddef.h>
#include <stdint.h>

/* The `sha256_cbor` messages of a prompt's full blocks, all but the parents. */
typedef struct chp_messages chp_messages;

/* NULL without memory. */
chp_messages *chp_messages_create(const uint32_t *tokens, size_t token_count, size_t block_size);
void chp_messages_destroy(chp_messages *messages);

/* The peer: SHA256_Init, _Update and _Final of each message after its parent. */
void chp_hash_chain(chp_messages *messages, const uint8_t root[32], uint8_t last_hash_p[32]);

/* The floor: as many compressions as the messages take, in a single message. */
void chp_compress(const chp_messages *messages, uint8_t hash_p[32]);

#endif
