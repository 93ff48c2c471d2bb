"""What a channel may have under way, held at the relay (docs/protocol.md §5).

The ends count credit themselves. The relay counts along, so that an end that ignores its window cannot fill the relay's
memory, or the socket of a gateway that all its endpoints share. A count starts at zero when the object wakes after an
eviction. It is then below the true value and never above it, so an honest end is never refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from kairos.wire.frame import DATAGRAM_WINDOW, STREAM_WINDOW, FrameType

BARE_FRAMES_PER_S = 1_000
"""Frames a second that no window counts: CREDIT, PING, RENEW, or one without payload. An honest end sends a few."""
RENEWAL_COST = 100
"""Bare frames that one RENEW counts for, because the control plane has to answer it: ten a second at most."""


class Ruling(Enum):
    """What becomes of a frame. The value of the last two is the code with which the channel ends."""

    PASS = "pass"
    DROP = "drop"
    EXCEEDED = "credit-exceeded"
    FLOODING = "flooding"


@dataclass(slots=True)
class Direction:
    """Payload bytes that one end of a channel has sent and the other end has not granted back."""

    stream: int = 0
    """Bytes of STREAM, at most STREAM_WINDOW."""
    datagrams: int = 0
    """Bytes of DATAGRAMS, at most DATAGRAM_WINDOW."""

    def sent(self, kind: FrameType, size: int) -> Ruling:
        """A STREAM or DATAGRAMS frame of `size` payload bytes wants to pass."""
        if kind is FrameType.DATAGRAMS:
            total = self.datagrams + size
            if total > DATAGRAM_WINDOW:
                return Ruling.DROP
            self.datagrams = total
        else:
            total = self.stream + size
            if total > STREAM_WINDOW:
                return Ruling.EXCEEDED
            self.stream = total
        return Ruling.PASS

    def granted(self, size: int, *, datagrams: bool) -> None:
        """A CREDIT frame of the other end: `size` bytes have arrived there."""
        if datagrams:
            self.datagrams = max(self.datagrams - size, 0)
        else:
            self.stream = max(self.stream - size, 0)


@dataclass(slots=True)
class Meter:
    """One channel."""

    from_endpoint: Direction = field(default_factory=Direction)
    """What the endpoint has sent."""
    from_gateway: Direction = field(default_factory=Direction)
    """What the gateway has sent."""
    second: int = 0
    """The second (Unix time) in which the last bare frame came."""
    frames: int = 0
    """Bare frames in that second."""

    def bare(self, now: float, cost: int = 1) -> Ruling:
        """A frame that no window counts. now: Unix time in seconds; cost: how many frames it counts for."""
        second = int(now)
        if second != self.second:
            self.second, self.frames = second, 0
        self.frames += cost
        return Ruling.PASS if self.frames <= BARE_FRAMES_PER_S else Ruling.FLOODING
