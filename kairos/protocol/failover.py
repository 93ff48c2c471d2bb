"""Which of several gateways carries a VNI (docs/protocol.md §7, Several gateways).

All members of a VNI rank its gateways alike, so both ends of a flow use the same one as long as both can reach it, and
the gateway sees both directions. Load is spread by VNI: among gateways of one priority each VNI draws its own order, a
gateway being first in proportion to its weight (weighted rendezvous hashing: when one gateway goes, no VNI moves but its).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass

WARM = 2  # tunnels that an endpoint keeps for each VNI
BEAT_DIRECT_S = 0.2
BEAT_RELAYED_S = 1.0  # each is a message to pay for at the relay, which says by itself when a gateway's socket closes
BEATS_MISSED = 3
SETTLED_AFTER_S = 10.0  # a better gateway must have been well for so long before traffic goes back to it
_BEAT = struct.Struct("!IH")
_NO_CANDIDATE = 0xFFFF


@dataclass(frozen=True, slots=True)
class Rank:
    """priority: lower is better; weight: its share among gateways of the same priority."""

    priority: int = 100
    weight: int = 100


def order(vni: int, gateways: Mapping[str, Rank]) -> list[str]:
    """The gateways of a VNI, best first: the same at every member."""
    return sorted(gateways, key=lambda node: (gateways[node].priority, -_score(vni, node, gateways[node].weight), node))


def warm(ranked: Collection[str], down: Collection[str], wanted: int = WARM) -> set[str]:
    """Those to hold tunnels to: the best that are not down, and every better one, which may come back."""
    chosen: set[str] = set()
    for node in ranked:
        if len(chosen - set(down)) >= wanted:
            break
        chosen.add(node)
    return chosen


def _score(vni: int, node: str, weight: int) -> float:
    drawn = int.from_bytes(hashlib.sha256(f"{vni}/{node}".encode()).digest()[:8], "big")
    uniform = (drawn + 1) / (2**64 + 1)  # in (0, 1)
    return -weight / math.log(uniform)


class Health:
    """One gateway, as its tunnel's answers show it: `well` while it is heard, `settled` once that has lasted."""

    def __init__(self) -> None:
        self._well_since: float | None = None

    @property
    def well(self) -> bool:
        return self._well_since is not None

    def heard(self, now: float) -> None:
        if self._well_since is None:
            self._well_since = now

    def lost(self) -> None:
        self._well_since = None

    def settles_at(self) -> float | None:
        """When it counts as settled; None while it is not well."""
        return None if self._well_since is None else self._well_since + SETTLED_AFTER_S


class Choice:
    """The gateway in use for one VNI. Leaves a lost one at once, and goes back to a better one only when that has settled."""

    def __init__(self) -> None:
        self.current: str | None = None

    def choose(self, ranked: Collection[str], health: Mapping[str, Health], now: float) -> str | None:
        """ranked: best first; None: no gateway is well."""
        well = [node for node in ranked if node in health and health[node].well]
        if self.current not in well:
            self.current = well[0] if well else None
            return self.current
        for node in well[: well.index(self.current)]:
            settles_at = health[node].settles_at()
            if settles_at is not None and now >= settles_at:
                self.current = node
                break
        return self.current


class Heartbeat:
    """Is the other end of a tunnel there? A PROBE each `every` seconds over the path in use; silent after three of them.

    Its payload is a path probe's with a candidate that no path finder has, so neither takes the other's answers.
    """

    def __init__(self, now: float) -> None:
        self._round = 0
        self._sent_at = now - BEAT_RELAYED_S
        self._heard_at = now

    def tick(self, direct: bool, now: float) -> bytes | None:
        """What to send now; None: not yet."""
        if now < self._sent_at + (BEAT_DIRECT_S if direct else BEAT_RELAYED_S):
            return None
        self._round = (self._round + 1) & 0xFFFFFFFF
        self._sent_at = now
        return _BEAT.pack(self._round, _NO_CANDIDATE)

    def acknowledged_untrusted(self, payload: bytes, now: float) -> bool:
        """False: the answer is not to one of ours."""
        if len(payload) != _BEAT.size or _BEAT.unpack(payload)[1] != _NO_CANDIDATE:
            return False
        self._heard_at = now
        return True

    def received(self, now: float) -> None:
        """Anything that its keys opened."""
        self._heard_at = now

    def silent(self, direct: bool, now: float) -> bool:
        return now > self._heard_at + BEATS_MISSED * (BEAT_DIRECT_S if direct else BEAT_RELAYED_S)
