"""Lists of descriptors in the shape of NIXL's, as arrays, and the blocks they are."""

from __future__ import annotations

import json
from typing import Any, ClassVar, NamedTuple, Optional, TypeVar

from .buffers import Memory, memory_of
from .errors import InvalidArgument, NoSuchRegion, NotSupported
from .memory import Pool, Region
from .transfer import Plane

try:
    import numpy as np
except ImportError as _error:
    raise ImportError("llmd_connector.nixl needs numpy") from _error

_HOST = {"DRAM", "cpu", "DRAM_SEG", None}
_Self = TypeVar("_Self", bound="_DescList")


class _DescList:
    """Addresses, lengths and devices, a descriptor a row."""

    _columns: ClassVar[int]

    def __init__(self, rows: Any, tags: list[Any], owners: list[Any]) -> None:
        self.rows = np.ascontiguousarray(rows, dtype=np.uint64).reshape(-1, 3)
        self.tags = tags
        self._owners = owners

    @classmethod
    def make(cls: type[_Self], descs: Any, mem_type: Optional[str]) -> _Self:
        """From tuples or rows of three columns with a memory type, or from arrays or tensors."""
        if isinstance(descs, cls):
            return descs
        if isinstance(descs, _DescList):
            raise InvalidArgument(f"a {type(descs).__name__} where a {cls.__name__} is needed", -1)
        if mem_type not in _HOST:
            raise NotSupported(f"memory of type {mem_type}: only memory of the host is moved", -12)
        if mem_type is not None and isinstance(descs, np.ndarray) and descs.ndim == 2:
            if descs.shape[1] != 3:
                raise InvalidArgument(f"rows of {descs.shape[1]} columns; 3 are needed", -1)
            return cls(descs, [""] * len(descs), [None] * len(descs))
        items = descs if isinstance(descs, (list, tuple)) else [descs]
        if items and isinstance(items[0], tuple):
            if mem_type is None:
                raise InvalidArgument("tuples need a memory type", -1)
            if any(len(item) != cls._columns for item in items):
                raise InvalidArgument(f"tuples of {cls._columns} members are needed", -1)
            tags = [item[3] if cls._columns == 4 else "" for item in items]
            return cls([item[:3] for item in items], tags, [None] * len(items))
        memories = [memory_of(item) for item in items]
        return cls(
            [(memory.address, memory.size_bytes, 0) for memory in memories], [""] * len(memories),
            [memory.owner for memory in memories])

    @property
    def addresses(self) -> Any:
        return self.rows[:, 0]

    @property
    def lengths(self) -> Any:
        return self.rows[:, 1]

    def memories(self) -> list[Memory]:
        """Each with what keeps it."""
        return [
            Memory(int(row[0]), int(row[1]), owner)
            for row, owner in zip(self.rows, self._owners)
        ]

    def to_bytes(self) -> bytes:
        return json.dumps(self.rows.tolist(), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls: type[_Self], data: bytes) -> _Self:
        rows = json.loads(data)
        return cls(rows, [""] * len(rows), [None] * len(rows))

    def descCount(self) -> int:
        return len(self.rows)

    def isEmpty(self) -> bool:
        return len(self.rows) == 0

    def __len__(self) -> int:
        return len(self.rows)


class nixlXferDList(_DescList):
    """What is to be moved: (address, length, device)."""

    _columns = 3

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        address, length, device = self.rows[index].tolist()
        return address, length, device


class nixlRegDList(_DescList):
    """What is to be registered: (address, length, device, tag)."""

    _columns = 4

    def __getitem__(self, index: int) -> tuple[int, int, int, Any]:
        address, length, device = self.rows[index].tolist()
        return address, length, device, self.tags[index]

    def trim(self) -> nixlXferDList:
        """The same as something to be moved."""
        return nixlXferDList(self.rows, self.tags, self._owners)


