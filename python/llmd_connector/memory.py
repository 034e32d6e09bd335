"""Memory that peers read and write: pools of an engine, and memory of the caller."""

from __future__ import annotations

import ctypes
import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from ._abi import Region as RawRegion
from ._abi import lib
from .buffers import numbers_of
from .errors import check

if TYPE_CHECKING:
    from .engine import Engine


class Pages(enum.IntEnum):
    """The pages of a pool."""

    ADVISED = 0  #: small ones, or transparent huge ones where the system has them
    HUGE_2M = 1  #: of those that the machine has reserved
    HUGE_1G = 2


class Region(NamedTuple):
    """What a peer needs to name memory. Tuples of four numbers may travel in any form."""

    id: int
    generation: int
    size_bytes: int
    block_bytes: int

    @property
    def raw(self) -> RawRegion:
        """As C has it."""
        return RawRegion(*self)


def region_of(raw: RawRegion) -> Region:
    """A region from C's."""
    return Region(raw.id, raw.generation, raw.size_bytes, raw.block_bytes)


class Pool:
    """Blocks of equal size that peers may read and write.

    Made by `Engine.create_pool` or `Engine.register`. Released with its last reference, at the end
    of a `with`, or by `release()`. From any thread.
    """

    def __init__(self, engine: "Engine", handle: int) -> None:
        self.engine = engine
        self._handle = handle
        self.region = region_of(lib.ct_pool_region(handle))
        self.address: int = lib.ct_pool_memory(handle)

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return self.region.block_bytes

    @property
    def block_count(self) -> int:
        """Blocks, of which the last may be a shorter one in memory of the caller."""
        return -(-self.region.size_bytes // self.region.block_bytes)

    @property
    def memory(self) -> memoryview:
        """All bytes, writable; `numpy.frombuffer` makes an array of them. It keeps the pool, but
        is not valid after `release()`."""
        block: Any = (ctypes.c_uint8 * self.region.size_bytes).from_address(self.address)
        block.pool = self
        return memoryview(block).cast("B")

    @property
    def epoch(self) -> int:
        """How often blocks have been fenced; given to peers along with the numbers of blocks."""
        return int(lib.ct_pool_epoch(self._valid()))

    def fence(self, blocks: Any) -> int:
        """Takes blocks back from every peer that was given them; returns the epoch that begins."""
        numbers = numbers_of(blocks)
        assert numbers is not None
        epoch = ctypes.c_uint64()
        status = lib.ct_pool_fence(
            self._valid(), numbers.address, numbers.length, ctypes.byref(epoch)
        )
        check(status, "fence")
        return epoch.value

    @property
    def settled(self) -> int:
        """The newest epoch whose fenced blocks no peer writes to any more."""
        return int(lib.ct_pool_settled(self._valid()))

    def release(self) -> None:
        """Withdraws the region. Memory of the caller is in use until Event REGION_GONE."""
        with self.engine._lock:
            handle, self._handle = self._handle, 0
            if handle and not self.engine.is_closed:
                lib.ct_pool_release(handle)

    def _valid(self) -> int:
        if not self._handle or self.engine.is_closed:
            raise ValueError("the pool is released")
        return self._handle

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            self.release()
