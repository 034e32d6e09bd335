"""vLLM's `sha256_cbor` as vLLM computes it: cbor2 and hashlib.

The peer of suite `hashing`: hashes PROMPTS prompts of 8,192 tokens for every line on its standard
input, and answers with the last hash.
"""

import hashlib
import sys

import cbor2

PROMPTS = 10
block_size = int(sys.argv[1])
state = 1
tokens = []
for _ in range(8192):
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    tokens.append((state >> 33) % 128256)


def hash_prompt():
    parent = hashlib.sha256(cbor2.dumps("vllm-none-hash", canonical=True)).digest()
    for start in range(0, len(tokens), block_size):
        block = (parent, tuple(tokens[start : start + block_size]), None)
        parent = hashlib.sha256(cbor2.dumps(block, canonical=True)).digest()
    return parent


print("ready", flush=True)
for _ in sys.stdin:
    for _ in range(PROMPTS):
        last = hash_prompt()
    print(last.hex(), flush=True)
