"""What comes through the relay is handed over to the receiver: nobody waits for it, and no channel takes another's room."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine_build import build_driver
from engine_rig import RELAY, Rig
from kairos.wire.datagram import DatagramType
from kairos_dataplane.engine import FRAME_MAX


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc builds the driver")
def test_a_flood_behind_a_receiver_that_stands_still_costs_the_flooder_alone(tmp_path: Path) -> None:
    driver = build_driver("inbox", tmp_path, "-O1 -fsanitize=thread")
    options = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    run = subprocess.run((str(driver), "openssl"), env=options, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr[-6000:]
    told = {name: int(value) for name, value in map(str.split, run.stdout.splitlines())}
    assert told["victim_received"] == told["victim_sent"] == 4
    assert told["drop_inbox_full"] == told["flooder_sent"] - told["flooder_received"] > 0
    assert told["flooder_received"] > told["flooder_sent"] // 8


def test_a_frame_above_the_largest_is_refused(rig: Rig) -> None:
    record = rig.seal(b"x" * 1000, DatagramType.KEEPALIVE)
    frame = (len(record).to_bytes(2) + record) * 300
    assert len(frame) > FRAME_MAX
    with pytest.raises(OSError, match="long"):
        rig.engine.put_relay(RELAY, frame)
    rig.engine.settle()
    assert "rx_relay_datagrams" not in rig.counted()


def test_what_does_not_fit_a_chunk_of_a_relay_queue_comes_out_whole(rig: Rig) -> None:
    """Records of many sizes, so that their parts and lengths lie across the ends of chunks."""
    sizes = [1 + number * 37 % 1190 for number in range(700)]
    for number, size in enumerate(sizes):
        rig.engine.send_control(rig.session, DatagramType.KEEPALIVE, number.to_bytes(2) + bytes(size - 1))
        if number % 90 == 89:
            assert [plain for _, plain in rig.sent()] == [
                each.to_bytes(2) + bytes(sizes[each] - 1) for each in range(number - 89, number + 1)
            ]
