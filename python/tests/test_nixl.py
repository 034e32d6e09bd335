"""The agent in the shape of NIXL's, used as code written for NIXL does."""

import time

import llmd_connector as lc
import numpy as np
import pytest
from conftest import SECONDS, process
from llmd_connector.nixl import nixl_agent, nixl_agent_config, nixlXferDList

BLOCK = 4096


def finish(agent, handle, expected="DONE"):
    end = time.monotonic() + SECONDS
    while (state := agent.check_xfer_state(handle)) == "PROC":
        assert time.monotonic() < end
        time.sleep(0.0005)
    assert state == expected, handle.error
    return state


def notifications(agent, count):
    end = time.monotonic() + SECONDS
    got = {}
    while sum(map(len, got.values())) < count:
        assert time.monotonic() < end
        for name, messages in agent.get_new_notifs().items():
            got.setdefault(name, []).extend(messages)
        time.sleep(0.0005)
    return got


@pytest.fixture
def agents():
    with nixl_agent("prefill") as prefill, nixl_agent("decode", nixl_agent_config()) as decode:
        yield prefill, decode


def blocks_of(array, count):
    """Descriptors of equal blocks of an array, as vLLM makes them."""
    size = array.nbytes // count
    base = array.ctypes.data
    return [(base + i * size, size, 0) for i in range(count)]


def test_prepped_transfer_over_many_regions(agents):
    """Layers registered one by one, blocks chosen by index, a notification at the end."""
    prefill, decode = agents
    layers, blocks = 5, 32
    random = np.random.default_rng(5)
    source = [random.integers(0, 256, (blocks, BLOCK), np.uint8) for _ in range(layers)]
    target = [np.zeros((blocks, BLOCK), np.uint8) for _ in range(layers)]
    prefill.register_memory(prefill.get_reg_descs(
        [(layer.ctypes.data, layer.nbytes, 0, "") for layer in source], "DRAM"))
    decode.register_memory(target)
    assert decode.add_remote_agent(prefill.get_agent_metadata()) == "prefill"
    assert prefill.add_remote_agent(decode.get_agent_metadata()) == "decode"

    local = decode.prep_xfer_dlist("NIXL_INIT_AGENT", decode.get_xfer_descs(
        [desc for layer in target for desc in blocks_of(layer, blocks)], "DRAM"))
    remote = decode.prep_xfer_dlist(
        "prefill", [desc for layer in source for desc in blocks_of(layer, blocks)], "DRAM")
    mine = np.array([3, 0, 31], np.int64)
    theirs = np.array([7, 30, 1], np.int64)
    steps = (np.arange(layers) * blocks)[:, None]
    handle = decode.make_prepped_xfer(
        "READ", local, (steps + mine).ravel(), remote, (steps + theirs).ravel(),
        notif_msg=b"request-1:1")
    for _ in range(2):
        assert decode.transfer(handle) in ("DONE", "PROC")
        finish(decode, handle)
        assert notifications(prefill, 1) == {"decode": [b"request-1:1"]}
    for layer in range(layers):
        assert (target[layer][mine] == source[layer][theirs]).all()
        assert not np.delete(target[layer], mine, axis=0).any()
    telemetry = decode.get_xfer_telemetry(handle)
    assert telemetry.totalBytes == layers * len(mine) * BLOCK
    assert telemetry.descCount == layers * len(mine)
    decode.release_xfer_handle(handle)
    decode.release_dlist_handle(local)


def test_initialize_xfer_writes(agents):
    prefill, decode = agents
    source = np.arange(1 << 16, dtype=np.uint32)
    target = np.zeros_like(source)
    prefill.register_memory(source)
    decode.register_memory(target)
    prefill.add_remote_agent(decode.get_agent_metadata())
    # Descriptors of different lengths, out of order.
    pieces = [(4096, 100), (0, 4096), (70000, 7), (5000, 100)]

    def descs(array):
        return [(array.ctypes.data + offset, length, 0) for offset, length in pieces]

    sent = decode.get_serialized_descs(decode.get_xfer_descs(descs(target), "DRAM"))
    handle = prefill.initialize_xfer(
        "WRITE", prefill.get_xfer_descs(descs(source), "DRAM"), prefill.deserialize_descs(sent),
        "decode", "written")
    prefill.transfer(handle)
    finish(prefill, handle)
    end = time.monotonic() + SECONDS
    while not decode.check_remote_xfer_done("prefill", b"writ"):
        assert time.monotonic() < end
        time.sleep(0.0005)
    assert not decode.check_remote_xfer_done("prefill", b"writ")
    got, want = target.view(np.uint8), source.view(np.uint8)
    moved = np.zeros(got.shape, bool)
    for offset, length in pieces:
        moved[offset:offset + length] = True
    assert (got[moved] == want[moved]).all() and not got[~moved].any()


