"""The path finder on a virtual clock: docs/protocol.md §7, Paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.errors import BadMessage
from kairos.protocol.path import Move, PathFinder, Probe

A, B = ("192.0.2.1", 7000), ("192.0.2.2", 7000)


def probes(actions: list[Probe | Move]) -> list[Probe]:
    return [action for action in actions if isinstance(action, Probe)]


def test_probes_every_candidate_each_second_and_moves_to_the_first_that_answers() -> None:
    finder = PathFinder("auto", (A, B), now=0.0)
    first = probes(finder.tick(0.0))
    assert [probe.to for probe in first] == [A, B]
    assert finder.tick(0.5) == []
    assert finder.acknowledged_untrusted(first[1].payload, 0.02) == [Move(B)]
    assert finder.current == B
    assert finder.acknowledged_untrusted(first[0].payload, 0.03) == []
    assert len(probes(finder.tick(1.0))) == 2


def test_three_seconds_of_silence_lead_back_to_the_relay_and_an_answer_to_direct() -> None:
    finder = PathFinder("auto", (A,), now=0.0)
    [probe] = probes(finder.tick(0.0))
    finder.acknowledged_untrusted(probe.payload, 0.0)
    moved = []
    for second in (1.0, 2.0, 3.0):
        moved += [a for a in finder.tick(second) if isinstance(a, Move)]
    assert moved == [Move(None)]
    [probe] = probes(finder.tick(4.0))
    assert finder.acknowledged_untrusted(probe.payload, 4.1) == [Move(A)]


def test_an_answer_to_a_probe_of_long_ago_moves_nothing() -> None:
    finder = PathFinder("auto", (A,), now=0.0)
    [old] = probes(finder.tick(0.0))
    for second in range(1, 6):
        finder.tick(float(second))
    assert finder.acknowledged_untrusted(old.payload, 5.0) == []


def test_relay_mode_never_probes() -> None:
    finder = PathFinder("relay", (A,), now=0.0)
    assert finder.next_deadline() is None
    assert finder.tick(100.0) == []


@given(st.binary(max_size=12))
def test_any_payload_is_ignored_or_bad(payload: bytes) -> None:
    finder = PathFinder("auto", (A,), now=0.0)
    finder.tick(0.0)
    try:
        actions = finder.acknowledged_untrusted(payload, 0.1)
    except BadMessage:
        return
    assert actions in ([], [Move(A)])


def test_malformed_payload_is_bad() -> None:
    with pytest.raises(BadMessage):
        PathFinder("auto", (A,), now=0.0).acknowledged_untrusted(b"x", 0.0)
