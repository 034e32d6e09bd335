"""The other agent: an array with known bytes; says what it was notified of."""

import sys
import time

import numpy as np
from llmd_connector.nixl import nixl_agent, nixl_agent_config

ROWS, ROW_BYTES = 1000, 8192

if __name__ == "__main__":
    with nixl_agent("prefill", nixl_agent_config(admits_tracers=True)) as agent:
        array = (np.arange(ROWS * ROW_BYTES, dtype=np.uint64) // 3).astype(np.uint8)
        agent.register_memory(array)
        metadata = agent.get_agent_metadata()
        sys.stdout.buffer.write(b"%d\n" % len(metadata) + metadata)
        sys.stdout.buffer.write(b"%d %d %d\n" % (array.ctypes.data, ROWS, ROW_BYTES))
        sys.stdout.buffer.flush()
        end = time.monotonic() + 30
        while not (found := agent.get_new_notifs()) and time.monotonic() < end:
            time.sleep(0.0005)
        for name, messages in found.items():
            print(name, *(message.decode() for message in messages), flush=True)
        sys.stdin.buffer.read()