class Registry:
    """Registered memory by address."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, Region, Optional[Pool]]] = []
        self._bases: Any = np.empty(0, np.uint64)

    def add(self, address: int, region: Region, pool: Optional[Pool]) -> None:
        self._entries.append((address, region, pool))
        self._entries.sort(key=lambda entry: entry[0])
        self._bases = np.array([entry[0] for entry in self._entries], np.uint64)

    def remove(self, address: int, size_bytes: int) -> Pool:
        for index, (base, region, pool) in enumerate(self._entries):
            if base == address and region.size_bytes == size_bytes and pool is not None:
                del self._entries[index]
                self._bases = np.delete(self._bases, index)
                return pool
        raise NoSuchRegion(f"{size_bytes} bytes at {address:#x} are not registered", -5)

    def entries(self) -> list[tuple[int, Region]]:
        return [(address, region) for address, region, _ in self._entries]

    def find(self, addresses: Any, lengths: Any) -> tuple[Any, Any]:
        """For each range the position of its region and its offset there."""
        positions = np.searchsorted(self._bases, addresses, side="right").astype(np.int64) - 1
        if len(self._entries) == 0:
            bad = np.ones(len(addresses), bool)
        else:
            sizes = np.array([entry[1].size_bytes for entry in self._entries], np.uint64)
            offsets = addresses - self._bases[positions]
            bad = (positions < 0) | (lengths > sizes[positions]) | (
                offsets > sizes[positions] - np.minimum(lengths, sizes[positions]))
        if bad.any():
            first = int(np.argmax(bad))
            raise NoSuchRegion(
                f"descriptor {first}: {int(lengths[first])} bytes at {int(addresses[first]):#x} "
                "lie in no registered memory", -5)
        return positions, offsets

    def entry(self, position: int) -> tuple[int, Region, Optional[Pool]]:
        return self._entries[position]


class PreppedList:
    """Descriptors of one side with their regions, as they were when it was made."""

    def __init__(self, agent: str, descs: nixlXferDList, registry: Registry) -> None:
        self.agent = agent
        self.lengths = descs.lengths.copy()
        if not self.lengths.all():
            raise InvalidArgument("a descriptor of no bytes", -1)
        positions, self.offsets = registry.find(descs.addresses, self.lengths)
        used, self.positions = np.unique(positions, return_inverse=True)
        self.entries = [registry.entry(int(position)) for position in used]

    def __len__(self) -> int:
        return len(self.lengths)


class Group(NamedTuple):
    """What one transfer moves: blocks of one length, of one local and one remote region."""

    pool: Pool
    region: Region
    local_ids: Any
    remote_ids: Any
    local_planes: list[Plane]
    remote_planes: list[Plane]
    size: int


def _chosen(side: PreppedList, indices: Any) -> Any:
    if indices is None:
        return np.arange(len(side))
    chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= len(side)):
        raise InvalidArgument(f"an index outside of a list of {len(side)} descriptors", -1)
    return chosen


def _blocks(offsets: Any, length: int) -> tuple[Any, list[Plane]]:
    """Numbers and the plane that make these offsets: from the first on, in steps that all fit."""
    first = offsets.min()
    steps = offsets - first
    stride = int(np.gcd.reduce(steps)) or length
    numbers = steps // np.uint64(stride)
    if int(numbers.max()) >> 32:
        raise NotSupported("descriptors too far apart for numbers of 32 bits", -12)
    return numbers.astype("u4"), [Plane(int(first), stride, length)]


def groups_of(
    local: PreppedList, local_indices: Any, remote: PreppedList, remote_indices: Any
) -> list[Group]:
    """The transfers that move chosen descriptors of one side to or from those of the other."""
    chosen_local = _chosen(local, local_indices)
    chosen_remote = _chosen(remote, remote_indices)
    if len(chosen_local) != len(chosen_remote):
        raise InvalidArgument(
            f"{len(chosen_local)} local descriptors and {len(chosen_remote)} remote ones", -1)
    lengths = local.lengths[chosen_local]
    if not np.array_equal(lengths, remote.lengths[chosen_remote]):
        raise InvalidArgument("descriptors of different lengths", -1)
    keys = np.stack([
        local.positions[chosen_local].astype(np.uint64),
        remote.positions[chosen_remote].astype(np.uint64), lengths,
    ])
    if keys.shape[1] and (keys == keys[:, :1]).all():
        kinds, kind_of = keys[:, :1], None  # sorting takes far longer than this
    else:
        kinds, kind_of = np.unique(keys, axis=1, return_inverse=True)
        kind_of = kind_of.reshape(-1)
    groups = []
    for kind in range(kinds.shape[1]):
        members = slice(None) if kind_of is None else kind_of == kind
        local_position, remote_position, length = (int(number) for number in kinds[:, kind])
        local_ids, local_planes = _blocks(local.offsets[chosen_local[members]], length)
        remote_ids, remote_planes = _blocks(remote.offsets[chosen_remote[members]], length)
        pool = local.entries[local_position][2]
        assert pool is not None
        groups.append(Group(
            pool, remote.entries[remote_position][1], local_ids, remote_ids, local_planes,
            remote_planes, len(local_ids)))
    return groups
