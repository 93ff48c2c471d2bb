"""What a channel may have under way, held at the relay (docs/protocol.md §5).

The ends count credit themselves. The relay counts along, so that an end that ignores its window fills nobody's memory: not the relay's,
and not the socket of a gateway that all its endpoints share. A count starts at zero when the object wakes after an eviction: it is then
below the truth, never above, so an honest end is never wronged.
"""

from __future__ import annotations

from enum import Enum

from kairos.wire.frame import DATAGRAM_WINDOW, FLAG_DATAGRAMS, STREAM_WINDOW, FrameHeader, FrameType

BARE_FRAMES_PER_S = 1_000  # frames that carry nothing a window counts: an honest end sends a few a second


class Ruling(Enum):
    """What becomes of a frame."""

    PASS = "pass"
    DROP = "drop"
    EXCEEDED = "credit-exceeded"
    FLOODING = "flooding"


class Meter:
    """All channels of one relay object."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[int, bool, bool], int] = {}  # (channel, from the gateway, datagrams) -> bytes
        self._bare: dict[int, tuple[int, int]] = {}  # channel -> (second, frames in it)

    def sent(self, header: FrameHeader, size: int, *, from_gateway: bool) -> Ruling:
        """A STREAM or DATAGRAMS frame of `size` payload bytes."""
        datagrams = header.type is FrameType.DATAGRAMS
        key = (header.channel, from_gateway, datagrams)
        total = self._under_way.get(key, 0) + size
        if total > (DATAGRAM_WINDOW if datagrams else STREAM_WINDOW):
            return Ruling.DROP if datagrams else Ruling.EXCEEDED
        self._under_way[key] = total
        return Ruling.PASS

    def granted(self, header: FrameHeader, size: int, *, from_gateway: bool) -> None:
        """A CREDIT frame: what the other end had under way has arrived."""
        key = (header.channel, not from_gateway, bool(header.flags & FLAG_DATAGRAMS))
        self._under_way[key] = max(self._under_way.get(key, 0) - size, 0)

    def bare(self, channel: int, now: float) -> Ruling:
        """A frame of an endpoint that no window counts: CREDIT, PING, RENEW, or one without payload."""
        second, frames = self._bare.get(channel, (0, 0))
        frames = frames + 1 if second == int(now) else 1
        self._bare[channel] = (int(now), frames)
        return Ruling.PASS if frames <= BARE_FRAMES_PER_S else Ruling.FLOODING

    def forget(self, channel: int) -> None:
        for from_gateway in (False, True):
            for datagrams in (False, True):
                self._under_way.pop((channel, from_gateway, datagrams), None)
        self._bare.pop(channel, None)
