"""Posture at the two ends: what a device finds out about itself, and how long a gateway believes it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from kairos.constants import POSTURE_EVERY_S, POSTURE_LATE_S
from kairos_agent.checks import Check, run_checks
from kairos_agent.posture import _on_crypt, collect
from kairos_gateway.postures import Postures
from overlay import wait_for


def test_a_device_says_plain_facts() -> None:
    facts = collect()
    assert json.loads(json.dumps(facts)) == facts
    assert {"os", "kernel", "agent", "agent_sha256"} <= set(facts)
    assert len(facts["agent_sha256"]) == 64
    assert collect() == facts


def test_a_report_counts_until_it_is_late() -> None:
    now = 1000.0
    postures = Postures(lambda: now)
    assert postures.learn("ep-a", 1000, {"os": "debian"})
    assert not postures.learn("ep-a", 1001, {"os": "debian"})
    now = 1001.0 + POSTURE_LATE_S
    assert postures.of("ep-a") == {"os": "debian"}
    assert postures.became_late() == set()
    now += 1
    assert postures.of("ep-a") == {}
    assert postures.became_late() == {"ep-a"}
    assert postures.became_late() == set()
    assert postures.learn("ep-a", int(now), {"os": "debian"})
    assert postures.of("ep-a") == {"os": "debian"}


def test_silence_counts_like_one_report_in_thirty_seconds() -> None:
    now = 1000.0
    postures = Postures(lambda: now)
    postures.learn("ep-a", 1000, {"os": "debian"})
    now = 1000.0 + POSTURE_LATE_S
    assert postures.missed() == set()
    now += 1
    assert postures.missed() == {"ep-a"}
    assert postures.missed() == set()
    now += POSTURE_EVERY_S
    assert postures.missed() == {"ep-a"}
    postures.learn("ep-a", int(now), {"os": "debian"})
    assert postures.missed() == set()
    now += POSTURE_LATE_S + 1
    assert postures.missed() == {"ep-a"}


def test_an_older_report_does_not_replace_a_newer_one() -> None:
    postures = Postures(lambda: 1000.0)
    postures.learn("ep-a", 1000, {"disk_encrypted": False})
    assert not postures.learn("ep-a", 999, {"disk_encrypted": True})
    assert postures.of("ep-a") == {"disk_encrypted": False}
    assert postures.of("ep-b") == {}


def test_a_report_of_the_same_second_is_news_if_it_says_something_else() -> None:
    """And the same one, as a Welcome brings it again, is not counted twice."""
    postures = Postures(lambda: 1000.0)
    assert postures.is_news("ep-a", 1000, {"firewall": True})
    postures.learn("ep-a", 1000, {"firewall": True})
    assert not postures.is_news("ep-a", 1000, {"firewall": True})
    assert postures.is_news("ep-a", 1000, {"firewall": False})
    assert postures.is_news("ep-a", 1001, {"firewall": True})
    assert not postures.is_news("ep-a", 999, {"firewall": False})


def fact(*command: str, output: Literal["bool", "number", "text"] = "bool", timeout_s: float = 10.0) -> object:
    return run_checks([Check("x", list(command), output, timeout_s)]).get("check.x")


def test_a_check_answers_by_status_or_by_what_it_prints() -> None:
    assert fact("true") is True
    assert fact("false") is False
    assert fact("echo", "7", output="number") == 7
    assert fact("echo", "0.5", output="number") == 0.5
    assert fact("echo", "on", output="text") == "on"


def test_a_check_that_goes_wrong_gives_no_fact() -> None:
    assert fact("/nonexistent") is None
    assert fact("sh", "-c", "exit 2") is None
    assert fact("echo", "many", output="number") is None
    assert fact("sh", "-c", "echo on; exit 1", output="text") is None
    assert fact("head", "-c", "257", "/dev/zero", output="text") is None
    assert fact("sleep", "60", timeout_s=0.1) is None
    assert fact("sh", "-c", "exec >&-; sleep 60", timeout_s=0.1) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_a_check_runs_as_nobody_with_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert fact("id", "-u", output="number") == 65_534
    assert fact("id", "-G", output="text") == "65534"
    assert fact("sh", "-c", 'echo "<$SECRET>"', output="text") == "<>"


def test_a_check_leaves_nothing_running() -> None:
    """What it started in the background holds its output open no longer than the time it has."""
    printed = fact("sh", "-c", "sleep 600 >/dev/null & echo $!", output="number")
    stat = Path(f"/proc/{printed}/stat")
    wait_for("its end", lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_name_that_could_pass_for_a_fact_of_ours_is_refused() -> None:
    for name in ("Disk", "a.b", "", "x" * 40):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": name, "command": ["true"]}, Check)


def test_dm_crypt_counts_at_any_depth_and_on_every_leg(tmp_path: Path) -> None:
    def device(name: str, uuid: str, *slaves: Path) -> Path:
        path = tmp_path / name
        (path / "dm").mkdir(parents=True)
        (path / "slaves").mkdir()
        (path / "dm/uuid").write_text(uuid)
        for slave in slaves:
            (path / "slaves" / slave.name).symlink_to(slave)
        return path

    crypt, plain = device("dm-0", "CRYPT-LUKS2-x"), device("sda", "")
    assert _on_crypt(device("dm-1", "LVM-x", crypt))
    assert not _on_crypt(device("dm-2", "LVM-x", crypt, plain))
    assert not _on_crypt(plain)
