"""The engine: memory, peers, transfers and events of this process."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import ipaddress
import logging
import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Optional

from . import _abi
from ._abi import READ, WRITE, lib
from .buffers import memory_of, numbers_of
from .errors import QueueFull, check
from .events import Event, EventKind, event_of
from .facts import Capability, PathStats, Stats, capabilities_of, log_limits
from .memory import Pages, Pool, Region
from .peer import Peer
from .transfer import Planes, Priority, Transfer, planes_of

log = logging.getLogger("llmd_connector")

# Events of one call of ct_engine_poll, and of those that wait for poll().
_BATCH = 64
_WAITING_MAX = 65536
_CANCELLED = -11
# How long close() waits for peers to let go of the caller's memory, and that of those that did not.
_GONE_SECONDS = 5.0
_abandoned: list[Any] = []


def _path_mask(paths: Optional[Iterable[str]]) -> int:
    if paths is None:
        return 0
    mask = sum(1 << _abi.PATHS.index(path) for path in set(paths))
    if mask == 0:
        raise ValueError("no path is allowed")
    return mask


def _numeric(host: str) -> str:
    """The address of a host; the engine itself asks no name server."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return str(found[0][4][0])


class Engine:
    """Moves blocks between this process and others. A thread of its own does all I/O. The first
    one of a process logs the limits that are low.

    Every method may be called from any thread. Zero means the default of `ctransfer.h`.
    """

    def __init__(
        self,
        *,
        transfers_max: int = 0,
        notifications_max: int = 0,
        connections_max: int = 0,
        heartbeat: float = 0.0,
        lease: float = 0.0,
        list_bytes: int = 0,
        admits_tracers: bool = False,
    ) -> None:
        self._handle = 0
        log_limits()
        params = _abi.EngineParams(
            struct_size=ctypes.sizeof(_abi.EngineParams),
            transfers_max=transfers_max,
            notifications_max=notifications_max,
            connections_max=connections_max,
            heartbeat_ns=int(heartbeat * 1e9),
            lease_ns=int(lease * 1e9),
            list_bytes=list_bytes,
            admits_tracers=admits_tracers,
        )
        handle = ctypes.c_void_p()
        check(lib.ct_engine_create(ctypes.byref(params), ctypes.byref(handle)), "engine")
        assert handle.value is not None
        self._handle = handle.value
        self._lock = threading.RLock()
        self._transfers: dict[int, Transfer] = {}
        self._peers: weakref.WeakValueDictionary[int, Peer] = weakref.WeakValueDictionary()
        # By generation: registered memory, and what keeps it, until it is gone.
        self._lent: dict[int, tuple[weakref.ref[Pool], Any]] = {}
        self._waiting: collections.deque[Event] = collections.deque()
        self._buffer = (_abi.Event * _BATCH)()
        self._watchers: dict[asyncio.AbstractEventLoop, int] = {}
        #: The engine's name; a restarted process has another.
        self.id = bytes(lib.ct_engine_identity(self._handle).bytes)
        # Readable when the engine has events; the loops that await transfers watch a copy.
        self._descriptor: int = lib.ct_engine_descriptor(self._handle)
        self._loop_descriptor = os.dup(self._descriptor)
        # What users watch: the engine's descriptor, or that something waits for poll().
        self._waiting_descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._descriptor, select.EPOLLIN)
        self._epoll.register(self._waiting_descriptor, select.EPOLLIN)

    # ---- Life ----

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._handle == 0

    def close(self) -> None:
        """Ends the engine and what it holds. Transfers in flight are cancelled. Waits, for a few
        seconds at most, until no peer touches memory that was registered."""
        if self.is_closed:
            return
        for reference, _ in list(self._lent.values()):
            pool = reference()
            if pool is not None:
                pool.release()
        end = time.monotonic() + _GONE_SECONDS
        while self._lent and time.monotonic() < end:
            with contextlib.suppress(QueueFull):
                self._pump()
            if self._lent:
                select.select([self._descriptor], [], [], 0.02)
        with self._lock:
            if self._lent:
                log.warning("%d regions are still in use by peers of this host", len(self._lent))
                _abandoned.extend(self._lent.values())
                self._lent.clear()
            handle, self._handle = self._handle, 0
            for transfer in self._transfers.values():
                transfer._finish(event_of(_abi.Event(
                    kind=_abi.EVENT_TRANSFER, status=_CANCELLED, transfer_id=transfer.id)))
            self._transfers.clear()
            for loop in self._watchers:
                with contextlib.suppress(RuntimeError):  # a loop that is closed
                    loop.call_soon_threadsafe(loop.remove_reader, self._loop_descriptor)
            self._epoll.close()
            os.close(self._waiting_descriptor)
            lib.ct_engine_destroy(handle)
            if not self._watchers:
                os.close(self._loop_descriptor)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", 0) and hasattr(self, "_epoll"):
            self.close()

    def _valid(self) -> int:
        if self.is_closed:
            raise ValueError("the engine is closed")
        return self._handle

    def listen(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Accepts peers, once per engine; returns the port. Whoever reaches it may read and write
        what the engine publishes."""
        real = ctypes.c_uint16()
        status = lib.ct_engine_listen(
            self._valid(), _numeric(host).encode(), port, ctypes.byref(real))
        check(status, f"listen on {host} port {port}")
        return real.value

    def capabilities(self) -> dict[str, Capability]:
        """Which paths this machine and process can take, and why they cannot take the others."""
        raw = (_abi.Capability * len(_abi.PATHS))()
        lib.ct_capabilities(self._valid(), raw)
        return capabilities_of(raw)

    def stats(self) -> Stats:
        """Counters since the engine began."""
        raw = lib.ct_engine_stats(self._valid())
        names = PathStats._fields
        paths = {
            path: PathStats(*(getattr(raw.paths[i], name) for name in names))
            for i, path in enumerate(_abi.PATHS) if i > 0
        }
        return Stats(paths, *(getattr(raw, name) for name in Stats._fields[1:]))

    # ---- Memory ----

    def create_pool(
        self, block_bytes: int, block_count: int, *, node: Optional[int] = None,
        pages: Pages = Pages.ADVISED,
    ) -> Pool:
        """Zeroed memory, on a NUMA node if one is named, that peers of this host map."""
        params = _abi.PoolParams(
            struct_size=ctypes.sizeof(_abi.PoolParams), pages=pages, block_bytes=block_bytes,
            block_count=block_count, has_node=node is not None, node=node or 0)
        handle = ctypes.c_void_p()
        status = lib.ct_pool_create_placed(
            self._valid(), ctypes.byref(params), ctypes.byref(handle))
        check(status, f"pool of {block_count} blocks of {block_bytes} bytes")
        assert handle.value is not None
        return Pool(self, handle.value)

    def register(self, memory: Any, block_bytes: Optional[int] = None) -> Pool:
        """Memory of this process: a numpy array, a CPU tensor, a writable buffer, or an address
        and a size. It is kept until REGION_GONE; by default it is one block."""
        found = memory_of(memory)
        handle = ctypes.c_void_p()
        with self._lock:
            status = lib.ct_region_add(
                self._valid(), found.address, found.size_bytes, block_bytes or found.size_bytes,
                ctypes.byref(handle))
            check(status, f"register {found.size_bytes} bytes at {found.address:#x}")
            assert handle.value is not None
            pool = Pool(self, handle.value)
            self._lent[pool.region.generation] = (weakref.ref(pool), found.owner)
        return pool

    # ---- Peers ----

    def connect(
        self, host: str, port: int, *, paths: Optional[Iterable[str]] = None, streams: int = 1,
        expected_id: Optional[bytes] = None, timeout: float = 5.0, reconnect: float = 0.0,
    ) -> Peer:
        """Begins to connect; `Peer.wait_until_up` or `await Peer.up()` follows. `paths` are those
        allowed: memfd, cma, tcp. With `reconnect` a lost peer is tried again after such a wait."""
        params = _abi.ConnectParams(
            struct_size=ctypes.sizeof(_abi.ConnectParams), allowed_paths=_path_mask(paths),
            host=_numeric(host).encode(), port=port, stream_count=streams,
            timeout_ns=int(timeout * 1e9), reconnect_ns=int(reconnect * 1e9))
        if expected_id is not None:
            params.expects_id = 1
            params.expected_id.bytes[:] = expected_id
        handle = ctypes.c_void_p()
        with self._lock:
            status = lib.ct_peer_connect(
                self._valid(), ctypes.byref(params), ctypes.byref(handle))
            check(status, f"connect to {host} port {port}")
            assert handle.value is not None
            peer = Peer(self, handle.value, reconnect > 0)
            self._peers[peer.id] = peer
        return peer

    # ---- Transfers ----

    def read(self, peer: Peer, pool: Pool, region: Region, **options: Any) -> Transfer:
        """Remote blocks into local ones; options as in `submit`."""
        return self.submit(READ, peer, pool, region, **options)

    def write(self, peer: Peer, pool: Pool, region: Region, **options: Any) -> Transfer:
        """Local blocks into remote ones; options as in `submit`."""
        return self.submit(WRITE, peer, pool, region, **options)

    def notify(self, peer: Peer, message: bytes, *, timeout: float = 0.0) -> Transfer:
        """Only a message."""
        params = _abi.TransferParams(
            struct_size=ctypes.sizeof(_abi.TransferParams), operation=READ, peer=peer._valid(),
            notification=message, notification_bytes=len(message), timeout_ns=int(timeout * 1e9))
        return self._submit(params, False, peer)

    def submit(
        self,
        operation: int,
        peer: Peer,
        pool: Pool,
        region: Region,
        *,
        local: Any = None,
        remote: Any = None,
        count: Optional[int] = None,
        local_planes: Optional[Planes] = None,
        remote_planes: Optional[Planes] = None,
        notification: bytes = b"",
        epoch: int = 0,
        timeout: float = 0.0,
        paths: Optional[Iterable[str]] = None,
        priority: Priority = Priority.NORMAL,
        forbids_failover: bool = False,
        is_reported: bool = False,
    ) -> Transfer:
        """Queues a transfer of blocks.

        `local` and `remote` are numbers of blocks: numpy arrays and buffers of uint32 are passed
        as they are. None means 0, 1, 2, ... of which there are `count`. Planes say where slices of
        each block lie. `notification` reaches the peer when all blocks are complete. With
        `is_reported` the event is handed out by `poll()`, too.
        """
        local_numbers = numbers_of(local)
        remote_numbers = numbers_of(remote)
        counts = {numbers.length for numbers in (local_numbers, remote_numbers) if numbers}
        if count is not None:
            counts.add(count)
        if len(counts) != 1:
            raise ValueError("lists of different lengths" if counts else "how many blocks?")
        local_array = planes_of(local_planes)
        remote_array = planes_of(remote_planes)
        plane_count = len(local_array or ())
        if plane_count != len(remote_array or ()):
            raise ValueError("as many planes on one side as on the other")
        params = _abi.TransferParams(
            struct_size=ctypes.sizeof(_abi.TransferParams), operation=operation,
            peer=peer._valid(), pool=pool._valid(), region=region.raw, epoch=epoch,
            block_count=counts.pop(), plane_count=plane_count, notification=notification or None,
            notification_bytes=len(notification), timeout_ns=int(timeout * 1e9),
            allowed_paths=_path_mask(paths), priority=priority, forbids_failover=forbids_failover)
        params.local.ids = local_numbers.address if local_numbers else None
        params.remote.ids = remote_numbers.address if remote_numbers else None
        if plane_count:
            params.local.planes = local_array
            params.remote.planes = remote_array
        return self._submit(params, is_reported, (peer, pool))

    def _submit(self, params: _abi.TransferParams, is_reported: bool, owners: Any) -> Transfer:
        identifier = ctypes.c_uint64()
        # No event may come before the transfer is known.
        with self._lock:
            status = lib.ct_transfer_submit(
                self._valid(), ctypes.byref(params), ctypes.byref(identifier))
            check(status, "transfer")
            transfer = Transfer(self, identifier.value, is_reported, owners)
            self._transfers[transfer.id] = transfer
        return transfer

    # ---- Events ----

    def fileno(self) -> int:
        """Readable when `poll()` has something to do; for `select`, `loop.add_reader` and such."""
        return self._epoll.fileno()

    def poll(self) -> list[Event]:
        """What happened since the last call, without waiting: peers, notifications, regions that
        are gone, and transfers that were submitted with `is_reported`."""
        with self._lock:
            with contextlib.suppress(QueueFull):
                self._pump()
            events = list(self._waiting)
            self._waiting.clear()
            if events:
                os.eventfd_read(self._waiting_descriptor)
            return events

    async def next_events(self) -> list[Event]:
        """The next of them, at least one; one caller per loop at a time."""
        loop = asyncio.get_running_loop()
        while True:
            events = self.poll()
            if events:
                return events
            ready = asyncio.Event()
            loop.add_reader(self.fileno(), ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(self.fileno())

    def _pump(self) -> None:
        """Takes events from the engine and tells those that wait for them."""
        count = ctypes.c_size_t()
        with self._lock:
            while not self.is_closed:
                room = min(_BATCH, _WAITING_MAX - len(self._waiting))
                if room == 0:
                    raise QueueFull(f"{_WAITING_MAX} events wait for poll()", -3)
                lib.ct_engine_poll(self._handle, self._buffer, room, ctypes.byref(count))
                for i in range(count.value):
                    self._dispatch(event_of(self._buffer[i]))
                if count.value < room:
                    return

    def _dispatch(self, event: Event) -> None:
        if event.kind is EventKind.TRANSFER:
            transfer = self._transfers.pop(event.transfer_id)
            transfer._finish(event)
            if not transfer._is_reported:
                return
        elif event.kind in (EventKind.PEER_UP, EventKind.PEER_DOWN):
            peer = self._peers.get(event.peer_id)
            if peer is not None:
                peer._notice(event)
        elif event.kind is EventKind.REGION_GONE:
            self._lent.pop(event.generation, None)
        if not self._waiting:
            os.eventfd_write(self._waiting_descriptor, 1)
        self._waiting.append(event)

    @contextlib.contextmanager
    def _watched_by(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Has a loop poll the engine while something in it waits."""
        with self._lock:
            self._valid()
            if self._watchers.setdefault(loop, 0) == 0:
                loop.add_reader(self._loop_descriptor, self._pump)
            self._watchers[loop] += 1
        try:
            yield
        finally:
            with self._lock:
                self._watchers[loop] -= 1
                if self._watchers[loop] == 0:
                    del self._watchers[loop]
                    loop.remove_reader(self._loop_descriptor)
                    if self.is_closed and not self._watchers:
                        os.close(self._loop_descriptor)
