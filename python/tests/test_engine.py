"""Engines, pools, peers and transfers, within one process."""

import array
import asyncio
import select
import subprocess
import sys
import threading

import llmd_connector as lc
import numpy as np
import pytest
from conftest import ROOT, SECONDS

BLOCK = 4096
BLOCKS = 256


def pattern(count=BLOCK * BLOCKS):
    return (np.arange(count, dtype=np.uint64) * 2654435761 >> 7).astype(np.uint8)


@pytest.fixture(params=["memfd", "cma", "tcp"])
def path(request):
    return request.param


@pytest.fixture
def pair(engines, path):
    """Connected over one path; the server's blocks have a pattern."""
    server, client, port = engines
    if path == "cma":
        source = np.empty(BLOCK * BLOCKS, np.uint8)
        pool = server.register(source, BLOCK)
    else:
        pool = server.create_pool(BLOCK, BLOCKS)
        source = np.frombuffer(pool.memory, np.uint8)
    source[:] = pattern()
    local = client.create_pool(BLOCK, BLOCKS)
    peer = client.connect("127.0.0.1", port, paths=[path], expected_id=server.id)
    peer.wait_until_up()
    yield client, local, peer, pool, source


def test_read_and_write(pair, path):
    client, local, peer, pool, source = pair
    assert peer.is_up and peer.path == path and peer.engine_id != bytes(16)
    assert peer.regions() == [pool.region]
    target = np.frombuffer(local.memory, np.uint8)
    remote_ids = np.random.default_rng(7).permutation(BLOCKS).astype(np.uint32)
    event = client.read(peer, local, pool.region, remote=remote_ids).wait(SECONDS)
    assert event.path == path and event.transferred_bytes == BLOCK * BLOCKS
    assert list(event.failed) == []
    assert (target.reshape(BLOCKS, BLOCK) == source.reshape(BLOCKS, BLOCK)[remote_ids]).all()

    target[:BLOCK] = 0xAB
    client.write(peer, local, pool.region, local=[0], remote=[5]).wait(SECONDS)
    assert (source[5 * BLOCK:6 * BLOCK] == 0xAB).all()
    assert client.stats().paths[path].transfers == 2


@pytest.mark.parametrize("ids", [
    [3, 1, 2], (3, 1, 2), array.array("I", [3, 1, 2]), np.array([3, 1, 2]),
    np.array([3, 9, 1, 9, 2], np.uint32)[::2], iter([3, 1, 2]),
])
def test_numbers_in_any_form(engines, ids):
    server, client, port = engines
    pool = server.create_pool(BLOCK, BLOCKS)
    np.frombuffer(pool.memory, np.uint8)[:] = pattern()
    local = client.create_pool(BLOCK, 3)
    peer = client.connect("localhost", port).wait_until_up()
    client.read(peer, local, pool.region, remote=ids).wait(SECONDS)
    expected = pattern().reshape(BLOCKS, BLOCK)[[3, 1, 2]]
    assert (np.frombuffer(local.memory, np.uint8).reshape(3, BLOCK) == expected).all()


def test_planes(engines):
    server, client, port = engines
    pool = server.create_pool(BLOCK, BLOCKS)
    np.frombuffer(pool.memory, np.uint8)[:] = pattern()
    local = client.create_pool(2 * 64, 8)
    peer = client.connect("127.0.0.1", port).wait_until_up()
    client.read(
        peer, local, pool.region, count=8,
        local_planes=[lc.Plane(0, 128, 64), lc.Plane(64, 128, 64)],
        remote_planes=[(0, 4096, 64), (1 << 16, 4096, 64)]).wait(SECONDS)
    got = np.frombuffer(local.memory, np.uint8).reshape(8, 2, 64)
    for block in range(8):
        for plane, offset in enumerate((0, 1 << 16)):
            begin = offset + 4096 * block
            assert (got[block, plane] == pattern()[begin:begin + 64]).all()


@pytest.mark.parametrize("make", [
    lambda: np.zeros((4, 1024), np.float32), lambda: bytearray(16384),
    lambda: memoryview(bytearray(16384)), lambda: array.array("d", [0.0] * 2048),
])
def test_registered_memory_in_any_form(engines, make):
    server, client, port = engines
    memory = make()
    pool = server.register(memory, 4096)
    assert (pool.block_count, pool.block_bytes) == (4, 4096)
    local = client.create_pool(4096, 1)
    local.memory[:] = bytes(range(256)) * 16
    peer = client.connect("127.0.0.1", port).wait_until_up()
    client.write(peer, local, pool.region, local=[0], remote=[2]).wait(SECONDS)
    assert bytes(memoryview(memory).cast("B"))[8192:12288] == bytes(range(256)) * 16
    pool.release()
    while not any(event.kind is lc.EventKind.REGION_GONE for event in server.poll()):
        assert select.select([server], [], [], SECONDS)[0]


