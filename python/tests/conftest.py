"""The package from its folder, over the library that `make connector` builds."""

import contextlib
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault(
    "LLMD_CONNECTOR_LIBRARY", str(ROOT / ".build/connector/libllmd_connector.so.0"))
sys.path.insert(0, str(ROOT / "python"))

import llmd_connector  # noqa: E402

SECONDS = 30.0


@contextlib.contextmanager
def process(script, *arguments):
    """Another process, which is told to end by closing its input and must end well."""
    child = subprocess.Popen(
        [sys.executable, ROOT / "python/tests" / script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")})
    try:
        yield child
        child.stdin.close()
        assert child.wait(SECONDS) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.fixture
def engines():
    """Two engines of this process, and the port of the first."""
    with llmd_connector.Engine() as server, llmd_connector.Engine() as client:
        yield server, client, server.listen()
