"""`llmd bench overload`: twice what a pool can serve, and nothing is lost."""

import json
import subprocess

from conftest import LLMD, free_ports


def test_ten_seconds_of_overload_leave_nobody_without_an_answer():
    result = subprocess.run(
        [LLMD, "bench", "overload", "--json", "--engines", "4", "--capacity", "33",
         "--unloaded-seconds", "3", "--seconds", "10", "--first-port", str(free_ports(100))],
        capture_output=True, text=True, timeout=120,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    bands = {band["band"]: band for band in report["bands"]}
    assert report["unanswered"] == 0
    assert 1.5 < report["overload"] < 2.5
    assert all(
        band["requests"] == band["served"] + sum(band["refused"].values())
        for band in bands.values()
    ), bands
    # What matters is served, what may be shed is refused and told why.
    for name in ("high", "normal"):
        assert bands[name]["served"] == bands[name]["requests"] > 0, bands
    refused = bands["sheddable"]["refused"]
    assert refused["429 rejected-saturated"] > 50, bands
    assert set(refused) <= {"429 rejected-saturated", "429 rejected-ttl-expired"}, bands
    assert bands["sheddable"]["served"] > 0, bands
    assert bands["high"]["ttft_p50_ms"] < bands["normal"]["ttft_p50_ms"] \
        < bands["sheddable"]["ttft_p50_ms"], bands
    # At most a hundred of these wait: prompts of 4,000 tokens are 28 kB.
    grown = report["gateway_memory_peak_bytes"] - report["gateway_memory_before_bytes"]
    assert grown < 64 << 20
