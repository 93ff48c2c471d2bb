"""A flood of new flows from one peer: it is refused by name, in bounded memory, and no other peer loses a packet."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine_build import build_driver

GROWN_MAX_KB = 64 * 1024
# One of these for each SYN of the flood that opened no flow.
REFUSALS = ("drop_undecided", "drop_flow_quota", "drop_flow_table_full")
SHARED = ("drop_event_full", "drop_pending", "drop_tun_write")

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the driver")


@pytest.mark.parametrize(("flags", "syns"), [("-O2", 2_000_000), ("-O1 -fsanitize=thread", 30_000)])
def test_a_syn_flood_of_one_peer_takes_nothing_from_another(tmp_path: Path, flags: str, syns: int) -> None:
    driver = build_driver("flood", tmp_path, flags)
    run = subprocess.run(
        (str(driver), "openssl", str(syns)),
        env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.returncode == 0, run.stderr[-6000:]
    told = {name: int(value) for name, value in map(str.split, run.stdout.splitlines())}
    assert told["victim_delivered"] == told["victim_sent"]
    assert told["victim_live"] == told["victim_opened"]
    assert {name: told[name] for name in SHARED} == dict.fromkeys(SHARED, 0)
    opened = told["flows_opened"] - told["victim_opened"]
    assert opened + sum(told[name] for name in REFUSALS) == syns
    if "sanitize" not in flags:
        assert told["grown_kb"] < GROWN_MAX_KB
