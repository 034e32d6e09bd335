"""Keys, TLS, CORS and the access log, asked by the clients that people use."""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import signal
import ssl
import subprocess
import types

import openai
import pytest
from conftest import DEADLINE, LLMD, free_ports, get, healthy, metrics, post, running, total
from conftest import wait_until

# It asks for nothing over the network then.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402

MODEL = "llmd-sim"
KEY = "sk-of-team-a"
MESSAGES = [{"role": "user", "content": "The quick brown fox jumps over the lazy dog."}]


def keys_file(folder, keys):
    """A file of keys: {key: limits}."""
    entries = [
        {"name": f"team-{index}", "sha256": hashlib.sha256(key.encode()).hexdigest(), **limits}
        for index, (key, limits) in enumerate(keys.items())
    ]
    path = folder / "keys.json"
    temporary = folder / "keys.json.new"
    temporary.write_text(json.dumps({"keys": entries}))
    temporary.rename(path)
    return path


@contextlib.contextmanager
def gateway(*arguments, ready=None):
    """A gateway with these options before one engine."""
    port = free_ports(4)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            running(LLMD, "sim", "--port", port + 2, ready=lambda: healthy(port + 2))
        )
        process = stack.enter_context(
            running(
                LLMD, "gateway", "--host", "127.0.0.1", "--port", port, "--metrics-port", port + 1,
                "--endpoint", f"name=engine,address=127.0.0.1:{port + 2}", *arguments,
                ready=lambda: ready(port) if ready else healthy(port),
            )
        )
        wait_until(
            lambda: total(metrics(port + 1), "llm_d_epp_ready_endpoints") == 1, "an engine"
        )
        yield types.SimpleNamespace(
            port=port, metrics_port=port + 1, engine_port=port + 2, process=process,
            url=f"http://127.0.0.1:{port}/v1",
        )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A gateway with a key that knows no limits, CORS and an access log."""
    folder = tmp_path_factory.mktemp("gateway")
    log = folder / "access.log"
    with gateway(
        "--api-keys", keys_file(folder, {KEY: {}}), "--access-log", log,
        "--cors-origins", "https://chat.example",
    ) as running_gateway:
        running_gateway.log = log
        yield running_gateway


def lines(log):
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def line_of(log, request_id):
    """The line of a request, which is written a moment after its end."""
    def find():
        return [line for line in lines(log) if line["request_id"] == request_id]

    return wait_until(find, f"a line of {request_id}")[0]


def test_openai_with_a_key(guarded):
    client = openai.OpenAI(base_url=guarded.url, api_key=KEY, max_retries=0)
    assert MODEL in [model.id for model in client.models.list()]
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5)
    assert answer.usage.completion_tokens == 5
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=5, stream=True,
        stream_options={"include_usage": True},
        extra_headers={"x-request-id": "streamed"},
    )
    chunks = list(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    line = line_of(guarded.log, "streamed")
    assert line["status"] == 200 and line["key"] == "team-0" and line["endpoint"] == "engine"
    assert line["completion_tokens"] == 5
    assert line["prompt_tokens"] == chunks[-1].usage.prompt_tokens
    assert "The quick" not in guarded.log.read_text() and KEY not in guarded.log.read_text()


@pytest.mark.parametrize("key", ["", "sk-wrong"])
def test_openai_without_the_key(guarded, key):
    client = openai.OpenAI(base_url=guarded.url, api_key=key or "none", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as error:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5)
    assert error.value.code == "invalid_api_key"
    assert total(metrics(guarded.metrics_port), "llmd_gateway_keys_refused_total") >= 1


@pytest.mark.parametrize("stream", [False, True])
def test_litellm(guarded, stream):
    answer = litellm.completion(
        model=f"openai/{MODEL}", api_base=guarded.url, api_key=KEY, messages=MESSAGES,
        max_tokens=5, stream=stream, num_retries=0,
    )
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        assert answer.usage.completion_tokens == 5
        text = answer.choices[0].message.content
    assert text


def test_litellm_without_the_key(guarded):
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(
            model=f"openai/{MODEL}", api_base=guarded.url, api_key="wrong", messages=MESSAGES,
            max_tokens=5, num_retries=0,
        )


def test_cors(guarded):
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=DEADLINE)
    with contextlib.closing(connection):
        connection.request(
            "OPTIONS", "/v1/chat/completions",
            headers={"origin": "https://chat.example", "access-control-request-method": "POST",
                     "access-control-request-headers": "authorization"},
        )
        response = connection.getresponse()
        assert response.status == 204
        assert response.getheader("access-control-allow-origin") == "https://chat.example"
        assert response.getheader("access-control-allow-headers") == "authorization"


def test_a_limit_is_told_in_openais_headers(tmp_path):
    keys = keys_file(tmp_path, {KEY: {"requestsPerMinute": 2, "tokensPerMinute": 10000}})
    with gateway("--api-keys", keys) as limited:
        client = openai.OpenAI(base_url=limited.url, api_key=KEY, max_retries=0)
        for left in ["1", "0"]:
            raw = client.chat.completions.with_raw_response.create(
                model=MODEL, messages=MESSAGES, max_tokens=5
            )
            assert raw.headers["x-ratelimit-remaining-requests"] == left
            assert raw.headers["x-ratelimit-limit-tokens"] == "10000"
        with pytest.raises(openai.RateLimitError) as error:
            client.models.list()
        assert 1 <= int(error.value.response.headers["retry-after"]) <= 30
        # The file is read again when it changes.
        keys_file(tmp_path, {KEY: {}, "another": {}})

        def is_free():
            return post(limited.port, "/v1/completions", {"model": MODEL, "prompt": "a"},
                        {"x-api-key": "another"})[0] == 200

        wait_until(is_free, "the other key")
        assert client.models.list().data


def test_the_access_log_is_rotated(tmp_path):
    log = tmp_path / "access.log"
    with gateway("--access-log", log) as logged:
        get(logged.port, "/v1/models")
        wait_until(lambda: len(lines(log)) == 1, "a line")
        log.rename(tmp_path / "access.log.1")
        logged.process.popen.send_signal(signal.SIGHUP)
        get(logged.port, "/v1/models")
        wait_until(lambda: len(lines(log)) == 1, "a line in the new file")
        assert len(lines(tmp_path / "access.log.1")) == 1


def certificate(folder, name):
    """A certificate that signs itself, as a mounted secret would change it: key, then both."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", folder / "tls.key.new", "-out", folder / "tls.crt.new"],
        check=True, capture_output=True,
    )
    for part in ["tls.key", "tls.crt"]:
        (folder / f"{part}.new").rename(folder / part)
    return pathlib.Path(folder / "tls.crt").read_text()


