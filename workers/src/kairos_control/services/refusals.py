"""Refused calls, for the audit. Anyone may be refused as often as they like, so what is recorded of it is bounded, in size and in number,
and the rest is counted.

A refusal is recorded at once while its source and the tenant have a budget for that; each of those may cost a signed head, and a head has
12 kB. The next ones are recorded together after ten minutes, and of all others there is a number. Each source has shares of its own, so
that one that is refused all the time hides no other, and callers who proved who they are have shares apart from those of strangers, who
may come from as many addresses as they like. What waits is in the object's memory: an eviction costs ten minutes of it, and an
object that was evicted was not under load.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..ports import Clock
from .journal import Journal

BURST, PER_HOUR = 20, 6
"""Refusals of all sources that are recorded at once: of callers who proved who they are, and as many of others."""
SOURCE_BURST, SOURCE_PER_HOUR = 5, 6
"""The same, of one source and kind."""
WINDOW_S = 600
TOGETHER = 15
"""Refusals that are recorded together after a window: of callers who proved who they are, and as many of others."""
SOURCE_TOGETHER = 3
"""The same, of one source and kind."""
_SOURCES_MAX = 10_000
_NAMED_MAX = 10  # sources and reasons that a summary names
_TEXT_MAX = 80  # characters of what an unauthenticated caller can choose


@dataclass(frozen=True, slots=True)
class _Refusal:
    kind: str
    actor: str
    subject: str
    reason: str


class Refusals:
    """Records the refused calls of one tenant."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._all = {proven: _Share(BURST, PER_HOUR) for proven in (False, True)}
        self._shares: dict[tuple[str, str], _Share] = {}  # the one that was used longest ago first
        self._window = 0.0  # when the first of these happened
        self._waiting: list[_Refusal] = []
        self._waiting_of: Counter[tuple[str, str]] = Counter()
        self._waiting_proven: Counter[bool] = Counter()
        self._reasons: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self.total = 0
        """How many calls were refused since this object is in memory."""

    def record(self, kind: str, *, actor: str, subject: str, reason: str, source: str, proven: bool) -> None:
        """source: whose shares it takes: an authenticated caller (`proven`) by name, everyone else by site_of() its address."""
        now = self._clock()
        self.total += 1
        self.record_waiting()
        refusal = _Refusal(kind, actor[:_TEXT_MAX], subject[:_TEXT_MAX], reason)
        if self._share(source, kind).take(now) and self._all[proven].take(now):
            self._record(refusal)
            return
        if not self._reasons and not self._waiting:
            self._window = now
        if self._waiting_proven[proven] < TOGETHER and self._waiting_of[source, kind] < SOURCE_TOGETHER:
            self._waiting.append(refusal)
            self._waiting_of[source, kind] += 1
            self._waiting_proven[proven] += 1
            return
        self._reasons[f"{kind} {reason}"] += 1
        if source in self._sources or len(self._sources) < _SOURCES_MAX:
            self._sources[source] += 1

    def record_waiting(self) -> None:
        """Records what waits since a window, one by one, and the number of those that were not even kept waiting."""
        if self._clock() < self._window + WINDOW_S or not (self._waiting or self._reasons):
            return
        for refusal in self._waiting:
            self._record(refusal)
        if self._reasons:
            self._journal.record(
                "request.flood",
                actor="",
                outcome="deny",
                reason=f"{sum(self._reasons.values())} more were refused",
                reasons=dict(self._reasons.most_common(_NAMED_MAX)),
                sources={name[:_TEXT_MAX]: count for name, count in self._sources.most_common(_NAMED_MAX)},
            )
        for each in (self._waiting, self._waiting_of, self._waiting_proven, self._reasons, self._sources):
            each.clear()

    def _record(self, refusal: _Refusal) -> None:
        self._journal.record(
            refusal.kind, actor=refusal.actor, subject=refusal.subject, outcome="deny", reason=refusal.reason
        )

    def _share(self, source: str, kind: str) -> _Share:
        share = self._shares.pop((source, kind), None) or _Share(SOURCE_BURST, SOURCE_PER_HOUR)
        self._shares[source, kind] = share
        if len(self._shares) > _SOURCES_MAX:
            del self._shares[next(iter(self._shares))]
        return share


class _Share:
    """A budget that refills with time."""

    __slots__ = ("_at", "_burst", "_left", "_per_hour")

    def __init__(self, burst: int, per_hour: int) -> None:
        self._burst, self._per_hour = burst, per_hour
        self._left, self._at = float(burst), 0.0

    def take(self, now: float) -> bool:
        if self._at:
            self._left = min(self._burst, self._left + max(0.0, now - self._at) / 3600 * self._per_hour)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
