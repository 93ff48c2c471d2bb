"""Whose clock is off: tolerated up to CLOCK_SKEW_S, and on record from CLOCK_SKEW_REPORTED_S on."""

from __future__ import annotations

from kairos.constants import CLOCK_SKEW_REPORTED_S

from ..ports import Clock
from .journal import Journal

_EVERY_S = 3600
_KEPT = 10_000


class Clocks:
    """By the time stamps of signed requests. In the object's memory: an eviction costs one more event."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._told: dict[str, float] = {}  # when it was recorded last; oldest first

    def seen(self, node: str, ahead_s: int) -> None:
        """A request of the node was signed so long before (negative) or after our own time."""
        now = self._clock()
        if abs(ahead_s) < CLOCK_SKEW_REPORTED_S or now < self._told.get(node, -_EVERY_S) + _EVERY_S:
            return
        self._told.pop(node, None)
        self._told[node] = now
        if len(self._told) > _KEPT:
            del self._told[next(iter(self._told))]
        said = f"its clock is {abs(ahead_s)} s {'ahead' if ahead_s > 0 else 'behind'}"
        self._journal.record("clock.skew", actor=node, subject=node, reason=said, ahead_s=ahead_s)
