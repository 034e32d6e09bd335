"""`llmd up` as a supervisor: start, faults, stop."""

import concurrent.futures
import hashlib
import json
import os
import signal
import socket
import subprocess
import time

import pytest

from conftest import (
    LLMD, Process, Stack, alive, children, free_ports, metrics, post, total, wait_until,
)

MODEL = "llmd-sim"


def test_sigterm_stops_everything():
    with Stack() as stack:
        pids = [child["pid"] for child in stack.children.values()]
        assert all(alive(pid) for pid in pids)
        stack.popen.send_signal(signal.SIGTERM)
        assert stack.wait() == 0
        assert not any(alive(pid) for pid in pids)


def test_ctrl_c_stops_everything():
    """Ctrl-C goes to the whole process group of a terminal."""
    with Stack(own_group=True) as stack:
        pids = [child["pid"] for child in stack.children.values()]
        assert all(os.getpgid(pid) != stack.popen.pid for pid in pids)
        os.killpg(stack.popen.pid, signal.SIGINT)
        assert stack.wait() == 0
        assert not any(alive(pid) for pid in pids)
    assert not stack.stderr
    assert all(json.loads(line)["event"] == "state" for line in stack.rest())


def test_ctrl_c_while_starting_is_a_clean_end():
    base = free_ports(100)
    with Process(
        LLMD, "up", "--port", base, "--metrics-port", base + 1, "--child-port", base + 10,
        own_group=True,
    ) as stack:
        pids = wait_until(lambda: children(stack.popen.pid), "a child")
        os.killpg(stack.popen.pid, signal.SIGINT)
        assert stack.wait() == 0
        assert not any(alive(pid) for pid in pids)
    assert not stack.stderr


def test_kill_9_of_the_parent_leaves_no_orphan():
    with Stack() as stack:
        pids = [child["pid"] for child in stack.children.values()]
        stack.popen.kill()
        stack.popen.wait()
        wait_until(lambda: not any(alive(pid) for pid in pids), "children gone", 5)


def test_port_in_use_is_one_clear_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        base = free_ports(100)
        result = subprocess.run(
            [LLMD, "up", "--port", str(port), "--metrics-port", str(base),
             "--child-port", str(base + 10)],
            capture_output=True, text=True, timeout=60,
        )
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert str(port) in result.stderr and "in use" in result.stderr


