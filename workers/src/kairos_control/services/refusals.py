"""Refused calls, for the audit. Anyone may be refused as often as they like, so what is recorded of it is bounded, in size and in number,
and the rest is counted.

Each source has a share, so that one that is refused all the time hides no other; all sources together have a budget, so that many of
them do not fill the log. Kept in the object's memory: an eviction costs counts, and an object that was evicted was not under load.
"""

from __future__ import annotations

import ipaddress
from collections import Counter

from ..ports import Clock
from .journal import Journal

BURST, PER_MINUTE = 200, 5
"""Records of all sources together: at once, and for ever."""
SOURCE_BURST, SOURCE_PER_MINUTE = 10, 1
"""Records of one source and kind."""
SUMMARY_EVERY_S = 600
_SOURCES_MAX = 10_000
_NAMED_MAX = 10  # sources and reasons that a summary names
_TEXT_MAX = 80  # characters of what an unauthenticated caller can choose


class Refusals:
    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._all = _Share(BURST, PER_MINUTE)
        self._shares: dict[tuple[str, str], _Share] = {}  # the one that was used longest ago first
        self._reasons: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()
        self._summary_at = 0.0
        self.total = 0
        """How many calls were refused since this object is in memory."""

    def record(self, kind: str, *, actor: str, subject: str, reason: str, source: str) -> None:
        """source: whose share it takes: an authenticated caller by name, everyone else by prefix_of() its address."""
        now = self._clock()
        self.total += 1
        self.summarize()
        share = self._shares.pop((source, kind), None) or _Share(SOURCE_BURST, SOURCE_PER_MINUTE)
        self._shares[source, kind] = share
        if len(self._shares) > _SOURCES_MAX:
            del self._shares[next(iter(self._shares))]
        if share.take(now) and self._all.take(now):
            self._journal.record(
                kind, actor=actor[:_TEXT_MAX], subject=subject[:_TEXT_MAX], outcome="deny", reason=reason
            )
            return
        self._reasons[f"{kind} {reason}"] += 1
        if source in self._sources or len(self._sources) < _SOURCES_MAX:
            self._sources[source] += 1

    def summarize(self) -> None:
        """Records how many calls were refused and not recorded one by one, every ten minutes."""
        now = self._clock()
        if not self._reasons or now < self._summary_at:
            return
        left_out = sum(self._reasons.values())
        self._journal.record(
            "request.flood",
            actor="",
            outcome="deny",
            reason=f"{left_out} more were refused",
            reasons=dict(self._reasons.most_common(_NAMED_MAX)),
            sources={name[:_TEXT_MAX]: count for name, count in self._sources.most_common(_NAMED_MAX)},
        )
        self._reasons.clear()
        self._sources.clear()
        self._summary_at = now + SUMMARY_EVERY_S


class _Share:
    """A budget that refills with time."""

    __slots__ = ("_at", "_burst", "_left", "_per_minute")

    def __init__(self, burst: int, per_minute: int) -> None:
        self._burst, self._per_minute = burst, per_minute
        self._left, self._at = float(burst), 0.0

    def take(self, now: float) -> bool:
        if self._at:
            self._left = min(self._burst, self._left + max(0.0, now - self._at) / 60 * self._per_minute)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def prefix_of(address: str) -> str:
    """What one caller can have of an Internet: a whole IPv4 address, the /64 of an IPv6 address. Other text as it is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))
