"""Addresses of what callers hand over: memory to register, and lists of block numbers."""

from __future__ import annotations

import array
import ctypes
from typing import Any, NamedTuple, Optional


class Memory(NamedTuple):
    """Bytes of this process; `owner` keeps them where they are."""

    address: int
    size_bytes: int
    owner: Any


def memory_of(value: Any) -> Memory:
    """The memory of a numpy array, a CPU tensor, a writable buffer or an (address, size) pair."""
    if isinstance(value, Memory):
        return value
    if isinstance(value, tuple):
        address, size_bytes = value
        return Memory(int(address), int(size_bytes), None)
    if hasattr(value, "data_ptr"):  # torch, without importing it
        if value.device.type != "cpu":
            raise ValueError(f"a tensor on {value.device}: only memory of the host is supported")
        if not value.is_contiguous():
            raise ValueError("the tensor is not contiguous")
        return Memory(value.data_ptr(), value.numel() * value.element_size(), value)
    interface = getattr(value, "__array_interface__", None)
    if interface is not None:
        address, is_read_only = interface["data"]
        if is_read_only:
            raise ValueError("the array is read-only")
        if not value.flags["C_CONTIGUOUS"]:
            raise ValueError("the array is not contiguous")
        return Memory(address, value.nbytes, value)
    view = memoryview(value)
    if view.readonly:
        raise ValueError("the buffer is read-only")
    if not view.c_contiguous:
        raise ValueError("the buffer is not contiguous")
    exported = (ctypes.c_char * view.nbytes).from_buffer(view.cast("B"))
    return Memory(ctypes.addressof(exported), view.nbytes, exported)


class Numbers(NamedTuple):
    """Unsigned numbers of 32 bits in a row; `owner` keeps them where they are."""

    address: int
    length: int
    owner: Any


def numbers_of(value: Any) -> Optional[Numbers]:
    """Block numbers: a numpy array or a buffer of uint32 is passed as it is, else copied."""
    if value is None:
        return None
    if isinstance(value, Numbers):
        return value
    if hasattr(value, "__array_interface__"):
        return _numbers_of_array(value)
    if not isinstance(value, array.array) or value.typecode != "I" or value.itemsize != 4:
        try:
            value = array.array("I", value)
        except OverflowError as error:
            raise ValueError("block numbers must be from 0 to 2**32 - 1") from error
    address, count = value.buffer_info()
    return Numbers(address, count, value)


def _numbers_of_array(value: Any) -> Numbers:
    if value.dtype.str[1:] != "u4" or not value.flags["C_CONTIGUOUS"]:
        if value.dtype.kind not in "iu":
            raise ValueError(f"block numbers of type {value.dtype}")
        if value.size and (int(value.min()) < 0 or int(value.max()) >> 32):
            raise ValueError("block numbers must be from 0 to 2**32 - 1")
        value = value.astype("u4", order="C")
    return Numbers(value.__array_interface__["data"][0], int(value.size), value)