def test_usage_errors_are_2():
    for arguments in (["--prefill", "0"], ["--policy", "nonsense"], ["--nonsense"]):
        result = subprocess.run(
            [LLMD, "up", *arguments], capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 2, arguments
        assert result.stderr.strip()


def test_bad_config_names_file_and_line(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: queue-scorerr\n"
    )
    base = free_ports(100)
    result = subprocess.run(
        [LLMD, "up", "--port", str(base), "--metrics-port", str(base + 1),
         "--child-port", str(base + 10), "--config", str(config)],
        capture_output=True, text=True, timeout=60,
    )
    assert result.returncode == 1
    assert f"{config}:4" in result.stderr
    assert "queue-scorer" in result.stderr


def test_killed_engine_is_avoided_and_comes_back():
    with Stack() as stack:
        victim = "decode-0"

        def ask(number, tokens=600):
            # 600 tokens take three seconds: all requests are under way when the engine dies.
            body = {"model": MODEL, "prompt": f"{number} " + "word " * 40, "max_tokens": tokens,
                    "ignore_eos": True}
            try:
                status, headers, _ = post(stack.port, "/v1/completions", body)
                return status, headers.get("x-llmd-decode")
            except OSError:
                return None, None

        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            asked = [pool.submit(ask, number) for number in range(50)]
            gateway = stack.metrics_port
            wait_until(
                lambda: total(metrics(gateway), "llm_d_epp_request_running") >= 40,
                "requests running",
            )
            os.kill(stack.children[victim]["pid"], signal.SIGKILL)
            killed = time.monotonic()
            results = [future.result(60) for future in asked]
            # Requests on the dead engine fail; all others finish, and nothing hangs.
            assert all(status in (200, 502, 503) for status, _ in results), results
            assert sum(status == 200 for status, _ in results) >= 15
            # Within two seconds nothing new goes there, until it is back.
            time.sleep(max(0, killed + 2 - time.monotonic()))
            late = [future.result(60) for future in
                    [pool.submit(ask, number, 4) for number in range(100, 140)]]
            assert all(status == 200 for status, _ in late), late
        restarted = stack.event("restarted", name=victim)
        assert alive(restarted["pid"])

        def used_again():
            return any(ask(number, 2)[1] == victim for number in range(1000, 1020))

        wait_until(used_again, "the engine is used again")
        assert stack.popen.poll() is None


def test_no_disagg():
    with Stack("--no-disagg", "--engines", "2") as stack:
        assert stack.engines() == ["engine-0", "engine-1"]
        body = {"model": MODEL, "prompt": "word " * 40, "max_tokens": 4}
        status, headers, _ = post(stack.port, "/v1/completions", body)
        assert status == 200
        assert "x-llmd-prefill" not in headers
        assert headers["x-llmd-decode"].startswith("engine-")


def test_an_adapter_is_a_model_with_a_cache_of_its_own():
    lora = ["--enable-lora", "--lora-modules", "adapter-a=/a"]
    with Stack(*(f"--engine-argument={argument}" for argument in lora)) as stack:
        def ask(model):
            body = {"model": model, "prompt": "word " * 40, "max_tokens": 4}
            status, headers, answer = post(stack.port, "/v1/completions", body)
            assert status == 200
            assert answer["model"] == model
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            return "x-llmd-prefill" in headers, cached

        assert [model.id for model in stack.client().models.list()] == [MODEL, "adapter-a"]
        assert ask("adapter-a") == (True, 0)
        assert ask("adapter-a") == (False, 192)
        assert ask(MODEL) == (True, 0)


def test_state_lines():
    with Stack() as stack:
        post(stack.port, "/v1/completions", {"model": MODEL, "prompt": "a b", "max_tokens": 1})
        state = stack.event("state")
        while state["requests"] < 1:
            state = stack.event("state")
        assert set(state["engines"]) == set(stack.engines())
        assert 0 <= state["prefix_hit_ratio"] <= 1


def test_engine_that_dies_at_start_is_one_clear_line():
    base = free_ports(100)
    with Process(
        LLMD, "up", "--port", base, "--metrics-port", base + 1, "--child-port", base + 10,
        "--engine-argument=--block-size=0",
    ) as stack:
        assert stack.wait() == 1
    lines = "".join(stack.stderr).strip().splitlines()
    assert len(lines) == 1
    assert "ended at start" in lines[0] and "block size" in lines[0]


def test_options_after_the_dashes_are_the_gateways(tmp_path):
    key = "team-a-key"
    digest = hashlib.sha256(key.encode()).hexdigest()
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n- {{name: team-a, sha256: {digest}}}\n")
    arguments = ("--no-disagg", "--engines", "1", "--", "--api-keys", keys, "--access-log", "-")
    with Stack(*arguments) as stack:
        body = {"model": MODEL, "prompt": "a b", "max_tokens": 1}
        assert post(stack.port, "/v1/completions", body)[0] == 401
        status, _, _ = post(
            stack.port, "/v1/completions", body, {"authorization": f"Bearer {key}"})
        assert status == 200
        # What the gateway writes to its standard output is not lost.
        wait_until(lambda: any('"key":"team-a"' in line for line in stack.stderr), "a log line")


@pytest.mark.parametrize("options, problem", [
    (["--no-such-option"], "no-such-option"), (["--idle-timeout", "0"], "idle-timeout"),
    (["--port", "1"], "--port"),
])
def test_wrong_options_of_the_gateway_start_nothing(options, problem):
    base = free_ports(100)
    with Process(
        LLMD, "up", "--port", base, "--metrics-port", base + 1, "--child-port", base + 10, "--",
        *options,
    ) as stack:
        assert stack.wait() == 2
    assert problem in "".join(stack.stderr)
