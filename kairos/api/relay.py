"""JSON payloads of relay frames (docs/protocol.md §5)."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from kairos.errors import UNREADABLE, BadMessage
from kairos.wire.frame import DATAGRAM_WINDOW, STREAM_WINDOW

_T = TypeVar("_T")


class Open(msgspec.Struct):
    """OPEN, relay -> gateway: the endpoint behind a new channel, as the relay knows it. T3 proves who it is."""

    node: str
    tenant: str
    session: str
    expires_at: int


class Opened(msgspec.Struct):
    """OPENED, relay -> endpoint: its channel leads to this gateway."""

    channel: int
    gateway: str
    stream_window: int = STREAM_WINDOW
    datagram_window: int = DATAGRAM_WINDOW


class Close(msgspec.Struct):
    """CLOSE, any direction."""

    code: str
    reason: str = ""


class Renewed(msgspec.Struct):
    """RENEWED, relay -> node: until when the socket may stay."""

    expires_at: int


RelayMessage = Open | Opened | Close | Renewed


def encode(message: RelayMessage) -> bytes:
    """The payload of a frame."""
    return msgspec.json.encode(message)


def parse_open_untrusted(payload: bytes | memoryview) -> Open:
    """Raises BadMessage."""
    return _parse(payload, _open)


def parse_opened_untrusted(payload: bytes | memoryview) -> Opened:
    """Raises BadMessage."""
    return _parse(payload, _opened)


def parse_close_untrusted(payload: bytes | memoryview) -> Close:
    """Raises BadMessage."""
    return _parse(payload, _close)


_open: msgspec.json.Decoder[Open] = msgspec.json.Decoder(Open)
_opened: msgspec.json.Decoder[Opened] = msgspec.json.Decoder(Opened)
_close: msgspec.json.Decoder[Close] = msgspec.json.Decoder(Close)


def _parse(payload: bytes | memoryview, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(payload)
    except UNREADABLE as error:
        raise BadMessage(f"relay frame: {error}") from None
