"""libllmd_connector.so as ctypes sees it: `ctransfer.h` and `lconnector.h`, struct by struct."""

from __future__ import annotations

import ctypes
import os
import pathlib
from ctypes import POINTER, c_char, c_char_p, c_int, c_int32, c_size_t, c_uint8, c_uint16, c_uint32
from ctypes import c_uint64, c_void_p
from typing import Any

ABI_VERSION = 0
SONAME = f"libllmd_connector.so.{ABI_VERSION}"

PATHS = ("none", "memfd", "tcp", "cma")
LIMIT_COUNT = 3
REGIONS_MAX = 64
NOTIFICATION_MAX = 256
PLANES_MAX = 256

READ, WRITE = 1, 2
EVENT_TRANSFER, EVENT_NOTIFICATION, EVENT_PEER_UP, EVENT_PEER_DOWN, EVENT_REGION_GONE = range(1, 6)


class EngineID(ctypes.Structure):
    _fields_ = [("bytes", c_uint8 * 16)]


class EngineParams(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("transfers_max", c_uint32),
        ("notifications_max", c_uint32),
        ("connections_max", c_uint32),
        ("heartbeat_ns", c_uint64),
        ("lease_ns", c_uint64),
        ("list_bytes", c_uint64),
        ("admits_tracers", c_uint32),
    ]


class Capability(ctypes.Structure):
    _fields_ = [("is_possible", c_uint32), ("reason", c_char * 192)]


class Limit(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("is_low", c_uint32), ("text", c_char * 308)]


class Region(ctypes.Structure):
    _fields_ = [
        ("id", c_uint32),
        ("generation", c_uint64),
        ("size_bytes", c_uint64),
        ("block_bytes", c_uint64),
    ]


class Event(ctypes.Structure):
    _fields_ = [
        ("kind", c_uint32),
        ("status", c_int32),
        ("transfer_id", c_uint64),
        ("peer_id", c_uint64),
        ("region", Region),
        ("sender", EngineID),
        ("notification", c_void_p),
        ("notification_bytes", c_size_t),
        ("path", c_uint32),
        ("failed_count", c_uint32),
        ("failed", c_void_p),
        ("transferred_bytes", c_uint64),
        ("elapsed_ns", c_uint64),
        ("queue_ns", c_uint64),
        ("post_ns", c_uint64),
        ("wire_ns", c_uint64),
        ("notify_ns", c_uint64),
    ]


class PathStats(ctypes.Structure):
    _fields_ = [
        ("transfers", c_uint64),
        ("failed_transfers", c_uint64),
        ("transferred_bytes", c_uint64),
        ("failed_blocks", c_uint64),
        ("failovers", c_uint64),
        ("queue_ns", c_uint64),
        ("post_ns", c_uint64),
        ("wire_ns", c_uint64),
        ("notify_ns", c_uint64),
    ]


class Stats(ctypes.Structure):
    _fields_ = [
        ("paths", PathStats * len(PATHS)),
        ("served_requests", c_uint64),
        ("served_bytes", c_uint64),
        ("refused_requests", c_uint64),
        ("protocol_errors", c_uint64),
        ("notifications_received", c_uint64),
        ("reconnects", c_uint64),
    ]


class PoolParams(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("pages", c_uint32),
        ("block_bytes", c_uint64),
        ("block_count", c_uint64),
        ("has_node", c_uint32),
        ("node", c_uint32),
    ]


class ConnectParams(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("allowed_paths", c_uint32),
        ("host", c_char_p),
        ("port", c_uint16),
        ("stream_count", c_uint16),
        ("expects_id", c_uint32),
        ("expected_id", EngineID),
        ("timeout_ns", c_uint64),
        ("reconnect_ns", c_uint64),
        ("reconnect_max_ns", c_uint64),
    ]


class PeerInfo(ctypes.Structure):
    _fields_ = [
        ("path", c_uint32),
        ("paths", c_uint32),
        ("engine_id", EngineID),
        ("regions_version", c_uint64),
    ]


class Plane(ctypes.Structure):
    _fields_ = [
        ("offset_bytes", c_uint64),
        ("stride_bytes", c_uint64),
        ("length_bytes", c_uint64),
    ]


class Blocks(ctypes.Structure):
    _fields_ = [("ids", c_void_p), ("planes", POINTER(Plane))]


