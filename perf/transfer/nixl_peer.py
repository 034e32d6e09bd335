"""NIXL between two processes on this host, asked for one round at a time.

Starts itself again as the listening side. Reads lines `OPERATION COUNT BYTES TIMES`; answers the
seconds of the fastest transfer, of all of them, and of this process's CPU. Blocks are permuted and
every other one is used, so that no two descriptors merge. The argument `tcp` keeps UCX to TCP.
"""

import json
import os
import subprocess
import sys
import time

if "tcp" in sys.argv:
    os.environ["UCX_TLS"] = "tcp"
os.environ.setdefault("NIXL_LOG_LEVEL", "ERROR")

import numpy  # noqa: E402
from nixl._api import nixl_agent, nixl_agent_config  # noqa: E402

POOL_BYTES = 64 << 20


def start(name):
    agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
    memory = numpy.ones(POOL_BYTES, dtype=numpy.uint8)
    agent.register_memory([(memory.ctypes.data, POOL_BYTES, 0, "")], "DRAM")
    return agent, memory


def values(count, size):
    """What the listening side's blocks hold: another byte for each."""
    return numpy.repeat((numpy.arange(2 * count) % 251 + 1).astype(numpy.uint8), size)


def serve():
    agent, memory = start("target")
    print(agent.get_agent_metadata().hex(), memory.ctypes.data, flush=True)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "peer":
            agent.add_remote_agent(bytes.fromhex(words[1]))
        else:
            pattern = values(int(words[1]), int(words[2]))[:POOL_BYTES]
            memory[: len(pattern)] = pattern
        print("ok", flush=True)


class Initiator:
    def __init__(self, arguments):
        self.agent, self.memory = start("initiator")
        self.target = subprocess.Popen(
            [sys.executable, __file__, "serve", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        metadata, base = self.target.stdout.readline().split()
        self.remote_base = int(base)
        self.ask(f"peer {self.agent.get_agent_metadata().hex()}")
        self.peer = self.agent.add_remote_agent(bytes.fromhex(metadata))
        self.handles = {}

    def ask(self, line):
        self.target.stdin.write(line + "\n")
        self.target.stdin.flush()
        if self.target.stdout.readline() != "ok\n":
            sys.exit("the listening side has ended")

    def move(self, handle):
        state = self.agent.transfer(handle)
        while state == "PROC":
            state = self.agent.check_xfer_state(handle)
        if state != "DONE":
            sys.exit(f"a transfer ended as {state}")

    def prepare(self, operation, count, size):
        key = (operation, count, size)
        if key in self.handles:
            return self.handles[key]
        base = self.memory.ctypes.data
        local = [(base + 2 * i * size, size, 0) for i in range(count)]
        order = [(i * 7 + 3) % count for i in range(count)]
        remote = [(self.remote_base + 2 * i * size, size, 0) for i in order]
        handle = self.agent.make_prepped_xfer(
            operation,
            self.agent.prep_xfer_dlist("", local, "DRAM"), list(range(count)),
            self.agent.prep_xfer_dlist(self.peer, remote, "DRAM"), list(range(count)), b"")
        self.handles[key] = handle
        if operation == "READ":
            self.ask(f"fill {count} {size}")
            self.move(handle)
            for i, block in enumerate(order):
                got = self.memory[2 * i * size: (2 * i + 1) * size]
                if not (got == 2 * block % 251 + 1).all():
                    sys.exit(f"block {i} does not hold the bytes of {block}")
        return handle

    def round(self, operation, count, size, times):
        handle = self.prepare(operation, count, size)
        best = float("inf")
        cpu = time.process_time()
        begin = time.perf_counter()
        for _ in range(times):
            start = time.perf_counter()
            self.move(handle)
            best = min(best, time.perf_counter() - start)
        print(best, time.perf_counter() - begin, time.process_time() - cpu, flush=True)


if "serve" in sys.argv:
    serve()
else:
    initiator = Initiator(sys.argv[1:])
    print(json.dumps("ready"), flush=True)
    for request in sys.stdin:
        words = request.split()
        initiator.round(words[0], *map(int, words[1:]))
    # What NIXL's threads hold keeps an ordinary exit waiting.
    initiator.target.terminate()
    os._exit(0)
