"""The pure core runs inside workerd and says there what it says here: same text, same bytes."""

from __future__ import annotations

from pathlib import Path

from bare_worker import answer_of
from core_probe import report
from fabric_host import FabricHost

PROBE = Path(__file__).parents[1] / "core_probe.py"


def test_it_says_the_same_in_workerd(host: FabricHost, tmp_path: Path) -> None:
    assert answer_of(host, tmp_path, "report", [PROBE]) == report()
