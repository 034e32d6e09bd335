"""What this machine, a process and an engine can do and have done."""

from __future__ import annotations

import ctypes
import logging
from typing import Any, NamedTuple

from . import _abi
from ._abi import lib

log = logging.getLogger("llmd_connector")


def version() -> str:
    """Of the library."""
    return str(lib.lc_version().decode())


def capabilities() -> str:
    """What this machine and process can do, a line each: libraries, limits. Opens the libraries."""
    length = lib.lc_capabilities(None, 0)
    text = ctypes.create_string_buffer(length + 1)
    lib.lc_capabilities(text, length + 1)
    return text.value.decode()


class Limit(NamedTuple):
    """A limit of the system on this process."""

    name: str
    is_low: bool  #: it slows something down or forbids it
    text: str  #: the value; if it is low, what that costs and how to change it


def limits() -> list[Limit]:
    """The limits now."""
    raw = (_abi.Limit * _abi.LIMIT_COUNT)()
    lib.ct_limits(raw)
    return [Limit(limit.name.decode(), bool(limit.is_low), limit.text.decode()) for limit in raw]


_limits_were_logged = False


def log_limits() -> None:
    """Once per process: a line for each limit that is low."""
    global _limits_were_logged
    if not _limits_were_logged:
        _limits_were_logged = True
        for limit in limits():
            if limit.is_low:
                log.warning("%s: %s", limit.name, limit.text)


class Capability(NamedTuple):
    """Whether a path is possible, and why or why not."""

    is_possible: bool
    reason: str


def capabilities_of(raw: Any) -> dict[str, Capability]:
    """By the name of the path."""
    return {
        path: Capability(bool(raw[i].is_possible), raw[i].reason.decode())
        for i, path in enumerate(_abi.PATHS) if i > 0
    }


class PathStats(NamedTuple):
    """Counters of a path: transfers that this engine began."""

    transfers: int
    failed_transfers: int
    transferred_bytes: int
    failed_blocks: int
    failovers: int
    queue_ns: int
    post_ns: int
    wire_ns: int
    notify_ns: int


class Stats(NamedTuple):
    """Counters since an engine began."""

    paths: dict[str, PathStats]
    served_requests: int
    served_bytes: int
    refused_requests: int
    protocol_errors: int
    notifications_received: int
    reconnects: int
