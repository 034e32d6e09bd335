"""What an agent in the shape of NIXL's is made of: options, other agents, requests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, Optional

from .errors import ConnectorError
from .memory import Region
from .nixl_lists import Group, Registry
from .peer import Peer
from .transfer import Transfer


class nixl_agent_config:
    """Options of an agent. Those of NIXL that mean nothing here are taken and ignored.

    `host` is a numeric address of this machine that peers reach; default $LLMD_CONNECTOR_HOST, or
    127.0.0.1. Whoever reaches it may read and write registered memory. `paths`: those allowed, of
    memfd, cma and tcp. `admits_tracers`: lets all processes of this user reach this one by cma
    where kernel.yama.ptrace_scope is 1, and debug it.
    """

    def __init__(
        self,
        enable_prog_thread: bool = True,
        enable_listen_thread: bool = False,
        listen_port: int = 0,
        capture_telemetry: bool = False,
        num_threads: int = 0,
        backends: Sequence[str] = ("LLMD",),
        *,
        host: Optional[str] = None,
        paths: Optional[Iterable[str]] = None,
        admits_tracers: bool = False,
    ) -> None:
        self.backends = list(backends)
        self.host = host or os.environ.get("LLMD_CONNECTOR_HOST") or "127.0.0.1"
        self.paths = None if paths is None else tuple(paths)
        self.admits_tracers = admits_tracers


class Remote:
    """An agent whose metadata is known."""

    def __init__(self, blob: dict[str, Any]) -> None:
        self.name: str = blob["name"]
        self.engine_id = bytes.fromhex(blob["engine_id"])
        self.host: str = blob["host"]
        self.port: int = blob["port"]
        self.registry = Registry()
        self.load(blob)
        self.peer: Optional[Peer] = None

    def load(self, blob: dict[str, Any]) -> None:
        registry = Registry()
        for address, *region in blob["regions"]:
            registry.add(address, Region(*region), None)
        self.registry = registry


class Request:
    """A transfer that can be posted again and again, one post at a time."""

    def __init__(
        self, operation: int, remote: Remote, groups: list[Group], message: bytes
    ) -> None:
        self.operation = operation
        self.remote = remote
        self.groups = groups
        self.message = message
        self.waiting: list[Group] = []
        self.transfers: list[Transfer] = []
        self.notices = 0  # still to be sent behind the last group
        self.error: Optional[ConnectorError] = None
        self.state = ""
        self.began = 0.0
        self.telemetry = SimpleNamespace(
            startTime=0, postDuration=0, xferDuration=0, totalBytes=0, descCount=0)
