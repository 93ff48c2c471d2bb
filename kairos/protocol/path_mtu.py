"""T6, the endpoint's side: how large a datagram does the direct path carry whole? (docs/protocol.md §7, Path MTU)

    SEARCH --nothing left to try--> KNOWN --three lost confirmations, or the time to look again--> SEARCH

RFC 8899 with the numbers of §10. An answer has the size of its probe, so a size that is acknowledged passes both ways.
A search tries the sizes that links have all at once, then halves what is left; until it fails, the path is believed to
carry what we send. Every probe tells the peer what is known.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kairos.constants import (
    MTU_BASE,
    MTU_CONFIRM_EVERY_S,
    MTU_PRECISION,
    MTU_PROBE_TRIES,
    MTU_PROBE_WAIT_S,
    MTU_RAISE_AFTER_S,
)
from kairos.errors import BadMessage

_PROBE = struct.Struct("!IHHH")  # round, _MARK, size of this datagram, the limit that its sender knows
_MARK = 0xFFFE  # where a path probe has its candidate: none has this one
# UDP payload of links with an MTU of 1280 (IPv6, IPv4), 1400, 1480, 1492, 1500, 4352, 9000 (IPv6, IPv4).
_PLATEAUS = (MTU_BASE, 1232, 1252, 1372, 1452, 1464, 1472, 4324, 8952, 8972)


@dataclass(frozen=True, slots=True)
class SizeProbe:
    """Send this as a PROBE over the direct path, padded to `size` bytes of datagram, not to be fragmented."""

    size: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Limit:
    """No datagram above `size` passes whole. 0: all that we send passes, as far as is known."""

    size: int


class MtuSearch:
    """One tunnel's, on its direct path. largest: bytes of the largest datagram worth sending."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
        self.limit = 0
        self._round = self._since = 0  # answers to earlier rounds are of another path
        self._floor = self._ceiling = self._heard = 0  # passes; does not pass; the largest answer of this round
        self._tries = 0
        self._next: float | None = None
        self._raise_at: float | None = None

    @property
    def known(self) -> int:
        """What surely passes; 0: not known yet."""
        return self._floor

    def start(self, now: float) -> None:
        """A new path, of which nothing is known."""
        self.stop()
        if self.largest > MTU_BASE:
            self._search(0, self.largest + 1, now)

    def stop(self) -> None:
        """There is no direct path."""
        self.limit = self._floor = 0
        self._since = self._round
        self._next = self._raise_at = None

    def next_deadline(self) -> float | None:
        """When `tick` must be called next."""
        return self._next

    def tick(self, now: float) -> list[SizeProbe | Limit]:
        """Probes that are due, and what their silence says."""
        actions: list[SizeProbe | Limit] = []
        if self._next is None or now < self._next:
            return actions
        if self._raise_at is not None and now >= self._raise_at:
            self._search(self._floor, self.largest + 1, now)
        elif self._tries == MTU_PROBE_TRIES:
            actions += self._conclude(now)
            if self._next > now:
                return actions
        self._tries += 1
        self._round = (self._round + 1) & 0xFFFFFFFF
        self._next = now + MTU_PROBE_WAIT_S
        sizes = [size for size in self._sizes() if size > self._heard]
        return actions + [SizeProbe(size, _PROBE.pack(self._round, _MARK, size, self.limit)) for size in sizes]

    def acknowledged_untrusted(self, payload: bytes, size: int, now: float) -> list[SizeProbe | Limit]:
        """A PROBE_ACK of `size` bytes arrived, from our peer but perhaps late. Raises BadMessage."""
        number, told, _ = _parse_untrusted(payload)
        late = number <= self._since or number > self._round
        if self._next is None or late or size < told or told >= self._ceiling:
            return []
        self._heard = max(self._heard, told)
        if self._heard < max(self._sizes()):
            return []
        return self._conclude(now)

    def _search(self, floor: int, ceiling: int, now: float) -> None:
        self._floor, self._ceiling = floor, ceiling
        self._raise_at = None
        self._begin_round(now)

    def _begin_round(self, at: float) -> None:
        self._heard = self._tries = 0
        self._next = at

    @property
    def _searching(self) -> bool:
        return self._ceiling - self._floor > (1 if self._ceiling > self.largest else MTU_PRECISION)

    def _sizes(self) -> list[int]:
        """What this round tries: what is known, which also tells the peer of it, and the sizes of common links or the middle."""
        known = [self._floor] if self._floor else []
        if not self._searching:
            return known
        common = [size for size in _PLATEAUS if self._floor < size < self._ceiling]
        if self._ceiling > self.largest:
            common.append(self.largest)
        return known + (common or [(self._floor + self._ceiling) // 2])

    def _conclude(self, now: float) -> list[SizeProbe | Limit]:
        """The round is over: `_heard` passes, the next larger size does not."""
        if self._searching:
            self._ceiling = min((size for size in self._sizes() if size > self._heard), default=self._ceiling)
            self._floor = max(self._floor, self._heard, MTU_BASE)
            self._begin_round(now)  # of the search, or the first confirmation, which tells the peer
            if not self._searching and self._floor < self.largest:
                self._raise_at = now + MTU_RAISE_AFTER_S
        elif self._heard:
            self._begin_round(now + MTU_CONFIRM_EVERY_S)
        elif self._floor > MTU_BASE:
            self._search(0, self._floor, now)  # the path has become another, and narrower
            return []
        else:
            self._begin_round(now + MTU_CONFIRM_EVERY_S)
        return self._limited(self._floor if self._floor < self.largest else 0)

    def _limited(self, limit: int) -> list[SizeProbe | Limit]:
        if limit == self.limit:
            return []
        self.limit = limit
        return [Limit(limit)]


def is_size_probe(payload: bytes) -> bool:
    """Of a PROBE or PROBE_ACK: is it about sizes?"""
    return payload[4:6] == _MARK.to_bytes(2)


def limit_told_untrusted(payload: bytes) -> int:
    """What the sender of a size probe knows of the path; 0: no limit. Raises BadMessage."""
    limit = _parse_untrusted(payload)[2]
    if limit and limit < MTU_BASE:
        raise BadMessage(f"a path limit of {limit} bytes")
    return limit


def _parse_untrusted(payload: bytes) -> tuple[int, int, int]:
    if len(payload) < _PROBE.size or not is_size_probe(payload):
        raise BadMessage(f"size probe of {len(payload)} bytes")
    number, _, size, limit = _PROBE.unpack_from(payload)
    return number, size, limit
