"""The inner packet: parsed without trust, refused with a TCP RST or an ICMP error. csrc/packet.c says the same in C."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kairos.errors import BadMessage

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
_HOP_OPTIONS, _DESTINATION_OPTIONS, _FRAGMENT = 0, 60, 44
FIN, SYN, RST, PSH, ACK, CWR = 1, 2, 4, 8, 16, 128
PACKET_MAX = 65_535
_QUOTED_MAX = 128


@dataclass(slots=True)
class Packet:
    """l4: offset of the transport header, l4_header its length (TCP and UDP). quoted: what an ICMP error is about.
    ICMP echo ids stand in both ports."""

    version: int
    protocol: int
    src: bytes
    dst: bytes
    l4: int
    fragment: bool = False
    first_fragment: bool = False
    fragment_id: int = 0
    l4_header: int = 0
    src_port: int = 0
    dst_port: int = 0
    icmp_type: int = 0
    tcp_flags: int = 0
    quoted: bytes | None = None

    @property
    def multicast(self) -> bool:
        """Multicast, broadcast and IPv6 link-local: they do not cross a VNI."""
        if self.version == 4:
            return self.dst[0] >= 224
        return self.dst[0] == 0xFF or (self.dst[0] == 0xFE and self.dst[1] & 0xC0 == 0x80)


def parse_untrusted(data: bytes, quoted: bool = False) -> Packet:
    """quoted: `data` is the beginning of a packet, as ICMP errors cite it. Raises BadMessage."""
    if not 0 < len(data) <= PACKET_MAX:
        raise BadMessage(f"packet of {len(data)} bytes")
    if data[0] >> 4 == 4:
        packet, end = _parse4(data, quoted)
    elif data[0] >> 4 == 6:
        packet, end = _parse6(data, quoted)
    else:
        raise BadMessage(f"IP version {data[0] >> 4}")
    if not packet.fragment or packet.first_fragment:
        _parse_transport(data[packet.l4 : end], packet, quoted)
    return packet


def _parse4(data: bytes, quoted: bool) -> tuple[Packet, int]:
    if len(data) < 20:
        raise BadMessage("IPv4 header is cut")
    header, total = (data[0] & 15) * 4, int.from_bytes(data[2:4])
    if header < 20 or header > len(data) or total < header or (not quoted and total != len(data)):
        raise BadMessage("IPv4 lengths do not fit")
    offset = int.from_bytes(data[6:8])
    packet = Packet(4, data[9], data[12:16], data[16:20], header)
    packet.fragment, packet.first_fragment = offset & 0x3FFF != 0, offset & 0x1FFF == 0
    packet.fragment_id = int.from_bytes(data[4:6])
    if not packet.first_fragment and packet.protocol == TCP and offset & 0x1FFF < 3:
        raise BadMessage("fragment would write over the TCP header (RFC 3128)")
    return packet, min(total, len(data))


def _parse6(data: bytes, quoted: bool) -> tuple[Packet, int]:
    if len(data) < 40:
        raise BadMessage("IPv6 header is cut")
    if not quoted and 40 + int.from_bytes(data[4:6]) != len(data):
        raise BadMessage("IPv6 length does not fit")
    packet = Packet(6, data[6], data[8:24], data[24:40], 40)
    for _ in range(8):
        at = packet.l4
        if packet.protocol in (_HOP_OPTIONS, _DESTINATION_OPTIONS):
            size = (data[at + 1] + 1) * 8 if at + 8 <= len(data) else 8
        elif packet.protocol == _FRAGMENT and not packet.fragment:
            size = 8
        else:
            break
        if at + size > len(data):
            raise BadMessage("IPv6 extension header is cut")
        if packet.protocol == _FRAGMENT:
            packet.fragment, packet.first_fragment = True, int.from_bytes(data[at + 2 : at + 4]) & 0xFFF8 == 0
            packet.fragment_id = int.from_bytes(data[at + 4 : at + 8])
        packet.protocol = data[at]
        packet.l4 += size
    return packet, len(data)


def _parse_transport(l4: bytes, packet: Packet, quoted: bool) -> None:
    if packet.protocol == TCP:
        if len(l4) < (8 if quoted else 20):
            raise BadMessage("TCP header is cut")
        packet.src_port, packet.dst_port = struct.unpack_from("!HH", l4)
        if quoted:
            return
        packet.l4_header, packet.tcp_flags = (l4[12] >> 4) * 4, l4[13]
        if not 20 <= packet.l4_header <= len(l4):
            raise BadMessage("TCP header length does not fit")
    elif packet.protocol == UDP:
        if len(l4) < 8:
            raise BadMessage("UDP header is cut")
        packet.src_port, packet.dst_port = struct.unpack_from("!HH", l4)
        packet.l4_header = 8
    elif packet.protocol in (ICMP, ICMP6):
        if len(l4) < 8:
            raise BadMessage("ICMP header is cut")
        packet.icmp_type = l4[0]
        errors, echoes = ((3, 11, 12), (8, 0)) if packet.protocol == ICMP else ((1, 2, 3, 4), (128, 129))
        if l4[0] in errors:
            packet.quoted = l4[8:]
        elif l4[0] in echoes:
            packet.src_port = packet.dst_port = int.from_bytes(l4[4:6])


def checksum(data: bytes, start: int = 0) -> int:
    """RFC 1071, `start` being what was added before."""
    total: int = start + sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pseudo_sum(src: bytes, dst: bytes, protocol: int, l4_len: int) -> int:
    return checksum(src + dst + struct.pack("!IHH", l4_len, 0, protocol)) ^ 0xFFFF


def ecn(data: bytes) -> int:
    """The two bits of RFC 3168: 0 not capable, 1 and 2 capable, 3 congestion was met."""
    return (data[1] if data[0] >> 4 == 4 else data[1] >> 4) & 3


def with_congestion(data: bytes, outer: int) -> bytes | None:
    """RFC 6040: what the outer header tells of congestion goes into the inner one. None: the inner sender would not
    understand, so the packet must be dropped as the congested queue would have."""
    header = (data[0] & 15) * 4 if data else 0
    version = data[0] >> 4 if data else 0
    is_packet = (version == 4 and 20 <= header <= len(data)) or (version == 6 and len(data) >= 40)
    if outer not in (1, 3) or not is_packet:
        return data
    inner = ecn(data)
    if inner == 0:
        return None if outer == 3 else data
    if outer == 1 and inner != 2:
        return data
    if version == 6:
        return data[:1] + bytes([data[1] & 0xCF | outer << 4]) + data[2:]
    head = data[:1] + bytes([data[1] & 0xFC | outer]) + data[2:10] + b"\0\0" + data[12:header]
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + data[header:]


def refusal(data: bytes, packet: Packet) -> bytes | None:
    """The answer that refuses `packet`: TCP RST, or ICMP administratively prohibited. None: none is due."""
    if packet.fragment or packet.quoted is not None:
        return None
    if packet.protocol == TCP:
        return None if packet.tcp_flags & RST else _ip(packet, packet.dst, TCP, _reset(data, packet))
    return _icmp_error(data, packet, packet.dst, (3, 13) if packet.version == 4 else (1, 1))


def expired(data: bytes, packet: Packet, router: bytes) -> bytes | None:
    """ICMP time exceeded, said by `router`. None: none is due."""
    if packet.fragment or packet.quoted is not None:
        return None
    return _icmp_error(data, packet, router, (11 if packet.version == 4 else 3, 0))


def too_big(data: bytes, packet: Packet, mtu: int) -> bytes | None:
    """ICMP fragmentation needed, or packet too big, said in the name of the destination. None: none is due."""
    if packet.fragment or packet.quoted is not None:
        return None
    return _icmp_error(data, packet, packet.dst, (3, 4) if packet.version == 4 else (2, 0), mtu)


def with_hop_spent(data: bytes) -> bytes | None:
    """One hop less. None: it was the last."""
    at = 8 if data[0] >> 4 == 4 else 7
    if data[at] <= 1:
        return None
    changed = bytearray(data)
    changed[at] -= 1
    if at == 8:  # RFC 1141: what the checksum's complement loses, it gains
        total = int.from_bytes(data[10:12]) + 0x100
        changed[10:12] = (total + (total >> 16) & 0xFFFF).to_bytes(2)
    return bytes(changed)


def _icmp_error(data: bytes, packet: Packet, src: bytes, kind: tuple[int, int], mtu: int = 0) -> bytes:
    protocol = ICMP if packet.version == 4 else ICMP6
    body = struct.pack("!BBHI", *kind, 0, mtu) + data[:_QUOTED_MAX]
    start = 0 if packet.version == 4 else pseudo_sum(src, packet.src, protocol, len(body))
    return _ip(packet, src, protocol, body[:2] + checksum(body, start).to_bytes(2) + body[4:])


def _reset(data: bytes, packet: Packet) -> bytes:
    """RFC 9293 §3.10.7.1: the reset of a segment that meets no connection."""
    sequence, acknowledged = struct.unpack_from("!II", data, packet.l4 + 4)
    if packet.tcp_flags & ACK:
        numbers = (acknowledged, 0, 5 << 4, RST)
    else:
        payload = len(data) - packet.l4 - packet.l4_header
        consumed = payload + bool(packet.tcp_flags & SYN) + bool(packet.tcp_flags & FIN)
        numbers = (0, (sequence + consumed) & 0xFFFFFFFF, 5 << 4, RST | ACK)
    segment = struct.pack("!HHIIBBHHH", packet.dst_port, packet.src_port, *numbers, 0, 0, 0)
    total = checksum(segment, pseudo_sum(packet.dst, packet.src, TCP, 20))
    return segment[:16] + total.to_bytes(2) + segment[18:]


def _ip(packet: Packet, src: bytes, protocol: int, payload: bytes) -> bytes:
    """An IP packet from `src` to the source of `packet`."""
    if packet.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + src + packet.src + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + src + packet.src
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + payload