def frozen():
    memory = np.zeros(64)
    memory.flags.writeable = False
    return memory


@pytest.mark.parametrize(("memory", "reason"), [
    (b"1234", "read-only"), (frozen(), "read-only"), (np.zeros((8, 8))[:, ::2], "contiguous"),
    (memoryview(bytearray(64))[::2], "contiguous"),
])
def test_memory_that_cannot_be_registered(engines, memory, reason):
    with pytest.raises(ValueError, match=reason):
        engines[0].register(memory)


def test_notifications_and_descriptor(engines):
    server, client, port = engines
    pool = server.create_pool(BLOCK, 1)
    local = client.create_pool(BLOCK, 1)
    peer = client.connect("127.0.0.1", port).wait_until_up()
    server.poll()
    assert not select.select([server], [], [], 0)[0]
    client.read(peer, local, pool.region, count=1, notification=b"of a transfer").wait(SECONDS)
    client.notify(peer, b"alone").wait(SECONDS)
    got = []
    while len(got) < 2:
        assert select.select([server], [], [], SECONDS)[0]
        got += [event for event in server.poll() if event.kind is lc.EventKind.NOTIFICATION]
    assert [event.notification for event in got] == [b"of a transfer", b"alone"]
    assert {event.sender for event in got} == {client.id}
    assert not select.select([server], [], [], 0)[0]


def test_a_pool_on_a_node(engines):
    server, client, port = engines
    pool = server.create_pool(BLOCK, 4, node=0)
    pool.memory[:] = bytes(range(256)) * 64
    with client.create_pool(BLOCK, 4, node=0) as local:
        peer = client.connect("127.0.0.1", port).wait_until_up()
        client.read(peer, local, pool.region, count=4).wait(SECONDS)
        assert local.memory == pool.memory


def test_reported_transfers(engines):
    server, client, port = engines
    pool = server.create_pool(BLOCK, 1)
    local = client.create_pool(BLOCK, 1)
    peer = client.connect("127.0.0.1", port).wait_until_up()
    assert [event.kind for event in client.poll()] == [lc.EventKind.PEER_UP]
    silent = client.read(peer, local, pool.region, count=1)
    silent.wait(SECONDS)
    loud = client.read(peer, local, pool.region, count=1, is_reported=True)
    loud.wait(SECONDS)
    assert select.select([client], [], [], 0)[0]
    assert [event.transfer_id for event in client.poll()] == [loud.id]


def test_asyncio(engines):
    server, client, port = engines
    pool = server.create_pool(BLOCK, BLOCKS)
    np.frombuffer(pool.memory, np.uint8)[:] = pattern()
    local = client.create_pool(BLOCK, BLOCKS)

    async def main():
        peer = await client.connect("127.0.0.1", port).up()
        events = asyncio.create_task(server.next_events())
        transfers = [
            client.read(peer, local, pool.region, local=[i], remote=[i]) for i in range(BLOCKS)
        ]
        for transfer in asyncio.as_completed([transfer.finished() for transfer in transfers]):
            assert (await transfer).status == 0
        await client.notify(peer, b"done")
        assert (await asyncio.wait_for(events, SECONDS))[-1].notification == b"done"
        late = client.read(peer, local, pool.region, remote=[BLOCKS], local=[0])
        await late

    with pytest.raises(lc.OutOfRange):
        asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert (np.frombuffer(local.memory, np.uint8) == pattern()).all()
    # Another loop, after the first has ended.
    assert asyncio.run(client.connect("127.0.0.1", port).up()).is_up


