"""How long flows live, by a clock that the driver moves; and that a cut takes the flows of its own session alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine_build import build_driver
from engine_rig import HOST, PEER, VNI, Rig, udp_packet, whole
from kairos_dataplane import End

# Seconds without a packet, and what the wheel may be late: less than two of its ticks.
LIVES = {"udp": 60, "tcp": 60, "closed": 10, "denied": 10, "pending": 5}
LATE = 2


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the driver")
@pytest.mark.parametrize("flags", ["address,undefined", "thread"])
def test_flows_live_as_long_as_they_should_and_a_cut_takes_its_own(tmp_path: Path, flags: str) -> None:
    driver = build_driver("lives", tmp_path, f"-O1 -fsanitize={flags} -fno-sanitize-recover=all")
    options = {"ASAN_OPTIONS": "detect_leaks=1", "TSAN_OPTIONS": "halt_on_error=1"}
    run = subprocess.run(
        (str(driver), "openssl", "5000"), env={**os.environ, **options}, capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr[-6000:]
    told = {name: int(value) for name, value in map(str.split, run.stdout.splitlines())}
    assert (told.pop("cut"), told.pop("left"), told.pop("after")) == (0, 5000, 0)
    assert set(told) == set(LIVES)
    assert not {name: at for name, at in told.items() if not LIVES[name] < at <= LIVES[name] + LATE}


def test_sessions_are_cut_together(rig: Rig) -> None:
    flow = rig.allow_from_peer(udp_packet(PEER, HOST, b"question"))
    other = rig.engine.add_session(VNI)
    rig.engine.cut_sessions([other, rig.session, other, 12345])
    ([over], _) = rig.engine.ended()
    assert (over.id, over.ended) == (flow.id, End.CUT)
    with pytest.raises(OSError, match="No such"):
        rig.engine.session_stats(other)
    rig.put(rig.seal(whole(udp_packet(PEER, HOST, b"late"))))
    assert rig.drops() == {"drop_unknown_session": 1}
