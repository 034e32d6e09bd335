"""An engine of another process."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Optional

from . import _abi
from ._abi import lib
from .errors import ConnectorError
from .events import Event, EventKind
from .facts import Capability, capabilities_of
from .memory import Region, region_of
from .waiting import Waiting

if TYPE_CHECKING:
    from .engine import Engine


class Peer(Waiting):
    """A connection that `Engine.connect` began. Released with its last reference, at the end of a
    `with`, or by `release()`. From any thread."""

    def __init__(self, engine: "Engine", handle: int, reconnects: bool) -> None:
        super().__init__(engine)
        self._handle = handle
        self._reconnects = reconnects
        self.id = int(lib.ct_peer_id(handle))
        self.is_up = False
        #: Why the peer is down, if it was tried or lost.
        self.error: Optional[ConnectorError] = None

    def _notice(self, event: Event) -> None:
        self.is_up = event.kind is EventKind.PEER_UP
        self.error = event.error
        self._wake()

    def _is_settled(self) -> bool:
        return self.is_up or (self.error is not None and not self._reconnects)

    def _check(self) -> "Peer":
        if not self.is_up and self.error is not None:
            raise self.error
        return self

    def wait_until_up(self, timeout: float = 10.0) -> "Peer":
        """Waits for path and regions; raises what kept the peer down."""
        self._wait(timeout)
        return self._check()

    async def up(self, timeout: float = 10.0) -> "Peer":
        """The same in an event loop."""
        await self._wait_async(timeout)
        return self._check()

    @property
    def path(self) -> str:
        """The first choice of a path now; none until up."""
        return _abi.PATHS[lib.ct_peer_describe(self._valid()).path]

    @property
    def engine_id(self) -> bytes:
        """The name of the engine there; zeros until up."""
        return bytes(lib.ct_peer_describe(self._valid()).engine_id.bytes)

    def capabilities(self) -> dict[str, Capability]:
        """Which paths work with this peer now, and why the others do not."""
        raw = (_abi.Capability * len(_abi.PATHS))()
        lib.ct_peer_capabilities(self._valid(), raw)
        return capabilities_of(raw)

    def regions(self) -> list[Region]:
        """What the peer publishes now."""
        raw = (_abi.Region * _abi.REGIONS_MAX)()
        count = ctypes.c_size_t()
        lib.ct_peer_regions(self._valid(), raw, ctypes.byref(count))
        return [region_of(raw[i]) for i in range(count.value)]

    def release(self) -> None:
        """Closes the connection; transfers in flight end with Cancelled."""
        with self.engine._lock:
            handle, self._handle = self._handle, 0
            self.engine._peers.pop(self.id, None)
            if handle and not self.engine.is_closed:
                lib.ct_peer_release(handle)

    def _valid(self) -> int:
        if not self._handle or self.engine.is_closed:
            raise ValueError("the peer is released")
        return self._handle

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            self.release()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
