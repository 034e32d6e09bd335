"""`llmd router` behind a real Envoy: ext-proc in full-duplex mode, TLS on and off."""

import concurrent.futures
import contextlib
import uuid

import openai
import pytest
from conftest import (
    LLMD, envoy, free_ports, get, healthy, metrics, post, running, total, wait_until,
)

MODEL = "llmd-sim"
TLS = """transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context: { alpn_protocols: [h2] }"""


class Chain:
    """Envoy on `port`, the router, and engines named engine-0 ..."""

    def __init__(self, port, metrics_port, engines):
        self.port = port
        self.metrics_port = metrics_port
        self.engines = engines

    def client(self):
        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0
        )

    def computed(self):
        """Prompt tokens that each engine computed itself."""
        return [
            total(metrics(port), "vllm:prompt_tokens_by_source_total", source="local_compute")
            for port in self.engines
        ]


@contextlib.contextmanager
def chain(tmp_path, tls, engines):
    base = free_ports(20 + 10 * engines)
    envoy_port, grpc, health, metrics_port = base, base + 1, base + 2, base + 3
    with contextlib.ExitStack() as stack:
        endpoints, ports = [], []
        for number in range(engines):
            port = base + 20 + 10 * number
            ports.append(port)
            events, replay = (f"ipc://@llmd-{port}-{kind}" for kind in ("events", "replay"))
            stack.enter_context(running(
                LLMD, "sim", "--host", "127.0.0.1", "--port", port, "--model", MODEL,
                "--zmq-endpoint", events, "--kv-events-replay-endpoint", replay,
                "--kv-transfer-port", port + 3, ready=lambda port=port: healthy(port),
            ))
            endpoints += [
                "--endpoint",
                f"name=engine-{number},address=127.0.0.1:{port},events={events},replay={replay}",
            ]
        stack.enter_context(running(
            LLMD, "router", "--host", "127.0.0.1", "--grpc-port", grpc,
            "--grpc-health-port", health, "--metrics-port", metrics_port,
            "--secure-serving" if tls else "--no-secure-serving",
            "--policy", "precise", *endpoints, ready=lambda: healthy(metrics_port),
        ))
        stack.enter_context(envoy(tmp_path, envoy_port, grpc, TLS if tls else ""))
        if engines:
            wait_until(
                lambda: total(metrics(metrics_port), "llm_d_epp_ready_endpoints") == engines,
                "endpoints ready",
            )
        yield Chain(envoy_port, metrics_port, ports)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "tls"])
def envoy_chain(request, tmp_path_factory):
    with chain(tmp_path_factory.mktemp("envoy"), request.param, engines=3) as running_chain:
        yield running_chain


def test_openai_client(envoy_chain):
    client = envoy_chain.client()
    assert MODEL in [model.id for model in client.models.list()]
    prompt = f"{uuid.uuid4()} tell me"
    answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=9)
    assert answer.usage.completion_tokens == 9
    chat = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=9
    )
    assert chat.choices[0].message.content


def test_streams(envoy_chain):
    stream = envoy_chain.client().completions.create(
        model=MODEL, prompt=f"{uuid.uuid4()} count", max_tokens=300, stream=True,
        extra_body={"ignore_eos": True},
    )
    pieces = [chunk.choices[0].text for chunk in stream if chunk.choices]
    assert len("".join(pieces)) == 300
    # Tokens share a chunk on a busy machine, but not all of them.
    assert len(pieces) > 20


def test_same_prefix_goes_to_the_warm_engine(envoy_chain):
    tokens = [number * 7 % 1000 + 300 for number in range(640)]
    tokens[0] = 1 + uuid.uuid4().int % 100_000
    before = envoy_chain.computed()
    for _ in range(6):
        body = {"model": MODEL, "prompt": tokens, "max_tokens": 2}
        assert post(envoy_chain.port, "/v1/completions", body)[0] == 200
    computed = [now - then for now, then in zip(envoy_chain.computed(), before)]
    # The first request computes all, each later one the last block alone, on the same engine.
    assert sorted(computed)[:2] == [0, 0]
    assert 640 <= max(computed) <= 640 + 5 * 16


def test_large_body_passes_whole(envoy_chain):
    prompt = [number % 5000 for number in range(60_000)]
    prompt[0] = 1 + uuid.uuid4().int % 100_000
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 1}
    status, _, answer = post(envoy_chain.port, "/v1/completions", body)
    assert status == 200
    assert answer["usage"]["prompt_tokens"] == 60_000


def test_errors_reach_the_client(envoy_chain):
    status, _, answer = post(envoy_chain.port, "/v1/completions", b"{nope")
    assert status == 400
    assert answer["error"]["code"] == 400
    status, _, _ = post(envoy_chain.port, "/v1/completions", {"model": "nothing", "prompt": "a"})
    assert status == 404


def test_many_requests_lose_none(envoy_chain):
    def ask(number):
        body = {"model": MODEL, "prompt": f"{number} words", "max_tokens": 1}
        return post(envoy_chain.port, "/v1/completions", body)[0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(ask, range(1500)))
    # More than nghttp2's default limit of 1000 stream resets on one connection.
    assert set(statuses) == {200}


def test_empty_pool_is_503(tmp_path):
    with chain(tmp_path, tls=False, engines=0) as running_chain:
        body = {"model": MODEL, "prompt": "a"}
        status, headers, answer = post(running_chain.port, "/v1/completions", body)
        assert status == 503
        assert headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
        assert answer["error"]["code"] == 503
