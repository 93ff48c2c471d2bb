"""The relay frame: an 8-byte header and a payload the relay never reads (docs/protocol.md §5)."""

from __future__ import annotations

import struct
from enum import IntEnum

import msgspec

from kairos.errors import BadMessage

HEADER = struct.Struct("!BBHI")  # type | flags | reserved | channel
FRAME_PAYLOAD_MAX = 262_144
PING_PAYLOAD_MAX = 64
STREAM_WINDOW = 262_144  # bytes of STREAM in flight, per channel and direction
DATAGRAM_WINDOW = 4_194_304  # bytes of DATAGRAMS in flight, per channel and direction
FLAG_DATAGRAMS = 0x01  # on CREDIT: it is for datagrams, not for the stream


class FrameType(IntEnum):
    OPEN = 1  # relay -> gateway: who stands behind a new channel
    OPENED = 2  # relay -> endpoint: its channel
    CLOSE = 3
    STREAM = 4  # bytes of the TLS connection
    CREDIT = 5  # u32 bytes granted
    DATAGRAMS = 6  # u16 length | datagram, repeated
    RENEW = 7  # node -> relay: a renewed session token
    RENEWED = 8
    PING = 9
    PONG = 10


_TYPES = {kind.value: kind for kind in FrameType}


class FrameHeader(msgspec.Struct, frozen=True, gc=False):
    """A relay frame's header. A Struct, because the relay makes one for each frame that passes."""

    type: FrameType
    """What the payload is."""
    flags: int
    """0, or FLAG_DATAGRAMS on CREDIT."""
    channel: int
    """Number of the channel that the frame belongs to; 0 where it is for the relay itself."""

    def pack(self) -> bytes:
        return HEADER.pack(self.type, self.flags, 0, self.channel)


def encode(kind: FrameType, channel: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame."""
    return HEADER.pack(kind, flags, 0, channel) + payload


def parse_frame_header_untrusted(header: bytes | bytearray | memoryview, size: int) -> FrameHeader:
    """header: the first 8 bytes of the frame; size: of the whole frame. Raises BadMessage."""
    if not HEADER.size <= size <= HEADER.size + FRAME_PAYLOAD_MAX or len(header) < HEADER.size:
        raise BadMessage(f"frame of {size} bytes")
    kind, flags, reserved, channel = HEADER.unpack_from(header)
    if reserved or (flags and (kind != FrameType.CREDIT or flags != FLAG_DATAGRAMS)):
        raise BadMessage("reserved bits of the frame header must be zero")
    known = _TYPES.get(kind)
    if known is None:
        raise BadMessage(f"unknown frame type {kind}")
    return FrameHeader(known, flags, channel)


def parse_credit_untrusted(payload: bytes | memoryview) -> int:
    """Bytes granted. Raises BadMessage."""
    if len(payload) != 4:
        raise BadMessage("a CREDIT payload is four bytes")
    return int.from_bytes(payload, "big")
