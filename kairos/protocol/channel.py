"""One relay channel with its credit, both directions (docs/protocol.md §5).

Each direction has two windows, counted in bytes of frame payload: STREAM and DATAGRAMS. A sender spends credit with what
it sends; the receiver grants it back, in steps of half a window, as it takes the bytes out of the channel. So no part of
the way ever has to hold more than a window, and a slow reader slows its sender down, not the relay. A peer that reads
nothing costs its sender at most STREAM_WAITING_MAX bytes beside the window.
"""

from __future__ import annotations

from dataclasses import dataclass

from kairos.constants import STREAM_WAITING_MAX
from kairos.errors import BadMessage, Refused
from kairos.wire.frame import (
    DATAGRAM_WINDOW,
    FLAG_DATAGRAMS,
    FRAME_PAYLOAD_MAX,
    STREAM_WINDOW,
    FrameType,
    encode,
    parse_credit_untrusted,
)


@dataclass(slots=True)
class _Window:
    """One kind of payload, both ways. credit: what we may still send; owed: what was taken in and not yet granted back;
    open: what the peer may still send."""

    size: int
    credit: int
    open: int
    owed: int = 0

    @classmethod
    def of(cls, size: int) -> _Window:
        return cls(size, size, size)

    def grant(self) -> int:
        """Bytes to grant now; 0 until half a window is owed, so that CREDIT stays rare."""
        if self.owed * 2 < self.size:
            return 0
        granted, self.owed = self.owed, 0
        self.open += granted
        return granted


class Channel:
    """Credit and STREAM queue of one channel. DATAGRAMS are never queued here: they wait, and are dropped, in the data
    plane, which knows which are old."""

    def __init__(self, number: int, stream_window: int = STREAM_WINDOW, datagram_window: int = DATAGRAM_WINDOW) -> None:
        self.number = number
        self.datagrams_refused = 0  # payloads beyond the peer's window, dropped
        self._stream = _Window.of(stream_window)
        self._datagrams = _Window.of(datagram_window)
        self._waiting = bytearray()  # STREAM bytes without credit
        self._given_up = False  # more waited than may: nothing is sent any more

    # -- sending -----------------------------------------------------------------------------------------------------

    @property
    def datagram_room(self) -> int:
        """Bytes of DATAGRAMS payload that one frame may carry now."""
        return min(self._datagrams.credit, FRAME_PAYLOAD_MAX)

    def send_stream(self, data: bytes) -> list[bytes]:
        """Queues STREAM bytes; returns the frames that credit allows now. The rest follows with the peer's CREDIT.

        Raises Refused("not-reading"), once, when more than STREAM_WAITING_MAX bytes would wait: the channel must be closed.
        It drops what waited, and takes nothing more."""
        if self._given_up:
            return []
        self._waiting += data
        frames = self._stream_frames()
        if len(self._waiting) > STREAM_WAITING_MAX:
            self._waiting.clear()
            self._given_up = True
            raise Refused("not-reading", f"the peer grants no credit for more than {STREAM_WAITING_MAX} stream bytes")
        return frames

    def datagrams_sent(self, size: int) -> None:
        """A DATAGRAMS frame of `size` payload bytes went out, within `datagram_room`."""
        self._datagrams.credit -= size

    # -- receiving ---------------------------------------------------------------------------------------------------

    def stream_received(self, size: int) -> None:
        """A STREAM payload arrived. Raises Refused("credit-exceeded"): the channel must be closed."""
        if size > self._stream.open:
            raise Refused("credit-exceeded", f"{size - self._stream.open} stream bytes beyond the window")
        self._stream.open -= size

    def stream_consumed(self, size: int) -> list[bytes]:
        """TLS has read `size` STREAM bytes; returns the CREDIT frame that is due, if any."""
        self._stream.owed += size
        return self._credit(self._stream, 0)

    def datagrams_received(self, size: int) -> bool:
        """A DATAGRAMS payload arrived. False: beyond the window, drop it."""
        if size > self._datagrams.open:
            self.datagrams_refused += 1
            return False
        self._datagrams.open -= size
        return True

    def datagrams_consumed(self, size: int) -> list[bytes]:
        """The data plane has them; returns the CREDIT frame that is due, if any."""
        self._datagrams.owed += size
        return self._credit(self._datagrams, FLAG_DATAGRAMS)

    def credit_received_untrusted(self, payload: bytes | memoryview, flags: int) -> list[bytes]:
        """The peer granted credit; returns the STREAM frames this releases. Raises BadMessage when it grants more than it
        was sent: a window never grows."""
        window = self._datagrams if flags & FLAG_DATAGRAMS else self._stream
        granted = parse_credit_untrusted(payload)
        if window.credit + granted > window.size:
            raise BadMessage(f"credit of {granted} bytes is more than was sent")
        window.credit += granted
        return [] if flags & FLAG_DATAGRAMS else self._stream_frames()

    def _stream_frames(self) -> list[bytes]:
        frames = []
        while (size := min(len(self._waiting), self._stream.credit, FRAME_PAYLOAD_MAX)) > 0:
            frames.append(encode(FrameType.STREAM, self.number, bytes(self._waiting[:size])))
            del self._waiting[:size]
            self._stream.credit -= size
        return frames

    def _credit(self, window: _Window, flags: int) -> list[bytes]:
        granted = window.grant()
        return [encode(FrameType.CREDIT, self.number, granted.to_bytes(4, "big"), flags)] if granted else []
