"""Posture at the two ends: what a device finds out about itself, and how long a gateway believes it."""

from __future__ import annotations

import json

from kairos.constants import POSTURE_LATE_S
from kairos_agent.posture import collect
from kairos_gateway.postures import Postures


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


def test_an_older_report_does_not_replace_a_newer_one() -> None:
    postures = Postures(lambda: 1000.0)
    postures.learn("ep-a", 1000, {"disk_encrypted": False})
    assert not postures.learn("ep-a", 999, {"disk_encrypted": True})
    assert postures.of("ep-a") == {"disk_encrypted": False}
    assert postures.of("ep-b") == {}
