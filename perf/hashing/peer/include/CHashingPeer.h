/* What ours is measured against: OpenSSL, with tokens encoded block by block like ours. */
#ifndef CHASHING_PEER_H
#define CHASHING_PEER_H

#include <stddef.h>
#include <stdint.h>

/* The peer: for each full block its CBOR, without a branch that depends on a token below 2^32 but
 * for those under 24, then SHA256_Init, _Update and _Final. Returns the number of compressions. */
size_t chp_hash_chain(const uint32_t *tokens, size_t token_count, size_t block_size,
                      const uint8_t root[32], uint8_t last_hash_p[32]);

/* The floor of one chain: that many compressions, each after the other, of a single message. */
void chp_compress(size_t compression_count, uint8_t hash_p[32]);

#endif