class TransferParams(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("operation", c_uint32),
        ("peer", c_void_p),
        ("pool", c_void_p),
        ("region", Region),
        ("epoch", c_uint64),
        ("local", Blocks),
        ("remote", Blocks),
        ("block_count", c_uint32),
        ("plane_count", c_uint32),
        ("notification", c_char_p),
        ("notification_bytes", c_size_t),
        ("timeout_ns", c_uint64),
        ("allowed_paths", c_uint32),
        ("priority", c_uint32),
        ("forbids_failover", c_uint32),
    ]


#: The structs by their names in C, for the test that compares them with `abi.txt`.
STRUCTS: dict[str, type[ctypes.Structure]] = {
    "ct_engine_id": EngineID,
    "ct_engine_params": EngineParams,
    "ct_capability": Capability,
    "ct_limit": Limit,
    "ct_region": Region,
    "ct_event": Event,
    "ct_path_stats": PathStats,
    "ct_stats": Stats,
    "ct_pool_params": PoolParams,
    "ct_connect_params": ConnectParams,
    "ct_peer_info": PeerInfo,
    "ct_plane": Plane,
    "ct_blocks": Blocks,
    "ct_transfer_params": TransferParams,
}

#: Result and arguments of every function that is used.
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "lc_abi_version": (c_uint32, []),
    "lc_version": (c_char_p, []),
    "lc_capabilities": (c_size_t, [c_char_p, c_size_t]),
    "ct_status_message": (c_char_p, [c_int32]),
    "ct_limits": (None, [POINTER(Limit)]),
    "ct_engine_create": (c_int32, [POINTER(EngineParams), POINTER(c_void_p)]),
    "ct_engine_destroy": (None, [c_void_p]),
    "ct_engine_identity": (EngineID, [c_void_p]),
    "ct_capabilities": (None, [c_void_p, POINTER(Capability)]),
    "ct_engine_listen": (c_int32, [c_void_p, c_char_p, c_uint16, POINTER(c_uint16)]),
    "ct_engine_descriptor": (c_int, [c_void_p]),
    "ct_engine_poll": (None, [c_void_p, POINTER(Event), c_size_t, POINTER(c_size_t)]),
    "ct_engine_stats": (Stats, [c_void_p]),
    "ct_pool_create_placed": (c_int32, [c_void_p, POINTER(PoolParams), POINTER(c_void_p)]),
    "ct_pool_release": (None, [c_void_p]),
    "ct_pool_memory": (c_void_p, [c_void_p]),
    "ct_pool_region": (Region, [c_void_p]),
    "ct_region_add": (c_int32, [c_void_p, c_void_p, c_uint64, c_uint64, POINTER(c_void_p)]),
    "ct_pool_epoch": (c_uint64, [c_void_p]),
    "ct_pool_fence": (c_int32, [c_void_p, c_void_p, c_size_t, POINTER(c_uint64)]),
    "ct_pool_settled": (c_uint64, [c_void_p]),
    "ct_peer_connect": (c_int32, [c_void_p, POINTER(ConnectParams), POINTER(c_void_p)]),
    "ct_peer_release": (None, [c_void_p]),
    "ct_peer_id": (c_uint64, [c_void_p]),
    "ct_peer_describe": (PeerInfo, [c_void_p]),
    "ct_peer_capabilities": (None, [c_void_p, POINTER(Capability)]),
    "ct_peer_regions": (None, [c_void_p, POINTER(Region), POINTER(c_size_t)]),
    "ct_transfer_submit": (c_int32, [c_void_p, POINTER(TransferParams), POINTER(c_uint64)]),
    "ct_transfer_cancel": (None, [c_void_p, c_uint64]),
}


def _open() -> ctypes.CDLL:
    """The library: $LLMD_CONNECTOR_LIBRARY, or beside this package, or where the system looks."""
    beside = pathlib.Path(__file__).with_name(SONAME)
    name = os.environ.get("LLMD_CONNECTOR_LIBRARY") or (str(beside) if beside.exists() else SONAME)
    try:
        library = ctypes.CDLL(name, mode=os.RTLD_LOCAL | os.RTLD_NOW)
    except OSError as error:
        raise ImportError(
            f"{error}; set LLMD_CONNECTOR_LIBRARY to the {SONAME} that 'make connector' builds"
        ) from error
    library.lc_abi_version.restype = c_uint32
    version = library.lc_abi_version()
    if version != ABI_VERSION:
        raise ImportError(f"{name} has ABI {version}; this package speaks {ABI_VERSION}")
    for function, (result, arguments) in FUNCTIONS.items():
        pointer = getattr(library, function)
        pointer.restype = result
        pointer.argtypes = arguments
    return library


lib = _open()
