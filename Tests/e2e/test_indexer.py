"""`llmd indexer` follows real engines; gRPC by grpcio, `/query` and `/register` by HTTP."""

import contextlib
import itertools
import json
import signal
import socket
import ssl
import struct

import grpc
import pytest
from conftest import (
    LLMD, Process, free_ports, get, healthy, listens, metrics, post, running, total, wait_until)
from protobuf import field, fields

MODEL = "llmd-sim"
BLOCK = 16
PROMPT = "The index tells which engine holds how much of this prompt, block by block. " * 3


class Indexer:
    def __init__(self, port, metrics_port, channel):
        self.port = port
        self.metrics_port = metrics_port
        self.channel = channel

    def scores(self, prompt, model=MODEL, pods=(), timeout=10):
        """{(pod, rank): score}."""
        message = field(1, prompt.encode()) + field(2, model.encode())
        message += b"".join(field(3, pod.encode()) for pod in pods)
        call = self.channel.unary_unary("/indexer.v1.IndexerService/GetPodScores")
        found = {}
        for number, score in fields(call(message, timeout=timeout)):
            assert number == 1
            values = dict(fields(score))
            assert set(values) <= {1, 2, 3}
            found[values[1].decode(), values.get(3)] = struct.unpack("<d", values[2])[0]
        return found

    def query(self, tokens, **members):
        body = {"model": MODEL, "block_size": BLOCK, "token_ids": tokens, **members}
        status, _, answer = post(self.port, "/query", body)
        assert status == 200, answer
        return answer["instances"]


@contextlib.contextmanager
def indexer(port, *arguments, channel=None):
    with running(
        LLMD, "indexer", "--host", "127.0.0.1", "--port", port, "--metrics-port", port + 1,
        *arguments, ready=lambda: healthy(port + 1),
    ) as process:
        with channel or grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            service = Indexer(port, port + 1, channel)
            service.process = process
            yield service


@contextlib.contextmanager
def engine(port, events, *arguments):
    with running(
        LLMD, "sim", "--host", "127.0.0.1", "--port", port, "--model", MODEL,
        "--zmq-endpoint", events, "--kv-transfer-port", port + 1, *arguments,
        ready=lambda: healthy(port),
    ):
        yield


def complete(port, prompt):
    status, _, answer = post(
        port, "/v1/completions", {"model": MODEL, "prompt": prompt, "max_tokens": 1})
    assert status == 200, answer


def tokens(port, prompt):
    status, _, answer = post(
        port, "/v1/completions/render", {"model": MODEL, "prompt": prompt})
    assert status == 200
    return answer[0]["token_ids"]


def health(channel, service=""):
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    return dict(fields(check(field(1, service.encode()), timeout=10)))[1]


