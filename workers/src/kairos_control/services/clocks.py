"""Clock skew of nodes: the fabric tolerates CLOCK_SKEW_S and records an event from CLOCK_SKEW_REPORTED_S on."""

from __future__ import annotations

from kairos.constants import CLOCK_SKEW_REPORTED_S

from ..ports import Clock
from .journal import Journal

_EVERY_S = 3600  # between two events about one node
_KEPT = 10_000  # nodes


class Clocks:
    """The skew of one tenant's nodes, from the time stamps of their signed requests. It is kept in memory: after an
    eviction of the object a node may be recorded once more within the hour."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._recorded_at: dict[str, float] = {}  # by node, the oldest first

    def seen(self, node: str, ahead_s: int) -> None:
        """A node has sent a request. ahead_s: seconds by which its clock is ahead of ours; negative when it is
        behind."""
        now = self._clock()
        if abs(ahead_s) < CLOCK_SKEW_REPORTED_S or now < self._recorded_at.get(node, -_EVERY_S) + _EVERY_S:
            return
        self._recorded_at.pop(node, None)
        self._recorded_at[node] = now
        if len(self._recorded_at) > _KEPT:
            del self._recorded_at[next(iter(self._recorded_at))]
        said = f"its clock is {abs(ahead_s)} s {'ahead' if ahead_s > 0 else 'behind'}"
        self._journal.record("clock.skew", actor=node, subject=node, reason=said, ahead_s=ahead_s)
