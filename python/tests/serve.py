"""The other process: a pool and registered numpy memory with known bytes, until input ends."""

import sys

import llmd_connector as lc
import numpy as np

BLOCK, BLOCKS = 16384, 512


def pattern():
    numbers = np.arange(BLOCK * BLOCKS, dtype=np.uint64)
    return (numbers * 11400714819323198485 >> 40).astype(np.uint8)


if __name__ == "__main__":
    with lc.Engine(admits_tracers=True) as engine:
        memory = pattern()
        registered = engine.register(memory, BLOCK)
        pool = engine.create_pool(BLOCK, BLOCKS)
        np.frombuffer(pool.memory, np.uint8)[:] = memory
        print(engine.listen(), *pool.region, *registered.region, flush=True)
        sys.stdin.buffer.read()
        # What the peer wrote.
        assert (memory[:BLOCK] == 0xC3).all()
