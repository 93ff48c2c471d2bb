"""The measurements of waiting and of many sessions run, and their figures are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = {
    "stall": {
        "write_stall_p50_us",
        "write_stall_p99_us",
        "put_relay_p99_ms",
        "event_loop_delay_p99_ms",
        "receiver_gbit",
        "cuts_1000_ms",
        "cuts_1000_loaded_ms",
        "relay_queues_3000_cost_ratio",
        "idle_session_kb",
    },
    "scale": {"scale_1000_sessions_ratio", "own_paths_1_sessions_kpps", "own_paths_100_sessions_ratio"},
}


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_it_is_measured_quickly(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.json"
    done = subprocess.run(
        (sys.executable, "-m", f"bench.{name}", "--quick", "--json", str(file)),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / each) for each in ("", "tests"))},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(file.read_text())
    assert document["missing"] == {}
    assert FIGURES[name] <= set(document["figures"])
    assert all(value > 0 for figure, value in document["figures"].items() if figure in FIGURES[name])
