"""What the relay remembers of tokens while the control plane is away: the newest of each session, and not without end."""

from __future__ import annotations

import time

import pytest

from kairos.api.session import Introspected
from kairos_relay import introspection
from kairos_relay.introspection import Introspections

LATER = int(time.time()) + 86_400  # no run of the suite is as long


def who(session: str, node: str = "ep-a", expires_at: int = LATER) -> Introspected:
    return Introspected(node, "acme", "endpoint", session, expires_at)


def test_a_token_is_known_until_its_session_has_a_newer_one() -> None:
    known = Introspections()
    known.learn("acme.first", who("s-1"))
    assert known.of("acme.first") == who("s-1")
    assert known.of("acme.other") is None
    known.learn("acme.second", who("s-1"))
    assert known.of("acme.first") is None
    assert known.of("acme.second") == who("s-1")


def test_a_token_that_has_expired_is_not_known() -> None:
    known = Introspections()
    known.learn("acme.old", who("s-1", expires_at=int(time.time()) - 1))
    assert known.of("acme.old") is None


def test_a_cut_forgets_the_tokens_of_a_node_or_of_a_session() -> None:
    known = Introspections()
    for number, node in enumerate(("ep-a", "ep-a", "ep-b", "ep-c")):
        known.learn(f"acme.{number}", who(f"s-{number}", node))
    known.cut("ep-a", "")
    known.cut("", "s-2")
    assert [known.of(f"acme.{number}") is not None for number in range(4)] == [False, False, False, True]


def test_the_oldest_goes_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introspection, "_KEPT", 3)
    known = Introspections()
    for number in range(3):
        known.learn(f"acme.{number}", who(f"s-{number}"))
    known.learn("acme.0b", who("s-0"))  # renewed, so no longer the oldest
    known.learn("acme.3", who("s-3"))
    assert [known.of(f"acme.{each}") is not None for each in ("0b", 1, 2, 3)] == [True, False, True, True]
