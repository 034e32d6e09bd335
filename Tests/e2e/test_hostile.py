"""Bad input: a clear error or a bounded refusal, and other clients are served meanwhile."""

import concurrent.futures
import contextlib
import json
import select
import socket
import threading
import time

import pytest
from conftest import LLMD, free_ports, get, healthy, post, running
from roles import DEFAULTS, engines, gateway, settle

MODEL = "llmd-sim"
MEBI = 1 << 20


@contextlib.contextmanager
def others_are_served(stack):
    """Asks short questions all the while; every one must be answered."""
    stop = threading.Event()
    answers = []

    def ask():
        while not stop.is_set():
            body = {"model": MODEL, "prompt": "hello there", "max_tokens": 2}
            answers.append(post(stack.port, "/v1/completions", body)[0])

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            stop.set()
        asking.result(60)
    assert answers and set(answers) == {200}


def raw(stack, data, timeout=30.0):
    """Sends bytes as they are; returns what comes until the server closes or `timeout`."""
    with socket.create_connection(("127.0.0.1", stack.port), timeout) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in data:
                connection.sendall(piece)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                answer += chunk
        return answer


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b'{"model": "llmd-sim", "prompt": "a"', "JSON"),
        (b'{"model": "llmd-sim", "prompt": nope}', "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"", "JSON"),
        (b'{"prompt": "a"}', "model"),
        (b'{"model": 7, "prompt": "a"}', "model"),
        (b'{"model": "llmd-sim"}', "prompt"),
        (b'{"model": "llmd-sim", "prompt": "a", "max_tokens": "x"}', "max_tokens"),
        (b"[" * 100_000, "deep"),
    ],
)
def test_bad_bodies(stack, body, part):
    status, _, answer = post(stack.port, "/v1/completions", body)
    assert status == 400
    error = answer["error"]
    assert error["code"] == 400
    assert part.lower() in json.dumps(error).lower()


def test_100_mb_body_is_refused_early(stack):
    head = (
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % (100 * MEBI)
    )
    with others_are_served(stack):
        answer = raw(stack, [head] + [b"x" * MEBI] * 100)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":413' in answer


def test_100_mb_chunked_body_is_refused(stack):
    head = (
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n" % MEBI + b" " * MEBI + b"\r\n"
    with others_are_served(stack):
        answer = raw(stack, [head] + [chunk] * 100)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_body_that_stops_halfway_times_out():
    head = (
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        b"content-length: 1000\r\n\r\n{"
    )
    port = free_ports(2)
    with running(
        LLMD, "gateway", "--host", "127.0.0.1", "--port", port, "--metrics-port", port + 1,
        "--idle-timeout", "1", ready=lambda: healthy(port),
    ) as gateway:
        gateway.port = port
        answer = raw(gateway, [head], timeout=10.0)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_400_tricklers_are_cut_off():
    """Every byte is progress, but a head and a body have to end in time."""
    head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n"
    base = free_ports(20)
    with (
        engines([base + 10]),
        gateway(base, DEFAULTS, [base + 10], "--header-timeout", "1", "--body-timeout", "1")
        as process,
        contextlib.ExitStack() as connections,
    ):
        process.port = base
        trickling, answers = set(), []
        for number in range(400):
            connection = socket.create_connection(("127.0.0.1", base), 10)
            connections.enter_context(connection)
            connection.sendall(head + (b"x: " if number % 2 else b"\r\n"))
            trickling.add(connection)
        end = time.monotonic() + 20
        with others_are_served(process):
            while trickling and time.monotonic() < end:
                readable, _, _ = select.select(trickling, [], [], 0.05)
                for connection in readable:
                    answers.append(connection.recv(4096)[:13])
                    trickling.remove(connection)
                for connection in trickling:
                    connection.sendall(b" ")
        assert answers == [b"HTTP/1.1 408 "] * 400
        settle(base + 2)


def test_header_of_1_mb_is_refused(stack):
    data = b"GET /v1/models HTTP/1.1\r\nhost: a\r\nx-big: " + b"a" * MEBI + b"\r\n\r\n"
    with others_are_served(stack):
        answer = raw(stack, [data])
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\nhost: a\n\n",
        b"GET / HTTP/1.1\r\nx y: 1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_smuggling_is_refused(stack, head):
    answer = raw(stack, [head])
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")


def test_2000_idle_connections(stack):
    with contextlib.ExitStack() as connections:
        for _ in range(2000):
            connection = socket.create_connection(("127.0.0.1", stack.port), 10)
            connections.enter_context(connection)
        with others_are_served(stack):
            assert get(stack.port, "/v1/models")[0] == 200


def test_unknown_route(stack):
    status, _, text = get(stack.port, "/v1/nothing")
    assert status == 404
    assert json.loads(text)
