"""The OPA server as the engine: its answers are told elsewhere; here it is slow, gone, or not there at all."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kairos.errors import BadMessage
from kairos_cli.policy import shipped_bundle
from kairos_node.policy.bundle import Bundle, unpack_untrusted
from kairos_node.policy.opa import OpaEngine
from overlay import wait_for

OPA = shutil.which("opa") or str(Path(__file__).parents[2] / ".tools/bin/opa")
ASK: dict[str, Any] = {"device": {"role": "gateway", "tags": []}}
PATIENT_MS = 20_000
SLOW = """package kairos.admission

decision := {"allow": true, "rule": "slow", "reason": ""} if {
	input.slow
	count({x | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); x := a * b}) > 1
} else := {"allow": true, "rule": "quick", "reason": ""}
"""


@pytest.fixture
def engine() -> Iterator[OpaEngine]:
    engine = OpaEngine(unpack_untrusted(shipped_bundle()), 3, b"", PATIENT_MS, OPA)
    yield engine
    engine.close()


def servers(engine: OpaEngine) -> list[int]:
    """Process ids of OPA, and of the shell that holds it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"unix://{engine.folder}/socket".encode() in words:
                found.append(int(entry.name))
    return found


def test_it_decides_and_leaves_nothing_behind(engine: OpaEngine) -> None:
    assert engine.decide("admission", ASK).hold
    assert engine.decide("nonsense", ASK).rule == "deny:undefined"
    assert engine.explain({"device": {}}) == []
    assert engine.folder.stat().st_mode & 0o077 == 0
    engine.close()
    wait_for("the end of OPA", lambda: not servers(engine))
    assert not engine.folder.exists()


def test_while_it_is_gone_all_is_denied_and_it_comes_back(engine: OpaEngine) -> None:
    for process in servers(engine):
        os.kill(process, signal.SIGKILL)
    denied = engine.decide("admission", ASK)
    assert (denied.allow, denied.rule) == (False, "deny:policy-failed")
    assert "OPA does not answer" in denied.reason
    wait_for("OPA", lambda: engine.decide("admission", ASK).hold)


def test_a_decision_over_its_budget_is_deny_and_the_next_one_is_right() -> None:
    engine = OpaEngine(Bundle(b"", b"{}", {"slow.rego": SLOW}), 1, b"", 100, OPA)
    try:
        assert engine.decide("admission", {"slow": True}).rule == "deny:policy-failed"
        wait_for("a quick answer", lambda: engine.decide("admission", {"slow": False}).rule == "quick")
    finally:
        engine.close()


def test_rules_that_opa_does_not_take_are_no_policy() -> None:
    with pytest.raises(BadMessage, match="OPA does not run this policy"):
        OpaEngine(Bundle(b"", b"{}", {"broken.rego": "package kairos.egress\n\ndecision := {"}), 1, b"", 50, OPA)


def test_a_missing_program_is_said_so() -> None:
    with pytest.raises(BadMessage, match="there is no program opa-of-nowhere"):
        OpaEngine(Bundle(b"", b"{}"), 1, b"", 50, "opa-of-nowhere")
