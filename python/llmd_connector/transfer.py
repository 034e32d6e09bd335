"""One movement of blocks."""

from __future__ import annotations

import enum
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Sequence, Union

from . import _abi
from ._abi import lib
from .events import Event
from .waiting import Waiting

if TYPE_CHECKING:
    from .engine import Engine


class Plane(NamedTuple):
    """Where a slice of every block lies: `length` bytes at `offset + number * stride`."""

    offset: int
    stride: int
    length: int


Planes = Union[Sequence[Plane], Sequence[tuple[int, int, int]]]


def planes_of(planes: Optional[Planes]) -> Any:
    """Planes as C has them, or None."""
    if planes is None:
        return None
    return (_abi.Plane * len(planes))(*(_abi.Plane(*plane) for plane in planes))


class Priority(enum.IntEnum):
    """Which transfers go first among those that wait for the same peer."""

    NORMAL = 0
    HIGH = 1
    LOW = 2


class Transfer(Waiting):
    """A transfer that was submitted. Await it, or `wait()`, or look at `is_done`."""

    def __init__(self, engine: "Engine", identifier: int, is_reported: bool, owners: Any) -> None:
        super().__init__(engine)
        self.id = identifier
        self.event: Optional[Event] = None
        self._is_reported = is_reported
        # Pool and peer; gone with the transfer.
        self._owners = owners

    @property
    def is_done(self) -> bool:
        """Whether it is final. Polls."""
        if self.event is None:
            self.engine._pump()
        return self.event is not None

    def _finish(self, event: Event) -> None:
        self.event = event
        self._owners = None
        self._wake()

    def _is_settled(self) -> bool:
        return self.event is not None

    def result(self) -> Event:
        """Its event; raises what went wrong. Only once it is done."""
        if self.event is None:
            raise RuntimeError("the transfer is not done")
        error = self.event.error
        if error is not None:
            raise error
        return self.event

    def wait(self, timeout: Optional[float] = None) -> Event:
        """Waits until it is final, which its own deadline bounds, and returns `result()`."""
        self._wait(timeout)
        return self.result()

    async def finished(self, timeout: Optional[float] = None) -> Event:
        """The same in an event loop."""
        await self._wait_async(timeout)
        return self.result()

    def __await__(self) -> Generator[Any, None, Event]:
        return self.finished().__await__()

    def cancel(self) -> None:
        """Asks for an early end; the transfer is final only when it is done."""
        with self.engine._lock:
            if not self.engine.is_closed:
                lib.ct_transfer_cancel(self.engine._handle, self.id)
