"""Waiting grows, is capped, spread, and starts over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kairos_node.backoff import Backoff


@given(st.floats(0, 0.999), st.integers(1, 200))
def test_it_grows_to_its_cap_and_keeps_half_of_it(draw: float, failures: int) -> None:
    backoff = Backoff(0.25, 30.0, lambda: draw)
    waits = [backoff.next() for _ in range(failures)]
    assert waits == sorted(waits)
    assert all(wait <= 30.0 for wait in waits)
    assert 0.125 <= waits[0] <= 0.25
    if failures > 8:
        assert waits[-1] >= 15.0
    backoff.reset()
    assert backoff.next() == waits[0]
