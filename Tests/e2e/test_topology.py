"""`llmd topology`: this machine, and others from hwloc's XML."""

import json
import subprocess

import pytest
from conftest import LLMD, ROOT

MACHINES = ROOT / "Tests/Vectors/topology"


def topology(*arguments):
    return subprocess.run(
        [LLMD, "topology", *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def test_this_machine():
    told = topology()
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "memory", "GPUs", "NICs", "ways (* the nearest of its kind)", "libraries", "limits",
    ]
    found = json.loads(topology("--json").stdout)
    assert found["nodes"] and found["nodes"][0]["memory_bytes"] > 0
    assert [library["name"] for library in found["libraries"]] == [
        "ucx", "hwloc", "numa", "openssl", "cuda",
    ]
    assert {limit["name"] for limit in found["limits"]} == {
        "memlock", "ptrace", "shared huge pages",
    }


@pytest.mark.parametrize(("file", "gpu", "nic"), [
    ("hgx-h100.xml", "gpu4", "mlx5_6"), ("dgx-a100.xml", "gpu5", "mlx5_5"),
])
def test_another_machine(file, gpu, nic):
    found = json.loads(topology("--json", "--xml", MACHINES / file).stdout)
    assert len(found["gpus"]) == 8
    assert found["libraries"] == found["limits"] == []
    nearest = {device["name"]: device["nearest_nic"] for device in found["gpus"]}
    assert nearest[gpu] == nic
    routes = {(route["from"], route["to"]): route for route in found["routes"]}
    assert routes[gpu, nic]["distance"] == "switch"
    assert routes[gpu, nic]["way"] == "rdma"
    assert routes[gpu, nic]["is_nearest"]
    assert routes["gpu3", "gpu4"]["way"] == "staged"
    assert routes["node0", "node0"]["way"] == "host"
    text = topology("--xml", MACHINES / file).stdout
    assert f"nearest {nic}" in text
    assert f" {nic}*" in text
    assert "limits" not in text


def test_what_is_wrong_is_told():
    told = topology("--xml", "/nonexistent.xml")
    assert told.returncode == 1
    assert told.stderr == "llmd: /nonexistent.xml: No such file or directory\n"
    assert topology("--yaml").returncode == 2