def served_certificate(port):
    try:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=5.0)
    except OSError:
        return None


def test_tls_with_reload(tmp_path):
    first = certificate(tmp_path, "first")
    ready = lambda port: served_certificate(port) is not None  # noqa: E731
    with gateway("--cert-path", tmp_path, ready=ready) as secure:
        context = ssl.create_default_context(cafile=tmp_path / "tls.crt")
        for protocol in ["http/1.1", "h2"]:
            context.set_alpn_protocols([protocol])
            connection = http.client.HTTPSConnection(
                "127.0.0.1", secure.port, timeout=DEADLINE, context=context
            )
            with contextlib.closing(connection):
                connection.connect()
                assert connection.sock.selected_alpn_protocol() == protocol
                if protocol == "http/1.1":
                    connection.request("GET", "/v1/models")
                    assert connection.getresponse().status == 200
        assert served_certificate(secure.port).split() == first.split()
        second = certificate(tmp_path, "second")
        wait_until(
            lambda: (served_certificate(secure.port) or "").split() == second.split(),
            "the new certificate",
        )


def test_certificates_of_the_router_and_the_indexer_are_read_again(tmp_path):
    first = certificate(tmp_path, "first")
    port = free_ports(5)
    with contextlib.ExitStack() as stack:
        for command in [
            ["router", "--grpc-port", port, "--grpc-health-port", port + 1,
             "--metrics-port", port + 3],
            ["indexer", "--port", port + 2, "--secure-serving", "--metrics-port", port + 4],
        ]:
            stack.enter_context(
                running(LLMD, *command, "--host", "127.0.0.1", "--cert-path", tmp_path)
            )
        ports = [port, port + 2]

        def served(expected):
            return all((served_certificate(p) or "").split() == expected.split() for p in ports)

        wait_until(lambda: served(first), "the first certificate")
        second = certificate(tmp_path, "second")
        wait_until(lambda: served(second), "the new certificate")
