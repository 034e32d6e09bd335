"""The structs of `_abi.py` are those of the library."""

import ctypes
import re

import pytest
from conftest import ROOT
from llmd_connector import _abi, errors

ABI = (ROOT / "Sources/CConnector/abi.txt").read_text()


def layouts():
    """By struct: its size, and the offsets of its members by name."""
    found = {}
    for part in re.split(r"^struct ", ABI, flags=re.M)[1:]:
        lines = part.splitlines()
        offsets = {}
        for line in lines[1:]:
            if "[sizeof=" in line:
                size = int(re.search(r"sizeof=(\d+)", line).group(1))
                found[lines[0]] = size, offsets
                break
            offset, name = re.match(r"\s+(\d+) .*?(\w+)$", line).groups()
            offsets[name] = int(offset)
    return found


@pytest.mark.parametrize("name", _abi.STRUCTS)
def test_struct(name):
    struct = _abi.STRUCTS[name]
    size, offsets = layouts()[name]
    assert ctypes.sizeof(struct) == size
    if name == "ct_engine_id":  # one array, which the list has by its type
        return
    assert {field: getattr(struct, field).offset for field, _ in struct._fields_} == offsets


def test_constants():
    constants = dict(re.findall(r"^constant (\w+) = (-?\d+)$", ABI, flags=re.M))
    for i, path in enumerate(_abi.PATHS):
        assert constants[f"CT_PATH_{path.upper()}"] == str(i)
    assert constants["CT_LIMIT_COUNT"] == str(_abi.LIMIT_COUNT)
    assert constants["CT_PATH_COUNT"] == str(len(_abi.PATHS))
    assert constants["CT_EVENT_REGION_GONE"] == str(_abi.EVENT_REGION_GONE)
    statuses = {int(value) for name, value in constants.items()
                if re.match(r"CT_E[A-Z]+$", name)}
    assert set(errors._CLASSES) == statuses


def test_every_function_is_exported():
    for function in _abi.FUNCTIONS:
        assert re.search(rf"\b{function}\(", ABI), function