def test_engines_are_followed_and_named():
    base = free_ports(30)
    names = ["engine-0", "engine-1"]
    ports = [base + 10, base + 20]
    events = [f"ipc://@llmd-{port}-events" for port in ports]
    replays = [f"ipc://@llmd-{port}-replay" for port in ports]
    with contextlib.ExitStack() as stack:
        endpoints = []
        for name, port, event, replay in zip(names, ports, events, replays, strict=True):
            stack.enter_context(engine(port, event, "--kv-events-replay-endpoint", replay))
            address = f"127.0.0.1:{port}"
            endpoints += [
                "--endpoint", f"name={name},address={address},events={event},replay={replay}"]
        # Before the index is there: it hears of these blocks by the replay.
        complete(ports[1], PROMPT)
        service = stack.enter_context(indexer(base, *endpoints))
        prompt_tokens = tokens(ports[0], PROMPT)
        blocks = len(prompt_tokens) // BLOCK
        assert blocks > 10
        wait_until(lambda: service.scores(PROMPT) == {("engine-1", None): blocks}, "the replay")

        # The first engine holds half of it, and a block that differs is none.
        half = PROMPT[: len(PROMPT) // 2]
        half_blocks = len(tokens(ports[0], half)) // BLOCK
        complete(ports[0], half)
        expected = {("engine-1", None): blocks, ("engine-0", None): half_blocks}
        wait_until(lambda: service.scores(PROMPT) == expected, "the first engine's blocks")
        found = service.query(prompt_tokens)
        assert {name: found[name]["longest_matched"] for name in names} == {
            "engine-0": half_blocks * BLOCK, "engine-1": blocks * BLOCK}
        full = blocks * BLOCK
        assert found["engine-1"] == {
            "longest_matched": full, "dp": {"0": full}, "gpu": full, "cpu": full, "disk": full}

        address = f"127.0.0.1:{ports[0]}"
        assert service.scores(PROMPT, pods=[address]) == {(address, None): half_blocks}
        assert service.scores(PROMPT, pods=["nobody"]) == {}
        assert list(service.query(prompt_tokens, instance_id="engine-0")) == ["engine-0"]
        assert service.query(prompt_tokens, cache_salt="s")["engine-1"]["longest_matched"] == 0

        assert health(service.channel) == 1
        assert health(service.channel, "indexer.v1.IndexerService") == 1
        samples = metrics(service.metrics_port)
        name = "llmd_indexer_requests_total"
        assert total(samples, name, method="GetPodScores", code="0") >= 4
        assert total(samples, name, method="query", code="200") == 3
        assert total(samples, "kvcache_index_lookup_requests_total") >= 7
        assert total(samples, "llm_d_epp_kv_cache_events_engine_blocks", endpoint="engine-1") == (
            blocks)
        status, headers, page = get(service.metrics_port, "/debug/kv-events")
        assert (status, headers["content-type"]) == (200, "application/json")
        states = {state["name"]: state for state in json.loads(page)["engines"]}
        assert list(states) == names
        for name, count in zip(names, (half_blocks, blocks), strict=True):
            state = states[name]
            assert state["connected"] and state["blocks"] == count
            assert state["last_sequence"] is not None and state["lag_batches"] == 0
            assert state["quarantine_seconds_left"] is None


def test_engines_connect_or_register():
    base = free_ports(30)
    bound, own = base + 2, base + 3
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(indexer(
            base, "--events-bind", f"tcp://127.0.0.1:{bound}",
            "--endpoint", f"name=connects,address=127.0.0.1:{base + 10}",
        ))
        stack.enter_context(engine(base + 10, f"tcp://127.0.0.1:{bound}"))
        stack.enter_context(engine(base + 20, f"tcp://*:{own}"))
        status, _, answer = post(base, "/register", {
            "endpoint": f"tcp://127.0.0.1:{own}", "type": "vLLM", "modelname": MODEL,
            "instance_id": "registers", "block_size": BLOCK, "dp_rank": 2,
        })
        assert (status, answer["status"]) == (200, "registered successfully")

        prompt_tokens = tokens(base + 10, PROMPT)
        blocks = len(prompt_tokens) // BLOCK

        numbers = itertools.count()

        def is_heard(port, name):
            # Without a replay endpoint what was published too early is lost: ask for more.
            prompt = f"{next(numbers)} {PROMPT}"
            complete(port, prompt)
            return service.query(tokens(port, prompt))[name]["longest_matched"] > 0

        wait_until(lambda: is_heard(base + 10, "connects"), "events of the one that connects")
        wait_until(lambda: is_heard(base + 20, "registers"), "events of the one that registered")
        complete(base + 10, PROMPT)
        complete(base + 20, PROMPT)

        def can_be_asked():
            # It was not there when the index looked first.
            with contextlib.suppress(grpc.RpcError):
                return service.scores(PROMPT) is not None

        wait_until(can_be_asked, "an engine that can be asked for tokens")
        expected = {("connects", None): blocks, ("registers", 2): blocks}
        wait_until(lambda: service.scores(PROMPT) == expected, "both hold the prompt")

        status, _, answer = post(
            base, "/unregister", {"instance_id": "registers", "dp_rank": 2})
        assert (status, answer["removed_instances"]) == (200, ["registers|default|2"])
        wait_until(
            lambda: service.scores(PROMPT) == {("connects", None): blocks}, "its blocks are gone")


def test_an_index_is_shared_through_redis():
    base = free_ports(40)
    port, redis = base + 10, base + 20
    events = f"ipc://@llmd-{port}-events"
    name = f"name=engine,address=127.0.0.1:{port}"
    share = ["--redis", f"redis://127.0.0.1:{redis}", "--redis-namespace", "e2e"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(
            "redis-server", "--port", redis, "--bind", "127.0.0.1", "--save", "",
            ready=lambda: listens(redis),
        ))
        stack.enter_context(engine(port, events))
        hears = stack.enter_context(indexer(
            base, *share, "--endpoint", f"{name},events={events}"))
        follows = stack.enter_context(indexer(base + 2, *share, "--endpoint", name))
        numbers = itertools.count()

        def is_known(service):
            prompt = f"{next(numbers)} {PROMPT}"
            complete(port, prompt)
            prompt_tokens = tokens(port, prompt)
            blocks = len(prompt_tokens) // BLOCK

            def holds_all():
                found = service.query(prompt_tokens)["engine"]
                return found["longest_matched"] == blocks * BLOCK

            with contextlib.suppress(AssertionError):
                wait_until(holds_all, "the blocks", deadline=2.0)
                return True

        wait_until(lambda: is_known(hears), "the engine's events")
        wait_until(lambda: is_known(follows), "what the other one shares")


def test_failures_are_told():
    base = free_ports(10)
    with indexer(base, "--tokenizer-url", f"http://127.0.0.1:{base + 5}") as service:
        with pytest.raises(grpc.RpcError) as thrown:
            service.scores(PROMPT)
        assert thrown.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "cannot connect" in thrown.value.details()
        with pytest.raises(grpc.RpcError) as thrown:
            service.scores("")
        assert thrown.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        status, headers, answer = post(
            base, "/query", {"model": MODEL, "block_size": 64, "token_ids": [1]})
        assert (status, answer["field"]) == (400, "block_size")
        assert "16" in answer["error"]
        assert headers["content-type"] == "application/json"
        assert get(base, "/query")[0] == 405
        assert get(base, "/nothing")[0] == 404
        assert service.query([1, 2, 3]) == {}
        service.process.popen.send_signal(signal.SIGTERM)
        assert service.process.wait() == 0

    with Process(LLMD, "indexer", "--port", base, "--tier-weights", "gpu=3") as wrong:
        assert wrong.wait() == 2
        assert "--tier-weights" in "".join(wrong.stderr)


def test_tls():
    base = free_ports(10)
    with indexer(base, "--secure-serving", channel=contextlib.nullcontext()) as service:
        certificate = ssl.get_server_certificate(("127.0.0.1", base))
        credentials = grpc.ssl_channel_credentials(certificate.encode())
        options = [("grpc.ssl_target_name_override", "localhost")]
        with grpc.secure_channel(f"127.0.0.1:{base}", credentials, options) as channel:
            assert health(channel) == 1
        assert service.process.popen.poll() is None
