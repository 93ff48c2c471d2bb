"""Super-packets: cut into pieces that are datagrams of their own, and pieces made whole again (docs/protocol.md §6).

The twin writes each piece as a packet of its own; the C engine joins runs of them. Both are legal."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kairos.errors import BadMessage
from kairos.wire.datagram import TRAILER, SegmentKind
from kairos_dataplane.pure.packet import (
    CWR,
    FIN,
    PACKET_MAX,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    Packet,
    checksum,
    parse_untrusted,
    pseudo_sum,
)

_NEEDS_CHECKSUM = 1
_GSO_NONE, _GSO_TCP4, _GSO_TCP6, _GSO_UDP, _GSO_ECN = 0, 1, 4, 5, 0x80
_TEMPLATE_MAX = 255
_CHECKSUM_AT = {TCP: 16, UDP: 6}
_KINDS = {
    (TCP, 4): SegmentKind.TCP4,
    (TCP, 6): SegmentKind.TCP6,
    (UDP, 4): SegmentKind.UDP4,
    (UDP, 6): SegmentKind.UDP6,
}


@dataclass(frozen=True, slots=True)
class Offload:
    """What the kernel left undone: struct virtio_net_hdr, host byte order."""

    flags: int = 0
    gso_type: int = _GSO_NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    def pack(self) -> bytes:
        return _VNET.pack(self.flags, self.gso_type, self.hdr_len, self.gso_size, self.csum_start, self.csum_offset)

    @classmethod
    def unpack(cls, data: bytes) -> Offload:
        return cls(*_VNET.unpack_from(data))


def volume(offload: Offload, data: bytes, packet: Packet) -> tuple[int, int]:
    """(packets, bytes): a super-packet counts as what it becomes on a wire."""
    headers = packet.l4 + packet.l4_header
    if offload.gso_type & ~_GSO_ECN == _GSO_NONE or offload.gso_size == 0 or headers >= len(data):
        return 1, len(data)
    packets = -(-(len(data) - headers) // offload.gso_size)
    return packets, len(data) + (packets - 1) * headers


_VNET = struct.Struct("=BBHHHH")
VNET_BYTES = _VNET.size


def cut(offload: Offload, data: bytes, packet: Packet, most: int = PACKET_MAX) -> list[bytes] | None:
    """The plaintexts of the datagrams that carry the packet, so that no piece with its headers is longer than `most`. Only
    TCP can be cut anywhere. None: it cannot be carried."""
    gso = offload.gso_type & ~_GSO_ECN
    kind = SegmentKind.PARTIAL if offload.flags & _NEEDS_CHECKSUM else SegmentKind.WHOLE
    headers, step = packet.l4 + packet.l4_header, offload.gso_size
    cuttable = not packet.fragment and headers < len(data) and headers <= _TEMPLATE_MAX
    if gso == _GSO_NONE:
        if len(data) <= most or packet.protocol != TCP or not cuttable or not _may_be_cut(offload, data, packet):
            return [data + TRAILER.pack(kind, 0, 0, 0, 1)]
        step = most - headers
    elif packet.protocol != {_GSO_TCP4: TCP, _GSO_TCP6: TCP, _GSO_UDP: UDP}.get(gso) or not cuttable or step == 0:
        return None
    elif packet.protocol == TCP:
        step = min(step, most - headers)
    count = -(-(len(data) - headers) // step)
    if count == 1:
        return [data + TRAILER.pack(SegmentKind.PARTIAL, 0, 0, 0, 1)]
    if not _may_be_cut(offload, data, packet):
        return None
    kind, template = _KINDS[packet.protocol, packet.version], data[:headers]
    return [
        data[at : at + step] + template + TRAILER.pack(kind, headers, step, index, count)
        for index, at in enumerate(range(headers, len(data), step))
    ]


def _may_be_cut(offload: Offload, data: bytes, packet: Packet) -> bool:
    """Pieces of a SYN or RST would each begin or end the connection. Each piece gets a checksum of its own, so a packet whose
    own is wrong would arrive repaired."""
    if packet.protocol == TCP and packet.tcp_flags & (SYN | RST):
        return False
    if offload.gso_type != _GSO_NONE or offload.flags & _NEEDS_CHECKSUM:
        return True
    l4 = data[packet.l4 :]
    return checksum(l4, pseudo_sum(packet.src, packet.dst, packet.protocol, len(l4))) == 0


def whole_untrusted(plain: bytes) -> tuple[Offload, bytes]:
    """The packet that the plaintext of a DATA datagram carries. Raises BadMessage."""
    if len(plain) < TRAILER.size:
        raise BadMessage("DATA without a trailer")
    kind, template_len, gso_size, index, count = TRAILER.unpack_from(plain, len(plain) - TRAILER.size)
    body = plain[: -TRAILER.size]
    if len(body) > PACKET_MAX:
        raise BadMessage(f"DATA of {len(plain)} bytes")
    if kind == SegmentKind.WHOLE:
        return Offload(), body
    if kind == SegmentKind.PARTIAL:
        packet = parse_untrusted(body)
        if packet.fragment or packet.protocol not in _CHECKSUM_AT:
            raise BadMessage("PARTIAL that is neither TCP nor UDP")
        return _with_partial_checksum(body, packet)
    payload = len(body) - template_len
    if kind > SegmentKind.UDP6 or template_len < 28 or payload <= 0 or gso_size == 0 or index >= count:
        raise BadMessage("segment trailer does not fit")
    if payload > gso_size or (index + 1 < count and payload != gso_size):
        raise BadMessage("segment of the wrong size")
    if gso_size * (count - 1) + template_len >= PACKET_MAX:
        raise BadMessage("super-packet too large")
    return _segment(SegmentKind(kind), body[payload:], body[:payload], gso_size, index, count)


def _segment(
    kind: SegmentKind, template: bytes, payload: bytes, gso_size: int, index: int, count: int
) -> tuple[Offload, bytes]:
    data = bytearray(template + payload)
    tcp = kind in (SegmentKind.TCP4, SegmentKind.TCP6)
    if kind in (SegmentKind.TCP4, SegmentKind.UDP4):
        header = (data[0] & 15) * 4
        if not 20 <= header <= len(template):
            raise BadMessage("IPv4 header length does not fit")
        identity = int.from_bytes(data[4:6]) + index & 0xFFFF
        data[2:6] = len(data).to_bytes(2) + identity.to_bytes(2)
        data[10:12] = b"\0\0"
        data[10:12] = checksum(bytes(data[:header])).to_bytes(2)
    elif len(template) < 48:
        raise BadMessage("IPv6 template is cut")
    else:
        data[4:6] = (len(data) - 40).to_bytes(2)
    packet = parse_untrusted(bytes(data))
    if packet.fragment or packet.protocol != (TCP if tcp else UDP) or packet.l4 + packet.l4_header != len(template):
        raise BadMessage("segment template does not fit its kind")
    l4 = packet.l4
    if tcp and count > 1 and packet.tcp_flags & (SYN | RST):
        raise BadMessage("pieces would each begin or end the connection anew")
    if tcp:
        sequence = int.from_bytes(data[l4 + 4 : l4 + 8]) + index * gso_size & 0xFFFFFFFF
        data[l4 + 4 : l4 + 8] = sequence.to_bytes(4)
        data[l4 + 13] &= 0xFF if index + 1 == count else ~(FIN | PSH) & 0xFF
        data[l4 + 13] &= 0xFF if index == 0 else ~CWR & 0xFF  # CWR says it once
    else:
        data[l4 + 4 : l4 + 6] = (len(data) - l4).to_bytes(2)
    return _with_partial_checksum(bytes(data), packet)


def _with_partial_checksum(data: bytes, packet: Packet) -> tuple[Offload, bytes]:
    """The checksum field is left to the kernel: it gets the pseudo-header's sum. The tag has proven the rest."""
    field = _CHECKSUM_AT[packet.protocol]
    at = packet.l4 + field
    total = pseudo_sum(packet.src, packet.dst, packet.protocol, len(data) - packet.l4)
    return Offload(_NEEDS_CHECKSUM, csum_start=packet.l4, csum_offset=field), data[:at] + total.to_bytes(2) + data[
        at + 2 :
    ]


def records_untrusted(frame: bytes) -> Iterator[bytes]:
    """`u16 length | datagram`, repeated: the payload of a DATAGRAMS frame. Raises BadMessage at the first broken one."""
    at = 0
    while at < len(frame):
        end = at + 2 + int.from_bytes(frame[at : at + 2])
        if end > len(frame) or at + 2 > len(frame):
            raise BadMessage("relay record is cut")
        yield frame[at + 2 : end]
        at = end
