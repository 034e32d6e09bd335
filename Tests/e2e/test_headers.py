"""Headers by which clients say more than their bodies do, by the gateway and behind Envoy."""

import contextlib
import uuid

import pytest
from conftest import LLMD, envoy, free_ports, healthy, metrics, post, running, total, wait_until

MODEL = "llmd-sim"
CONFIGURATION = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: agent-identity}
- {type: precise-prefix-cache-producer}
- {type: session-affinity-filter}
- {type: round-robin-picker}
schedulingProfiles:
- {name: default, plugins: [{pluginRef: session-affinity-filter}, {pluginRef: round-robin-picker}]}
"""


class Front:
    """What clients speak to, before engines that take turns."""

    def __init__(self, port, metrics_port, engines):
        self.port, self.metrics_port, self.engines = port, metrics_port, engines

    def complete(self, prompt, headers=None):
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 1}
        return post(self.port, "/v1/completions", body, headers)

    def served(self):
        """How many requests each engine has served."""
        return [total(metrics(port), "vllm:request_success_total") for port in self.engines]


@pytest.fixture(scope="module", params=["gateway", "router"])
def front(request, tmp_path_factory):
    base = free_ports(40)
    port, grpc, health, metrics_port = base, base + 1, base + 2, base + 3
    engines = [base + 10, base + 20]
    with contextlib.ExitStack() as stack:
        endpoints = []
        for engine in engines:
            events, replay = (f"ipc://@llmd-{engine}-{kind}" for kind in ("events", "replay"))
            stack.enter_context(running(
                LLMD, "sim", "--host", "127.0.0.1", "--port", engine, "--model", MODEL,
                "--zmq-endpoint", events, "--kv-events-replay-endpoint", replay,
                "--kv-transfer-port", engine + 3, ready=lambda engine=engine: healthy(engine),
            ))
            endpoints += [
                "--endpoint",
                f"name=engine-{engine},address=127.0.0.1:{engine},events={events},replay={replay}",
            ]
        listen = (
            ["gateway", "--port", port]
            if request.param == "gateway"
            else ["router", "--grpc-port", grpc, "--grpc-health-port", health,
                  "--no-secure-serving"]
        )
        stack.enter_context(running(
            LLMD, *listen, "--host", "127.0.0.1", "--metrics-port", metrics_port,
            "--config-text", CONFIGURATION, *endpoints, ready=lambda: healthy(metrics_port),
        ))
        if request.param == "router":
            stack.enter_context(envoy(tmp_path_factory.mktemp("headers"), port, grpc))
        wait_until(
            lambda: total(metrics(metrics_port), "llm_d_epp_ready_endpoints") == 2, "endpoints"
        )
        yield Front(port, metrics_port, engines)


def test_a_session_stays_where_it_is(front):
    status, headers, _ = front.complete("a")
    assert status == 200
    token = headers["x-session-token"]
    before = front.served()
    for _ in range(6):
        status, headers, _ = front.complete("a", {"x-session-token": token})
        assert status == 200 and headers["x-session-token"] == token
    assert sorted(now - then for now, then in zip(front.served(), before)) == [0, 6]
    # Without the token the engines take turns.
    before = front.served()
    for _ in range(6):
        assert front.complete("a")[0] == 200
    assert [now - then for now, then in zip(front.served(), before)] == [3, 3]


def test_if_available_asks_for_a_cached_prompt(front):
    prompt = " ".join(uuid.uuid4().hex for _ in range(40))
    wish = {"prefer": "if-available"}
    before = front.served()
    status, _, answer = front.complete(prompt, wish)
    assert status == 412
    assert answer["error"]["type"] == "PreconditionFailed" and answer["error"]["code"] == 412
    assert front.served() == before
    # Its turn at either engine.
    assert [front.complete(prompt)[0] for _ in range(2)] == [200, 200]
    wait_until(
        lambda: [front.complete(prompt, wish)[0] for _ in range(2)] == [200, 200], "events seen"
    )


def test_fairness_ids_of_clients_and_agents(front):
    def count(fairness_id):
        samples = metrics(front.metrics_port)
        return total(samples, "llm_d_epp_request_total", fairness_id=fairness_id)

    agent = {"x-claude-code-session-id": "agent-1"}
    assert front.complete("a", agent)[0] == 200
    assert front.complete("a", {**agent, "x-gateway-inference-fairness-id": "tenant-1"})[0] == 200
    assert (count("agent-1"), count("tenant-1")) == (1, 1)


def test_objectives_for_latency_are_numbers(front):
    assert front.complete("a", {"x-llm-d-slo-ttft-ms": "250"})[0] == 200
    status, _, answer = front.complete("a", {"x-slo-tpot-ms": "soon"})
    assert status == 400 and "x-llm-d-slo-tpot-ms" in answer["error"]["message"]