def test_registering_later(agents):
    prefill, decode = agents
    decode.add_remote_agent(prefill.get_agent_metadata())
    source = np.full(BLOCK, 9, np.uint8)
    target = np.zeros(BLOCK, np.uint8)
    source_descs = prefill.get_xfer_descs(source)
    registered = prefill.register_memory(source)
    decode.register_memory(target)
    with pytest.raises(lc.NoSuchRegion, match="descriptor 0"):
        decode.prep_xfer_dlist("prefill", source_descs)
    assert not decode.check_remote_metadata("prefill", source_descs)
    decode.add_remote_agent(prefill.get_agent_metadata())
    assert decode.check_remote_metadata("prefill", source_descs)
    handle = decode.initialize_xfer(
        "READ", decode.get_xfer_descs(target), source_descs, "prefill")
    decode.transfer(handle)
    finish(decode, handle)
    assert (target == 9).all()
    prefill.deregister_memory(registered)
    decode.transfer(handle)
    finish(decode, handle, "ERR")
    assert isinstance(handle.error, (lc.NoSuchRegion, lc.Stale))
    with pytest.raises(lc.NoSuchRegion):
        prefill.deregister_memory(registered)


def test_a_notification_follows_all_regions(agents, monkeypatch):
    """And does not follow at all if one of them fails."""
    prefill, decode = agents
    source = [np.full(1 << 22, value, np.uint8) for value in (1, 2, 3)]
    target = [np.zeros(1 << 22, np.uint8) for _ in source]
    registered = [prefill.register_memory(array) for array in source]
    decode.register_memory(target)
    decode.add_remote_agent(prefill.get_agent_metadata())
    submit, notify = decode._engine.submit, decode._engine.notify
    transfers = []

    def submitting(*arguments, **options):
        assert not options["notification"]
        transfers.append(submit(*arguments, **options))
        return transfers[-1]

    def notifying(*arguments):
        if arguments[1].endswith(b"afterwards"):
            return notify(*arguments)
        assert len(transfers) == 3 and all(transfer.event for transfer in transfers)
        return notify(*arguments)

    monkeypatch.setattr(decode._engine, "submit", submitting)
    monkeypatch.setattr(decode._engine, "notify", notifying)
    handle = decode.initialize_xfer(
        "READ", decode.get_xfer_descs(target), prefill.get_xfer_descs(source), "prefill", b"all")
    decode.transfer(handle)
    finish(decode, handle)
    assert notifications(prefill, 1) == {"decode": [b"all"]}
    assert all((a == b).all() for a, b in zip(source, target))

    prefill.deregister_memory(registered[1])
    transfers.clear()
    decode.transfer(handle, b"never")
    finish(decode, handle, "ERR")
    decode.send_notif("prefill", b"afterwards")
    assert notifications(prefill, 1) == {"decode": [b"afterwards"]}


def test_standalone_notification_and_loopback(agents):
    prefill, decode = agents
    decode.add_remote_agent(prefill.get_agent_metadata())
    decode.send_notif("prefill", b"hello")
    assert notifications(prefill, 1) == {"decode": [b"hello"]}
    array = np.arange(2 * BLOCK, dtype=np.uint8)
    decode.register_memory(array)
    descs = decode.get_xfer_descs(blocks_of(array, 2), "DRAM")
    handle = decode.make_prepped_xfer(
        "READ", decode.prep_xfer_dlist("", descs), [0], decode.prep_xfer_dlist("decode", descs),
        [1])
    array[BLOCK:] = 77
    decode.transfer(handle)
    finish(decode, handle)
    assert (array == 77).all()