def test_threads_that_wait(engines):
    server, client, port = engines
    pool = server.create_pool(BLOCK, BLOCKS)
    local = client.create_pool(BLOCK, BLOCKS)
    peer = client.connect("127.0.0.1", port).wait_until_up()
    done = []

    def run(block):
        for _ in range(20):
            client.read(peer, local, pool.region, local=[block], remote=[block]).wait(SECONDS)
        done.append(block)

    threads = [threading.Thread(target=run, args=(block,)) for block in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert sorted(done) == list(range(8))


def test_errors(engines):
    server, client, port = engines
    pool = server.create_pool(BLOCK, 4)
    local = client.create_pool(BLOCK, 4)
    peer = client.connect("127.0.0.1", port).wait_until_up()
    with pytest.raises(lc.OutOfRange):
        client.read(peer, local, pool.region, local=[4], remote=[0])
    with pytest.raises(ValueError, match="different lengths"):
        client.read(peer, local, pool.region, local=[1, 2], remote=[0])
    with pytest.raises(ValueError, match="how many"):
        client.read(peer, local, pool.region)
    with pytest.raises(ValueError, match="2\\*\\*32"):
        client.read(peer, local, pool.region, local=np.array([-1]), remote=[0])
    with pytest.raises(lc.InvalidArgument):
        client.create_pool(0, 4)
    with pytest.raises(lc.InvalidArgument):
        client.create_pool(BLOCK, 4, node=1000)
    other = pool.region._replace(generation=1)
    with pytest.raises(lc.Stale) as failure:
        client.read(peer, local, other, count=3).wait(SECONDS)
    assert list(failure.value.event.failed) == [0, 1, 2]
    epoch = pool.fence([2])
    with pytest.raises(lc.Stale):
        client.read(peer, local, pool.region, local=[0], remote=[2]).wait(SECONDS)
    client.read(peer, local, pool.region, local=[0], remote=[2], epoch=epoch).wait(SECONDS)
    assert pool.epoch == epoch


def test_peers_that_cannot_be_had(engines):
    server, client, port = engines
    with pytest.raises(lc.Stale):
        client.connect("127.0.0.1", port, expected_id=bytes(16)).wait_until_up()
    with pytest.raises(lc.Unreachable):
        client.connect("127.0.0.1", 1).wait_until_up()
    with pytest.raises(lc.Unreachable):
        asyncio.run(client.connect("127.0.0.1", 1).up())
    with pytest.raises(ValueError):
        client.connect("127.0.0.1", port, paths=["carrier-pigeon"])
    with pytest.raises(ValueError, match="no path"):
        client.connect("127.0.0.1", port, paths=[])
    with pytest.raises(lc.AddressUnavailable):
        client.listen("127.0.0.1", port)


def test_closing():
    engine = lc.Engine()
    server = lc.Engine()
    pool = engine.create_pool(BLOCK, 1)
    peer = engine.connect("127.0.0.1", server.listen(), paths=["tcp"])
    transfer = engine.notify(peer, b"never mind")
    engine.close()
    engine.close()
    assert transfer.is_done or isinstance(transfer.event.error, lc.Cancelled)
    pool.release()
    peer.release()
    transfer.cancel()
    assert engine.poll() == []
    for use in (lambda: engine.create_pool(1, 1), lambda: peer.regions(), lambda: pool.epoch,
                lambda: engine.listen()):
        with pytest.raises(ValueError):
            use()
    server.close()


def test_registered_memory_outlives_its_owner(engines):
    server, client, port = engines
    array_ = np.arange(1024, dtype=np.uint32)
    expected = array_.tobytes()
    pool = server.register(array_)
    del array_
    local = client.create_pool(4096, 1)
    peer = client.connect("127.0.0.1", port).wait_until_up()
    client.read(peer, local, pool.region, count=1).wait(SECONDS)
    assert bytes(local.memory) == expected
    # The last reference withdraws it.
    del pool
    while not any(event.kind is lc.EventKind.REGION_GONE for event in server.poll()):
        assert select.select([server], [], [], SECONDS)[0]
    assert server._lent == {}


def test_low_limits_are_logged_once(monkeypatch, caplog):
    from llmd_connector import facts

    assert {limit.name for limit in lc.limits()} == {"memlock", "ptrace", "shared huge pages"}
    assert all(limit.text for limit in lc.limits())
    assert "hash kernel" in lc.capabilities()
    monkeypatch.setattr(facts, "_limits_were_logged", False)
    monkeypatch.setattr(facts, "limits", lambda: [
        lc.Limit("memlock", True, "8 KiB: too little"), lc.Limit("ptrace", False, "fine")])
    for _ in range(2):
        lc.Engine().close()
    assert caplog.messages == ["memlock: 8 KiB: too little"]


def test_without_numpy():
    program = """
import sys
sys.modules["numpy"] = None
import llmd_connector as lc
with lc.Engine() as server, lc.Engine() as client:
    pool = server.create_pool(64, 4)
    pool.memory[:] = bytes(range(256))
    local = client.create_pool(64, 4)
    peer = client.connect("127.0.0.1", server.listen()).wait_until_up()
    client.read(peer, local, pool.region, local=[0, 1], remote=[3, 2]).wait(30)
    assert bytes(local.memory[:128]) == bytes(range(192, 256)) + bytes(range(128, 192))
try:
    import llmd_connector.nixl
except ImportError as error:
    assert "numpy" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=ROOT / "python")
