"""What an engine reports."""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass
from typing import Optional

from . import _abi
from .errors import ConnectorError, error


class EventKind(enum.IntEnum):
    """What happened."""

    TRANSFER = _abi.EVENT_TRANSFER  #: a transfer is final
    NOTIFICATION = _abi.EVENT_NOTIFICATION  #: the initiator of a finished transfer sent bytes
    PEER_UP = _abi.EVENT_PEER_UP
    PEER_DOWN = _abi.EVENT_PEER_DOWN
    REGION_GONE = _abi.EVENT_REGION_GONE  #: nothing touches released memory any more


@dataclass(frozen=True)
class Event:
    """One thing that happened; which members mean something depends on its kind."""

    kind: EventKind
    status: int
    transfer_id: int  #: TRANSFER
    peer_id: int  #: TRANSFER, PEER_UP, PEER_DOWN
    generation: int  #: REGION_GONE: of the region
    sender: bytes  #: NOTIFICATION: the name of the engine that sent it
    notification: bytes  #: NOTIFICATION
    path: str  #: TRANSFER, PEER_UP: none, memfd, cma or tcp
    failed: memoryview  #: TRANSFER: positions, as uint32, of blocks that may not be complete
    transferred_bytes: int  #: TRANSFER: of complete blocks
    elapsed_ns: int  #: TRANSFER: the sum of the four that follow
    queue_ns: int
    post_ns: int
    wire_ns: int
    notify_ns: int

    @property
    def error(self) -> Optional[ConnectorError]:
        """What went wrong, or None."""
        if self.status == 0:
            return None
        what = "transfer" if self.kind is EventKind.TRANSFER else "peer"
        return error(self.status, what, self)


def event_of(raw: _abi.Event) -> Event:
    """A copy that outlives the next poll."""
    kind = EventKind(raw.kind)
    failed = b""
    notification = b""
    if raw.failed_count:
        failed = ctypes.string_at(raw.failed, 4 * raw.failed_count)
    if raw.notification_bytes:
        notification = ctypes.string_at(raw.notification, raw.notification_bytes)
    return Event(
        kind=kind,
        status=raw.status,
        transfer_id=raw.transfer_id,
        peer_id=raw.peer_id,
        generation=raw.region.generation,
        sender=bytes(raw.sender.bytes) if kind is EventKind.NOTIFICATION else b"",
        notification=notification,
        path=_abi.PATHS[raw.path],
        failed=memoryview(failed).cast("I"),
        transferred_bytes=raw.transferred_bytes,
        elapsed_ns=raw.elapsed_ns,
        queue_ns=raw.queue_ns,
        post_ns=raw.post_ns,
        wire_ns=raw.wire_ns,
        notify_ns=raw.notify_ns,
    )