def test_errors(agents):
    prefill, decode = agents
    array = np.zeros(BLOCK, np.uint8)
    prefill.register_memory(array)
    decode.add_remote_agent(prefill.get_agent_metadata())
    descs = prefill.get_xfer_descs(array)
    local = prefill.prep_xfer_dlist("", descs)
    remote = decode.prep_xfer_dlist("prefill", descs)
    with pytest.raises(lc.NotSupported, match="VRAM"):
        prefill.register_memory([(1, 2, 0, "")], "VRAM")
    with pytest.raises(lc.InvalidArgument, match="memory type"):
        prefill.get_xfer_descs([(1, 2, 0)])
    with pytest.raises(lc.InvalidArgument, match="members"):
        prefill.get_xfer_descs([(1, 2, 0, "")], "DRAM")
    with pytest.raises(lc.InvalidArgument, match="metadata"):
        prefill.add_remote_agent(b"something of NIXL's")
    with pytest.raises(lc.InvalidArgument, match="not valid"):
        prefill.add_remote_agent(decode.get_agent_metadata()[:-5])
    with pytest.raises(lc.InvalidArgument, match="COPY"):
        decode.make_prepped_xfer("COPY", local, [0], remote, [0])
    with pytest.raises(lc.InvalidArgument, match="index"):
        decode.make_prepped_xfer("READ", local, [1], remote, [0])
    with pytest.raises(lc.InvalidArgument, match="1 local descriptors and 2"):
        decode.make_prepped_xfer("READ", local, [0], remote, [0, 0])
    with pytest.raises(lc.InvalidArgument, match="local side first"):
        decode.make_prepped_xfer("READ", remote, [0], local, [0])
    with pytest.raises(lc.InvalidArgument, match="at most 256"):
        decode.send_notif("prefill", bytes(256))
    with pytest.raises(lc.NoSuchRegion, match="nobody"):
        decode.send_notif("nobody", b"")
    with pytest.raises(lc.NoSuchRegion, match="nobody"):
        decode.remove_remote_agent("nobody")
    with pytest.raises(lc.NoSuchRegion, match="no registered memory"):
        prefill.prep_xfer_dlist("", [(array.ctypes.data + 1, BLOCK, 0)], "DRAM")
    with pytest.raises(lc.NoSuchRegion, match="descriptor 1"):
        prefill.prep_xfer_dlist(
            "", [(array.ctypes.data, BLOCK, 0), (array.ctypes.data - 1, 1, 0)], "DRAM")


def test_an_agent_that_restarts(agents):
    _, decode = agents
    array = np.zeros(BLOCK, np.uint8)
    decode.register_memory(array)
    for value in (1, 2):
        with nixl_agent("prefill") as prefill:
            source = np.full(BLOCK, value, np.uint8)
            prefill.register_memory(source)
            assert decode.add_remote_agent(prefill.get_agent_metadata()) == "prefill"
            handle = decode.initialize_xfer(
                "READ", decode.get_xfer_descs(array), prefill.get_xfer_descs(source), "prefill")
            decode.transfer(handle)
            finish(decode, handle)
            assert (array == value).all()
        decode.transfer(handle)
        finish(decode, handle, "ERR")


def test_lists():
    rows = np.array([[4096, 10, 0], [8192, 20, 1]], np.uint64)
    descs = nixlXferDList.make(rows, "DRAM")
    assert descs.descCount() == len(descs) == 2 and not descs.isEmpty()
    assert descs[1] == (8192, 20, 1)
    assert nixlXferDList.from_bytes(descs.to_bytes())[0] == (4096, 10, 0)


def test_two_processes():
    with process("nixl_serve.py") as child, nixl_agent("decode") as decode:
        length = int(child.stdout.readline())
        name = decode.add_remote_agent(child.stdout.read(length))
        base, rows, row_bytes = (int(number) for number in child.stdout.readline().split())
        target = np.zeros((rows, row_bytes), np.uint8)
        decode.register_memory(target)
        local = decode.prep_xfer_dlist("", blocks_of(target, rows), "DRAM")
        remote = decode.prep_xfer_dlist(
            name, [(base + i * row_bytes, row_bytes, 0) for i in range(rows)], "DRAM")
        order = np.random.default_rng(3).permutation(rows)
        handle = decode.make_prepped_xfer(
            "READ", local, np.arange(rows), remote, order, b"finished")
        decode.transfer(handle)
        finish(decode, handle)
        expected = (np.arange(rows * row_bytes, dtype=np.uint64) // 3).astype(np.uint8)
        assert (target == expected.reshape(rows, row_bytes)[order]).all()
        assert child.stdout.readline() == b"decode finished\n"
