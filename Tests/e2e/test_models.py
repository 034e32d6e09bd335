"""Model rewrites, LoRA adapters and objectives from a discovery file, by the gateway and by the
router behind Envoy."""

import contextlib
import json
import threading

import openai
import pytest
from conftest import LLMD, envoy, free_ports, healthy, metrics, post, running, total, wait_until

MODEL = "llmd-sim"


def rules(v1, v2):
    targets = [("reviews-v1", v1), ("reviews-v2", v2)]
    return {
        "objectives": [{"name": "batch", "priority": -1}],
        "modelRewrites": [
            {
                "name": "reviews",
                "rules": [
                    {
                        "matches": [{"model": {"type": "Exact", "value": "reviews"}}],
                        "targets": [
                            {"modelRewrite": name, "weight": weight}
                            for name, weight in targets
                            if weight
                        ],
                    }
                ],
            },
            {"name": "default", "rules": [{"targets": [{"modelRewrite": MODEL}],
                                           "matches": [{"model": {"value": "base"}}]}]},
        ],
    }


class Front:
    """What clients speak to, and the file that it goes by."""

    def __init__(self, port, metrics_port, file, endpoints):
        self.port, self.metrics_port, self.file = port, metrics_port, file
        self.endpoints = endpoints
        self.engines = [endpoint["port"] for endpoint in endpoints]

    def client(self):
        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0
        )

    def write(self, v1, v2):
        """Replaces the file as an operator does, in one step."""
        content = {"endpoints": self.endpoints, **rules(v1, v2)}
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(content))
        new.rename(self.file)

    def decisions(self):
        samples = metrics(self.metrics_port)
        name = "llm_d_epp_model_rewrite_decisions_total"
        return [
            total(samples, name, model_name="reviews", target_model=f"reviews-v{number}")
            for number in (1, 2)
        ]


@pytest.fixture(scope="module", params=["gateway", "router"])
def front(request, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("models")
    base = free_ports(60)
    port, grpc, health, metrics_port = base, base + 1, base + 2, base + 3
    with contextlib.ExitStack() as stack:
        endpoints = []
        for number in range(2):
            engine = base + 20 + 10 * number
            events, replay = (f"ipc://@llmd-{engine}-{kind}" for kind in ("events", "replay"))
            stack.enter_context(running(
                LLMD, "sim", "--host", "127.0.0.1", "--port", engine, "--model", MODEL,
                "--enable-lora", "--max-loras", "2", "--lora-modules", "reviews-v1=/v1",
                "--lora-modules", "reviews-v2=/v2", "--zmq-endpoint", events,
                "--kv-events-replay-endpoint", replay, "--kv-transfer-port", engine + 3,
                ready=lambda engine=engine: healthy(engine),
            ))
            endpoints.append({
                "name": f"engine-{number}", "address": "127.0.0.1", "port": engine,
                "eventsEndpoint": events, "replayEndpoint": replay,
            })
        made = Front(port, metrics_port, tmp_path / "endpoints.json", endpoints)
        made.write(100, None)
        listen = (
            ["gateway", "--port", port]
            if request.param == "gateway"
            else ["router", "--grpc-port", grpc, "--grpc-health-port", health,
                  "--no-secure-serving"]
        )
        stack.enter_context(running(
            LLMD, *listen, "--host", "127.0.0.1", "--metrics-port", metrics_port,
            "--endpoints-file", made.file, ready=lambda: healthy(metrics_port),
        ))
        if request.param == "router":
            stack.enter_context(envoy(tmp_path, port, grpc))
        wait_until(
            lambda: total(metrics(metrics_port), "llm_d_epp_ready_endpoints") == 2, "endpoints"
        )
        wait_until(lambda: "reviews" in names(made), "models listed")
        yield made


def names(front):
    return [model.id for model in front.client().models.list()]


def test_one_list_of_models(front):
    assert names(front) == [MODEL, "reviews-v1", "reviews-v2", "base", "reviews"]


def test_answers_name_the_model_that_was_asked_for(front):
    answer = front.client().completions.create(model="base", prompt="hello", max_tokens=3)
    assert answer.model == "base"
    assert answer.usage.completion_tokens == 3
    chat = front.client().chat.completions.create(
        model="reviews", messages=[{"role": "user", "content": "hi"}], max_tokens=3
    )
    assert chat.model == "reviews"


def test_streams_name_the_model_that_was_asked_for(front):
    stream = front.client().completions.create(
        model="reviews", prompt="count", max_tokens=40, stream=True,
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    assert {chunk.model for chunk in chunks} == {"reviews"}
    assert len("".join(chunk.choices[0].text for chunk in chunks if chunk.choices)) == 40


def test_unknown_models_and_shapes_of_errors(front):
    with pytest.raises(openai.NotFoundError) as error:
        front.client().completions.create(model="nothing", prompt="a")
    assert "nothing" in error.value.message and "reviews" in error.value.message
    status, _, answer = post(front.port, "/v1/messages", b"{nope")
    assert status == 400
    assert answer["type"] == "error" and answer["error"]["type"] == "invalid_request_error"


def test_objectives_and_fairness_are_counted(front):
    body = {"model": MODEL, "prompt": "x", "max_tokens": 1}
    headers = {"x-llm-d-inference-objective": "batch", "x-llm-d-inference-fairness-id": "team-a"}
    assert post(front.port, "/v1/completions", body, headers)[0] == 200
    samples = metrics(front.metrics_port)
    assert total(samples, "llm_d_epp_request_total", fairness_id="team-a", priority="-1") == 1


def test_an_adapter_of_one_engine_is_found(front):
    def served():
        return [total(metrics(port), "vllm:request_success_total") for port in front.engines]

    adapter = {"lora_name": "late", "lora_path": "/late"}
    assert post(front.engines[1], "/v1/load_lora_adapter", adapter)[0] == 200
    try:
        wait_until(lambda: "late" in names(front), "adapter listed")
        before = served()
        for _ in range(10):
            answer = front.client().completions.create(model="late", prompt="a", max_tokens=1)
            assert answer.model == "late"
        assert [now - then for now, then in zip(served(), before)] == [0, 10]
    finally:
        assert post(front.engines[1], "/v1/unload_lora_adapter", adapter)[0] == 200
        wait_until(lambda: "late" not in names(front), "adapter gone")


def test_an_adapter_is_rolled_out_without_an_error(front):
    client = front.client()
    stop = threading.Event()
    failures, served = [], [0]

    def load():
        while not stop.is_set():
            try:
                answer = client.completions.create(model="reviews", prompt="a", max_tokens=1)
                assert answer.model == "reviews"
                served[0] += 1
            except Exception as error:  # noqa: BLE001 - any failure counts
                failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for v1, v2 in [(90, 10), (50, 50), (None, 100)]:
            front.write(v1, v2)
            start = front.decisions()
            wait_until(lambda: front.decisions()[1] >= start[1] + 5, f"weights {v1}, {v2}")

        def old_version_rests():
            start = front.decisions()
            wait_until(lambda: front.decisions()[1] >= start[1] + 50, "requests")
            return front.decisions()[0] == start[0]

        wait_until(old_version_rests, "all requests go to the new version")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        front.write(100, None)
    assert not failures, failures[:3]
    assert served[0] > 100
