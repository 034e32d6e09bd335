"""Many requests, and many that end before their time: nobody is left without an answer, and nothing
stays behind. SCALE_REQUESTS (10000) says how many requests go through Envoy."""

import contextlib
import json
import os
import random
import socket
import struct

import pytest
from conftest import envoy, free_ports, metrics, total, wait_until
from dataplane import DataPlane, HTTP2Client
from load import Load
from roles import DEFAULTS, engines, gateway, router, settle

COUNT = int(os.environ.get("SCALE_REQUESTS", 10_000))
CLIENTS = 10_000
MODEL = "llmd-sim"
# What allocator and histograms may still add once all has been done once.
SLACK = 6 << 20
FLOW = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins:
- {type: precise-prefix-cache-producer}
- type: prefix-cache-scorer
  parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}
- {type: concurrency-detector, parameters: {maxConcurrency: CONCURRENCY}}
flowControl:
  saturationDetector: {pluginRef: concurrency-detector}
"""


def test_requests_of_4_kib_through_envoy(tmp_path):
    """All prompts of the first half are new, and come once more in the second: of 100,000 requests
    the index of prefixes remembers few, so it forgets all the while."""

    def body(number):
        start = b'{"model":"llmd-sim","max_tokens":1,"prompt":"%d ' % (number % (COUNT // 2))
        return start + b"word " * ((4094 - len(start)) // 5) + b'"}'

    base = free_ports(20)
    ports = range(base + 4, base + 20)
    metrics_port = base + 2
    with (
        engines(ports), router(base, DEFAULTS, ports), envoy(tmp_path, base + 3, base),
    ):
        load = Load(base + 3, body)
        load.run(COUNT // 2, deadline=300)
        half = settle(metrics_port)
        load.run(COUNT - COUNT // 2, deadline=300)
        whole = settle(metrics_port)
        print(f"{load.ends}, the longest took {load.longest:.3f} s; {half:.0f} B, {whole:.0f} B")
        assert load.ends == {200: COUNT}
        assert whole < half + SLACK
        samples = metrics(metrics_port)
        assert total(samples, "llm_d_epp_request_total") == COUNT
        assert total(samples, "llm_d_epp_extproc_streams_total", code="0") >= COUNT

# What a request has come to when its client leaves, and how many do at the same time.
STAGES = ["head", "part of the body", "tokens", "queue", "decided", "responding"]
EACH = 20
TEXT = {"model": MODEL, "prompt": "text", "user": "silent"}
SILENT = {"model": MODEL, "prompt": [1, 2, 3], "user": "silent"}
BODIES = {
    "head": b"", "part of the body": b'{"model": "llmd-sim", "pro',
    "tokens": json.dumps(TEXT).encode(), "queue": json.dumps(SILENT).encode(),
    "decided": json.dumps(SILENT).encode(),
    "responding": json.dumps({"model": MODEL, "prompt": [1, 2, 3], "stream": True}).encode(),
}


class Sockets:
    """HTTP/1.1, a connection for each request."""

    def __init__(self, port):
        self.port = port

    def start(self, stage):
        body = BODIES[stage]
        is_whole = stage not in ("head", "part of the body")
        client = socket.create_connection(("127.0.0.1", self.port), 20)
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body) if is_whole else 1000, body))
        return client

    def respond(self, clients):
        for client in clients:
            received = b""
            while b"data: 1\n\n" not in received:
                chunk = client.recv(4096)
                assert chunk, received
                received += chunk

    def leave(self, clients, random):
        for client in clients:
            if random.random() < 0.5:  # With a reset.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()


class Streams:
    """h2c, all requests of a round on one connection."""

    def __init__(self, port, kind):
        self.client = kind(port)

    def leave(self, streams, random):
        """By resets, or all at once with the connection."""
        if random.random() < 0.7:
            for stream in streams:
                self.client.reset(stream)
            # What is not read would be lost with the connection.
            self.client.ping()
        self.client.close()


class GatewayStreams(Streams):
    def __init__(self, port):
        super().__init__(port, HTTP2Client)

    def start(self, stage):
        stream = self.client.open("/v1/completions", [("content-type", "application/json")])
        is_whole = stage not in ("head", "part of the body")
        if BODIES[stage]:
            self.client.send(stream, BODIES[stage], end=is_whole)
        self.client.flush()
        return stream

    def respond(self, streams):
        self.client.wait(
            lambda: all(b"data: 1\n\n" in self.client.data[stream] for stream in streams),
            "the first event of each")


class ExtProcStreams(Streams):
    def __init__(self, port):
        super().__init__(port, DataPlane)

    def start(self, stage):
        stream = self.client.begin()
        if BODIES[stage]:
            self.client.body(stream, BODIES[stage], end=stage != "part of the body")
        self.client.flush()
        return stream

    def respond(self, streams):
        self.client.wait(
            lambda: all(self.client.destination(stream) for stream in streams), "decisions")
        for stream in streams:
            self.client.respond(stream, b"data: 1\n\n")
        self.client.wait(
            lambda: all(len(list(self.client.messages(stream))) >= 4 for stream in streams),
            "answers to the responses")


@pytest.mark.parametrize("front", ["ext-proc", "envoy", "gateway", "gateway-h2c"])
def test_clients_that_leave(tmp_path, front):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    base = free_ports(20)
    ports = [base + 4]
    config = FLOW.replace("CONCURRENCY", str(3 * EACH))
    make = {"ext-proc": ExtProcStreams, "gateway-h2c": GatewayStreams}.get(front, Sockets)
    with contextlib.ExitStack() as stack:
        stack.enter_context(engines(ports))
        port, metrics_port = base, base + 2
        count = "llm_d_epp_extproc_streams_inflight"
        if front.startswith("gateway"):
            count = "llmd_gateway_requests_in_flight"
            stack.enter_context(gateway(port, config, ports))
        else:
            stack.enter_context(router(port, config, ports))
        if front == "envoy":
            port = base + 3
            stack.enter_context(envoy(tmp_path, port, base))

        def open_at_engine():
            return total(metrics(ports[0]), "engine_open_requests")

        def state():
            samples = metrics(metrics_port)
            return (
                total(samples, "llm_d_epp_inflight_requests"),
                total(samples, "llm_d_epp_flow_control_queue_size"), total(samples, count),
            )

        def reach(*states):
            try:
                wait_until(lambda: state() in states, states)
            except AssertionError:
                raise AssertionError(f"{state()} and not {states}") from None

        rounds = CLIENTS // (EACH * len(STAGES))
        early = None
        for number in range(rounds):
            clients = make(port)
            started = {stage: [clients.start(stage) for _ in range(EACH)]
                       for stage in ("decided", "responding", "tokens")}
            clients.respond(started["responding"])
            # Who waits for tokens for too long goes without.
            reach((2 * EACH, 0, 3 * EACH), (3 * EACH, 0, 3 * EACH))
            for stage in ("head", "part of the body", "queue"):
                started[stage] = [clients.start(stage) for _ in range(EACH)]
            reach((2 * EACH, EACH, 6 * EACH), (3 * EACH, EACH, 6 * EACH))
            everyone = [client for stage in STAGES for client in started[stage]]
            generator.shuffle(everyone)
            clients.leave(everyone, generator)
            memory = settle(metrics_port)
            wait_until(lambda: open_at_engine() == 0, "the engine's requests have ended")
            early = memory if number == rounds // 4 else early
        print(f"{front}: {rounds * EACH * len(STAGES)} clients; {early:.0f} B, {memory:.0f} B")
        assert memory < early + SLACK
        samples = metrics(metrics_port)
        assert total(samples, "llm_d_epp_request_error_total", error_code="499") > 0
