"""Roles of llmd one by one, model servers for them, and what must not stay behind in them."""

import contextlib
import pathlib
import sys

from conftest import LLMD, healthy, listens, metrics, running, total, wait_until

MODEL = "llmd-sim"
# Upstream's default profile: queue, KV cache and the approximate prefix.
DEFAULTS = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


@contextlib.contextmanager
def engines(ports, broken=None):
    """Model servers of engines.py; all are broken if one way of it is given."""
    script = pathlib.Path(__file__).parent / "engines.py"
    arguments = ["--broken", broken] if broken else []
    with running(sys.executable, script, *arguments, *ports, ready=lambda: listens(ports[-1])):
        yield


@contextlib.contextmanager
def sim(port, *arguments):
    """`llmd sim`, with a port of its own for transfers behind the other one."""
    with running(
        LLMD, "sim", "--host", "127.0.0.1", "--port", port, "--model", MODEL,
        "--kv-transfer-port", port + 1, *arguments, ready=lambda: healthy(port),
    ) as process:
        yield process


@contextlib.contextmanager
def role(name, config, endpoints, metrics_port, *arguments):
    # An endpoint is a port, or the port and what else is to be said.
    servers = [
        f"--endpoint=name=engine-{index},address=127.0.0.1:{endpoint}"
        for index, endpoint in enumerate(endpoints)
    ]
    with running(
        LLMD, name, "--host", "127.0.0.1", "--metrics-port", metrics_port, "--config-text", config,
        *arguments, *servers, ready=lambda: healthy(metrics_port),
    ) as process:
        yield process


@contextlib.contextmanager
def router(port, config, endpoints):
    """`llmd router`: ext-proc on `port`, health and metrics on the next two."""
    with role("router", config, endpoints, port + 2, "--grpc-port", port, "--grpc-health-port",
              port + 1, "--no-secure-serving") as process:
        yield process


@contextlib.contextmanager
def gateway(port, config, endpoints, *arguments):
    """`llmd gateway` on `port`, its metrics two further."""
    with role("gateway", config, endpoints, port + 2, "--port", port, *arguments) as process:
        yield process


def left_over(samples):
    """Everything that is there for as long as a request is."""
    names = [
        "llm_d_epp_request_running", "llm_d_epp_inflight_requests", "llm_d_epp_inflight_tokens",
        "llm_d_epp_extproc_streams_inflight", "llm_d_epp_flow_control_queue_size",
        "llm_d_epp_flow_control_queue_bytes", "llmd_gateway_requests_in_flight",
    ]
    return {name: total(samples, name) for name in names if total(samples, name)}


def settle(metrics_port):
    """Waits until nothing is left over; gives the resident memory."""
    wait_until(lambda: not left_over(metrics(metrics_port)), "counters are zero")
    return metrics(metrics_port)["process_resident_memory_bytes"]
