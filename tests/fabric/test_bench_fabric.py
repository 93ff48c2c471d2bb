"""The measurement of the control plane runs, and its figures are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(1200)  # it starts three fabrics, one after the other
def test_the_control_plane_is_measured_with_a_few_devices(tmp_path: Path) -> None:
    file = tmp_path / "fabric.json"
    path = os.pathsep.join(str(ROOT / each) for each in ("", "workers/src", "tests"))
    done = subprocess.run(
        (sys.executable, "-m", "bench.fabric", "--quick", "--sizes", "8", "--json", str(file)),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(file.read_text())
    figures = document["figures"]
    assert document["missing"] == {}
    assert figures["requests_a_change"] >= 1  # each node fetches what is new
    for route in (
        "session_open",
        "session_renew",
        "introspect",
        "posture",
        "telemetry",
        "audit",
        "network",
        "certificate",
    ):
        assert figures[f"cpu_us_{route}_8"] > 0
        assert figures[f"bytes_{route}_8"] > 0
    # Each push goes to the devices and their gateway. On a slow machine the audit log's head is sealed and pushed meanwhile.
    assert figures["pushes_a_change"] in (9, 18)
    assert figures["usd_per_device_month"] > 0
