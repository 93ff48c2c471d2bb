"""T6, the endpoint's side: which way do datagrams go? (docs/protocol.md §7, Paths)

    RELAYED --acknowledgement--> DIRECT --3 s of silence--> RELAYED

Every candidate is probed each second, also while another is in use: an acknowledgement of the path in use keeps it
alive, one of any other candidate is an alternative at hand. Keys and counters do not change with the path.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kairos.constants import PROBE_EVERY_S, PROBE_LOST_AFTER_S
from kairos.errors import BadMessage

Address = tuple[str, int]
Mode = Literal["auto", "relay", "direct"]
_PROBE = struct.Struct("!IH")  # round, candidate: what the peer must echo


def format_address(address: Address) -> str:
    """`192.0.2.1:7843`, `[2001:db8::1]:7843`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Probe:
    """Send this payload as a PROBE to that address."""

    to: Address
    payload: bytes


@dataclass(frozen=True, slots=True)
class Move:
    """Send over this path from now on. None: the relay."""

    to: Address | None


class PathFinder:
    """mode: `auto` starts at the relay, `relay` never probes, `direct` never sends data through the relay."""

    def __init__(self, mode: Mode, candidates: Sequence[Address], now: float) -> None:
        self.mode = mode
        self.current: Address | None = None
        self.round_trip_s = 0.0
        self._candidates = tuple(candidates) if mode != "relay" else ()
        self._round = 0
        self._sent_at: dict[int, float] = {}  # by round, those still worth an answer
        self._heard_at = now
        self._next_probe = now

    def next_deadline(self) -> float | None:
        """When `tick` must be called next."""
        if not self._candidates:
            return None
        lost = self._heard_at + PROBE_LOST_AFTER_S
        return min(self._next_probe, lost) if self.current is not None else self._next_probe

    def tick(self, now: float) -> list[Probe | Move]:
        """Probes that are due, and the way back to the relay when the path in use fell silent."""
        actions: list[Probe | Move] = []
        if self.current is not None and now >= self._heard_at + PROBE_LOST_AFTER_S:
            self.current = None
            if self.mode == "auto":
                actions.append(Move(None))
        if self._candidates and now >= self._next_probe:
            self._round = (self._round + 1) & 0xFFFFFFFF
            self._sent_at[self._round] = now
            self._sent_at = {r: at for r, at in self._sent_at.items() if at > now - PROBE_LOST_AFTER_S}
            self._next_probe = now + PROBE_EVERY_S
            actions += [Probe(to, _PROBE.pack(self._round, i)) for i, to in enumerate(self._candidates)]
        return actions

    def acknowledged_untrusted(self, payload: bytes, now: float) -> list[Probe | Move]:
        """A PROBE_ACK arrived, from our peer but perhaps late. Raises BadMessage."""
        if len(payload) != _PROBE.size:
            raise BadMessage(f"probe acknowledgement of {len(payload)} bytes")
        number, candidate = _PROBE.unpack(payload)
        sent_at = self._sent_at.get(number)
        if sent_at is None or candidate >= len(self._candidates):
            return []
        address = self._candidates[candidate]
        if self.current is not None and address != self.current:
            return []
        self._heard_at, self.round_trip_s = now, now - sent_at
        if self.current is not None:
            return []
        self.current = address
        return [Move(address)]
