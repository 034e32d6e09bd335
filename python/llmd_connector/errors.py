"""What can go wrong, as exceptions: one class for each status of `ctransfer.h`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from ._abi import lib

if TYPE_CHECKING:
    from .events import Event


class ConnectorError(Exception):
    """A call or a transfer failed.

    `status` is the number in `ctransfer.h`. `event` is there when a transfer failed: its `failed`
    lists the blocks that are not known to be complete.
    """

    status: int = 0

    def __init__(self, message: str, status: int, event: Optional["Event"] = None) -> None:
        super().__init__(message)
        self.status = status
        self.event = event


class InvalidArgument(ConnectorError, ValueError):
    """A parameter is not valid."""


class OutOfMemory(ConnectorError, MemoryError):
    """Memory or another resource of the system ran out."""


class QueueFull(ConnectorError):
    """Too much is in flight or waits to be polled. Poll and try again."""


class NoSuchRegion(ConnectorError, LookupError):
    """The peer has no such region."""


class OutOfRange(ConnectorError, IndexError):
    """A block lies outside its region."""


class Stale(ConnectorError):
    """The engine or the region is another one, or a block was taken back."""


class Unreachable(ConnectorError, ConnectionError):
    """The peer cannot be reached."""


class PeerDead(ConnectorError, ConnectionError):
    """The peer closed its connection or stopped answering."""


class DeadlineExceeded(ConnectorError, TimeoutError):
    """The deadline passed."""


class Cancelled(ConnectorError):
    """Cancelled by the caller."""


class NotSupported(ConnectorError, NotImplementedError):
    """This machine, a library of it or this version cannot do that."""


class PathForbidden(ConnectorError):
    """No path to the peer is both allowed and possible."""


class NotPermitted(ConnectorError, PermissionError):
    """The system does not permit it."""


class VersionMismatch(ConnectorError):
    """The peer speaks another version of the protocol."""


class ProtocolViolation(ConnectorError):
    """The peer sent a frame that is not valid."""


class AddressUnavailable(ConnectorError, OSError):
    """The listening address is in use or not of this machine."""


class Unmapped(ConnectorError):
    """A region's memory is not mapped, or of a kind that the path cannot reach."""


_CLASSES: dict[int, type[ConnectorError]] = {
    -1: InvalidArgument,
    -2: OutOfMemory,
    -3: QueueFull,
    -5: NoSuchRegion,
    -6: OutOfRange,
    -7: Stale,
    -8: Unreachable,
    -9: PeerDead,
    -10: DeadlineExceeded,
    -11: Cancelled,
    -12: NotSupported,
    -13: PathForbidden,
    -14: NotPermitted,
    -15: VersionMismatch,
    -16: ProtocolViolation,
    -17: AddressUnavailable,
    -18: Unmapped,
}


def error(status: int, what: str, event: Optional["Event"] = None) -> ConnectorError:
    """The exception for a status; `what` says what was tried."""
    message = lib.ct_status_message(status).decode()
    return _CLASSES.get(status, ConnectorError)(f"{what}: {message}", status, event)


def check(status: int, what: str) -> None:
    """Raises unless the status is that of success."""
    if status != 0:
        raise error(status, what)
