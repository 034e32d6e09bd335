"""Fixtures: real llmd processes, real Envoy, the official OpenAI client, on loopback ports."""

import contextlib
import http.client
import json
import os
import pathlib
import queue
import signal
import socket
import string
import subprocess
import threading
import time

import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LLMD = pathlib.Path(os.environ.get("LLMD", ROOT / ".build/release/llmd"))
DEADLINE = 30.0


def free_ports(count):
    """Ports that were free a moment ago, in a block, so that children of one parent fit."""
    for base in range(20000 + os.getpid() % 5000, 32000, 10):
        sockets = []
        try:
            for port in range(base, base + count):
                sock = socket.socket()
                sockets.append(sock)
                sock.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
        finally:
            for sock in sockets:
                sock.close()
    raise RuntimeError("no block of free ports")


def wait_until(condition, what, deadline=DEADLINE):
    """Polls until `condition()` is truthy and returns its value; nobody listening is no value."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        try:
            value = condition()
        except ConnectionRefusedError:
            # One port of a process listens before the other.
            value = None
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline} s: {what}")


def get(port, path, timeout=5.0):
    """GET on loopback: (status, headers, body text)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read().decode()
    finally:
        connection.close()


def post(port, path, body, headers=None, timeout=30.0):
    """POST of JSON on loopback: (status, headers in lower case, parsed body)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        all_headers = {"content-type": "application/json", **(headers or {})}
        connection.request("POST", path, data, all_headers)
        response = connection.getresponse()
        text = response.read()
        found = {name.lower(): value for name, value in response.getheaders()}
        try:
            return response.status, found, json.loads(text)
        except ValueError:
            return response.status, found, text.decode(errors="replace")
    finally:
        connection.close()


def healthy(port, path="/health"):
    try:
        return get(port, path, timeout=1.0)[0] == 200
    except OSError:
        return False


def listens(port):
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1.0).close()
        return True


def metrics(port):
    """The samples of /metrics: {'name{labels}': value}."""
    status, _, text = get(port, "/metrics")
    assert status == 200
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples


def total(samples, name, **labels):
    """The sum over the samples of a name whose labels include the given ones."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        value
        for key, value in samples.items()
        if key.split("{")[0] == name and all(label in key for label in wanted)
    )


def alive(pid):
    """Whether a process exists and is no zombie."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children(pid):
    """The ids of a process's children."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(stat.parent.name))
    return found


class Process:
    """A child whose output is read as it comes; killed at the end of its scope, and with the
    thread that starts it, be that by kill -9."""

    def __init__(self, *arguments, env=None, own_group=False):
        self.popen = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *(str(argument) for argument in arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            process_group=0 if own_group else None,
        )
        self.lines = queue.Queue()
        self.stderr = []
        self.readers = [
            threading.Thread(target=self._read_stdout, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self.readers:
            reader.start()

    def _read_stdout(self):
        for line in self.popen.stdout:
            self.lines.put(line)

    def _read_stderr(self):
        for line in self.popen.stderr:
            self.stderr.append(line)

    def event(self, kind, deadline=DEADLINE, **fields):
        """The next JSON line with this `event` and these fields."""
        end = time.monotonic() + deadline
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                error = "".join(self.stderr[-20:])
                raise AssertionError(f"no event {kind} {fields} in time; stderr:\n{error}")
            value = json.loads(line)
            if value["event"] == kind and all(value.get(k) == v for k, v in fields.items()):
                return value

    def rest(self):
        """The lines of standard output that nobody has read."""
        return [self.lines.get() for _ in range(self.lines.qsize())]

    def wait(self, deadline=DEADLINE):
        self.popen.wait(deadline)
        for reader in self.readers:
            reader.join(deadline)
        return self.popen.returncode

    def kill(self):
        self.popen.kill()
        self.popen.wait()

    def stop(self):
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(15)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Stack(Process):
    """`llmd up` on free ports."""

    def __init__(self, *arguments, **options):
        self.port = free_ports(100)
        super().__init__(
            LLMD, "up", "--port", self.port, "--metrics-port", self.port + 1,
            "--child-port", self.port + 10, *arguments, **options,
        )
        try:
            self.ready = self.event("ready")
        except AssertionError:
            self.stop()
            raise
        self.metrics_port = self.port + 1
        self.children = {child["name"]: child for child in self.ready["children"]}

    def client(self, **options):
        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0, **options
        )

    def engine_port(self, name):
        return int(self.children[name]["address"].rpartition(":")[2])

    def engines(self):
        return [name for name, child in self.children.items() if child["kind"] == "engine"]


@pytest.fixture(scope="session")
def stack():
    """One stack for the tests that leave it as they found it."""
    with Stack() as running:
        yield running


@contextlib.contextmanager
def running(*arguments, ready=None, **options):
    """A process that is ready when `ready()` says so."""
    with Process(*arguments, **options) as process:

        def check():
            if process.popen.poll() is not None:
                raise AssertionError(f"{arguments} ended: {''.join(process.stderr)}")
            return ready is None or ready()

        wait_until(check, f"{arguments} ready")
        yield process


@contextlib.contextmanager
def envoy(tmp_path, port, grpc_port, transport=""):
    """Envoy on `port`, which asks the router on `grpc_port`."""
    import envoy as package

    config = tmp_path / "envoy.yaml"
    template = string.Template((pathlib.Path(__file__).parent / "envoy.yaml").read_text())
    config.write_text(
        template.substitute(LISTEN=port, ROUTER=grpc_port, TRANSPORT=transport)
    )

    def answers():
        try:
            get(port, "/health", timeout=1.0)
        except OSError:
            return False
        return True

    with running(
        pathlib.Path(package.__file__).parent / "_bin" / "envoy", "-c", config,
        "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", ready=answers,
    ) as process:
        yield process
