"""Processes that are killed and model servers that misbehave while requests run: every request is
answered or broken off in time, nothing stays behind, and what comes back is used again."""

import contextlib
import json

import pytest
from conftest import envoy, free_ports, metrics, post, total, wait_until
from dataplane import DataPlane
from load import Load
from roles import DEFAULTS, MODEL, engines, gateway, left_over, router, settle, sim

SHARED_INDEX = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: precise-prefix-cache-producer
  parameters:
    indexerConfig:
      kvBlockIndexConfig:
        replicaConfig: {listen: "LISTEN", peers: [PEERS]}
- type: prefix-cache-scorer
  parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}
"""


def body(number):
    """Every other answer is streamed; an answer takes a tenth of a second."""
    return json.dumps({
        "model": MODEL, "prompt": f"{number} words", "max_tokens": 20, "ignore_eos": True,
        "stream": number % 2 == 0,
    }).encode()


def ready(metrics_port, count):
    wait_until(
        lambda: total(metrics(metrics_port), "llm_d_epp_ready_endpoints") == count,
        f"{count} endpoints",
    )


def answers(load, count):
    """Waits for so many more good answers."""
    before = load.ends[200]
    wait_until(lambda: load.ends[200] >= before + count, f"{count} good answers")


def only(load, *ends):
    """Requests have ended in these ways alone, and none of them late."""
    assert set(load.ends) <= {200, *ends}, load.ends
    assert load.longest < 15, load.longest


def test_killed_engine_behind_envoy(tmp_path):
    base = free_ports(20)
    ports = [base + 10, base + 12, base + 14]
    with contextlib.ExitStack() as stack:
        victim = [stack.enter_context(sim(port)) for port in ports][1]
        stack.enter_context(router(base, DEFAULTS, ports))
        stack.enter_context(envoy(tmp_path, base + 3, base))
        ready(base + 2, 3)
        load = Load(base + 3, body)
        with load.going_on():
            answers(load, 100)
            victim.kill()
            ready(base + 2, 2)
            # Those that were on their way may fail, later ones not.
            first = load.number
            answers(load, 300)
            assert max(load.failed, default=0) < first
            stack.enter_context(sim(ports[1]))
            ready(base + 2, 3)
            wait_until(
                lambda: total(metrics(ports[1]), "vllm:request_success_total") > 0,
                "the engine is used again",
            )
        only(load, 502, 503, "lost")
        settle(base + 2)


def test_killed_router(tmp_path):
    base = free_ports(20)
    ports = [base + 10, base + 12]
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(sim(port))
        victim = stack.enter_context(router(base, DEFAULTS, ports))
        stack.enter_context(envoy(tmp_path, base + 3, base))
        load = Load(base + 3, body)
        with load.going_on():
            answers(load, 100)
            victim.kill()
            wait_until(lambda: len(load.failed) > 200, "answers of Envoy's own")
            stack.enter_context(router(base, DEFAULTS, ports))
            answers(load, 200)
        only(load, 500, 503, "lost")
        settle(base + 2)


def test_killed_envoy(tmp_path):
    base = free_ports(20)
    ports = [base + 10, base + 12]
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(sim(port))
        stack.enter_context(router(base, DEFAULTS, ports))
        victim = stack.enter_context(envoy(tmp_path, base + 3, base))
        load = Load(base + 3, body)
        with load.going_on():
            answers(load, 100)
            assert left_over(metrics(base + 2))
            victim.kill()
            settle(base + 2)
            stack.enter_context(envoy(tmp_path, base + 3, base))
            answers(load, 200)
        only(load, "lost", "refused")
        settle(base + 2)


def test_killed_router_of_two_that_share_their_index():
    base = free_ports(30)
    ports = [base + 20, base + 22]
    peers = [f"127.0.0.1:{base + 8}", f"127.0.0.1:{base + 9}"]
    events = [f"ipc://@llmd-{port}-events" for port in ports]
    # Nobody replays events: what was told while a router was dead it can only hear from the other.
    endpoints = [f"{port},events={event}" for port, event in zip(ports, events)]
    prompts = [[100 * kind + 1000 + number for number in range(320)] for kind in (1, 7)]

    def start(index):
        config = SHARED_INDEX.replace("LISTEN", peers[index])
        config = config.replace("PEERS", json.dumps(peers)[1:-1])
        return router(base + 3 * index, config, endpoints)

    def blocks(index):
        return total(metrics(base + 3 * index + 2), "llm_d_epp_kv_cache_index_blocks")

    def warm(kind):
        """Has one engine compute one prompt."""
        request = {"model": MODEL, "prompt": prompts[kind], "max_tokens": 1}
        assert post(ports[kind], "/v1/completions", request)[0] == 200

    def decide(plane, kind):
        request = json.dumps({"model": MODEL, "prompt": prompts[kind]}).encode()
        assert plane.decide(request, deadline=5) == f"127.0.0.1:{ports[kind]}"

    with contextlib.ExitStack() as stack:
        for port, event in zip(ports, events):
            stack.enter_context(sim(port, "--zmq-endpoint", event))
        victim = stack.enter_context(start(0))
        stack.enter_context(start(1))
        for index in range(2):
            ready(base + 3 * index + 2, 2)
            wait_until(
                lambda index=index: total(
                    metrics(base + 3 * index + 2), "llm_d_epp_kv_cache_replica_followed_peers"
                ) == 1,
                "each follows the other",
            )
        warm(0)
        wait_until(lambda: blocks(0) == blocks(1) == 20, "both know the first prompt")
        survivor = DataPlane(base + 3)
        for number in range(200):
            if number == 50:
                victim.kill()
            decide(survivor, 0)
        warm(1)
        wait_until(lambda: blocks(1) == 40, "the survivor knows the second prompt")
        decide(survivor, 1)
        stack.enter_context(start(0))
        wait_until(lambda: blocks(0) == 40, "the other one knows both again")
        plane = DataPlane(base)
        for number in range(20):
            decide(plane, number % 2)
            decide(survivor, number % 2)
        plane.close()
        survivor.close()
        settle(base + 2)
        settle(base + 5)


@pytest.mark.parametrize("how", ["close", "garbage", "torn", "silent"])
@pytest.mark.parametrize("front", ["envoy", "gateway"])


def test_broken_engine(tmp_path, front, how):
    """One of three engines, under load."""
    if (front, how) == ("envoy", "silent"):
        pytest.skip("how long Envoy waits for an engine is a matter of its route")
    base = free_ports(20)
    ports = range(base + 10, base + 13)
    with contextlib.ExitStack() as stack:
        stack.enter_context(engines(ports[:2]))
        stack.enter_context(engines(ports[2:], broken=how))
        port = base
        if front == "gateway":
            stack.enter_context(gateway(base, DEFAULTS, ports, "--first-byte-timeout", "1"))
        else:
            port = base + 3
            stack.enter_context(router(base, DEFAULTS, ports))
            stack.enter_context(envoy(tmp_path, port, base))
        load = Load(port, lambda number: json.dumps(
            {"model": MODEL, "prompt": [number] * 40, "max_tokens": 1}).encode())
        load.run(3000, deadline=60)
        only(load, 502, 503, 504, "lost")
        # It is avoided soon, except that Envoy does not tell the router of half an answer.
        if (front, how) != ("envoy", "torn"):
            assert load.ends[200] > 2700, load.ends
        settle(base + 2)
