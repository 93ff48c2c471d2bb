"""The datagram: 16-byte header, sealed part, 16-byte tag (docs/protocol.md §6). Frozen."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from kairos.errors import BadMessage

HEADER = struct.Struct("!BBHIQ")  # type | flags | epoch | receiver index | counter
TRAILER = struct.Struct("!BBHHH")  # kind | hdr_len | gso_size | index | count
TAG_BYTES = 16
DATA_OVERHEAD = HEADER.size + TRAILER.size + TAG_BYTES  # of a datagram, beyond the inner packet
CONTROL_PAYLOAD_MAX = 1200
REPLAY_WINDOW = 8192


class DatagramType(IntEnum):
    DATA = 1  # an IP packet or one segment of a super-packet
    PROBE = 2  # opaque to the data plane: is this path alive?
    PROBE_ACK = 3
    KEEPALIVE = 4
    CLAIM = 5  # of an endpoint, about the flow whose first packet follows


class SegmentKind(IntEnum):
    WHOLE = 0  # complete packet, checksums final
    PARTIAL = 1  # complete packet, TCP/UDP checksum holds the pseudo-header sum only
    TCP4 = 2  # segment `index` of `count`, header template of the super-packet behind the payload
    TCP6 = 3
    UDP4 = 4
    UDP6 = 5


@dataclass(frozen=True, slots=True)
class DatagramHeader:
    """epoch: low 16 bits of the tunnel epoch; receiver: index chosen by the receiver; counter: per key, from 0."""

    type: DatagramType
    epoch: int
    receiver: int
    counter: int

    def pack(self) -> bytes:
        return HEADER.pack(self.type, 0, self.epoch, self.receiver, self.counter)


def parse_header_untrusted(datagram: bytes) -> DatagramHeader:
    """The header, whose truth only the tag proves. Raises BadMessage."""
    if len(datagram) < HEADER.size + TAG_BYTES:
        raise BadMessage("datagram is shorter than a header and a tag")
    kind, flags, epoch, receiver, counter = HEADER.unpack_from(datagram)
    if flags:
        raise BadMessage(f"datagram flags 0x{flags:02x} must be zero")
    try:
        return DatagramHeader(DatagramType(kind), epoch, receiver, counter)
    except ValueError:
        raise BadMessage(f"unknown datagram type {kind}") from None


def nonce(iv: bytes, counter: int) -> bytes:
    """iv XOR (0^4 || counter), 12 bytes, as TLS 1.3 does (RFC 8446 §5.3)."""
    return (int.from_bytes(iv, "big") ^ counter).to_bytes(12, "big")
