"""Moves KV cache between inference engines, over the fastest path two machines share.

    from llmd_connector import Engine

    with Engine() as engine:
        pool = engine.create_pool(block_bytes=1 << 16, block_count=1024)
        peer = engine.connect("10.0.0.7", 7777)
        peer.wait_until_up()
        engine.read(peer, pool, peer.regions()[0], local=ids, remote=remote_ids).wait()

Code written for NIXL changes one import: `from llmd_connector.nixl import nixl_agent`.
"""

from ._abi import ABI_VERSION
from .engine import Engine
from .errors import (
    AddressUnavailable,
    Cancelled,
    ConnectorError,
    DeadlineExceeded,
    InvalidArgument,
    NoSuchRegion,
    NotPermitted,
    NotSupported,
    OutOfMemory,
    OutOfRange,
    PathForbidden,
    PeerDead,
    ProtocolViolation,
    QueueFull,
    Stale,
    Unmapped,
    Unreachable,
    VersionMismatch,
)
from .events import Event, EventKind
from .facts import Capability, Limit, PathStats, Stats, capabilities, limits, version
from .memory import Pages, Pool, Region
from .peer import Peer
from .transfer import Plane, Priority, Transfer

__all__ = [
    "ABI_VERSION",
    "AddressUnavailable",
    "Cancelled",
    "Capability",
    "ConnectorError",
    "DeadlineExceeded",
    "Engine",
    "Event",
    "EventKind",
    "InvalidArgument",
    "Limit",
    "NoSuchRegion",
    "NotPermitted",
    "NotSupported",
    "OutOfMemory",
    "OutOfRange",
    "Pages",
    "PathForbidden",
    "PathStats",
    "Peer",
    "PeerDead",
    "Plane",
    "Pool",
    "Priority",
    "ProtocolViolation",
    "QueueFull",
    "Region",
    "Stale",
    "Stats",
    "Transfer",
    "Unmapped",
    "Unreachable",
    "VersionMismatch",
    "capabilities",
    "limits",
    "version",
]
