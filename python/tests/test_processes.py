"""Two processes move numpy bytes over every path."""

import signal

import llmd_connector as lc
import numpy as np
import pytest
from conftest import SECONDS, process
from serve import BLOCK, BLOCKS, pattern


def regions(child):
    numbers = [int(number) for number in child.stdout.readline().split()]
    return numbers[0], lc.Region(*numbers[1:5]), lc.Region(*numbers[5:9])


def test_bytes_arrive():
    with process("serve.py") as child, lc.Engine() as engine:
        port, pool, registered = regions(child)
        target = np.zeros((BLOCKS, BLOCK), np.uint8)
        local = engine.register(target, BLOCK)
        ids = np.random.default_rng(11).permutation(BLOCKS).astype(np.uint32)
        expected = pattern().reshape(BLOCKS, BLOCK)[ids]
        for path, region in [
            ("memfd", pool), ("cma", registered), ("cma", pool), ("tcp", pool),
            ("tcp", registered),
        ]:
            target[:] = 0
            with engine.connect("127.0.0.1", port, paths=[path]) as peer:
                peer.wait_until_up()
                event = engine.read(peer, local, region, remote=ids).wait(SECONDS)
            assert event.path == path
            assert (target == expected).all(), path
        target[0] = 0xC3
        with engine.connect("127.0.0.1", port) as peer:
            peer.wait_until_up()
            engine.write(peer, local, registered, local=[0], remote=[0]).wait(SECONDS)


def test_a_peer_that_dies():
    with lc.Engine() as engine:
        with pytest.raises(AssertionError), process("serve.py") as child:
            port, pool, _ = regions(child)
            local = engine.create_pool(BLOCK, BLOCKS)
            peer = engine.connect("127.0.0.1", port, paths=["tcp"]).wait_until_up()
            child.send_signal(signal.SIGKILL)
            child.wait()
            with pytest.raises((lc.PeerDead, lc.Unreachable)) as failure:
                engine.read(peer, local, pool, count=BLOCKS).wait(SECONDS)
            assert len(failure.value.event.failed) > 0
