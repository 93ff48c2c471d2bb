"""The inner packet: parsed without trust, refused with a TCP RST or an ICMP error. csrc/packet.c says the same in C."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kairos.errors import BadMessage

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
_HOP_OPTIONS, _ROUTING, _FRAGMENT, _DESTINATION_OPTIONS = 0, 43, 44, 60
_EXTENSIONS_MAX = 8
_END_OF_OPTIONS, _NO_OPERATION, _SOURCE_ROUTES = 0, 1, (131, 137)
FIN, SYN, RST, PSH, ACK, CWR = 1, 2, 4, 8, 16, 128
PACKET_MAX = 65_535
_QUOTED_MAX = 128
_ICMP4_ERROR_MAX, _ICMP6_ERROR_MAX = 576, 1280


@dataclass(slots=True)
class Packet:
    """l4: offset of the transport header, l4_header its length (TCP and UDP). quoted: what an ICMP error is about.
    ICMP echo ids stand in both ports; no ICMP message but echoes and errors crosses a VNI. fragment_start, fragment_end:
    the bytes of the original packet's payload that this fragment carries."""

    version: int
    protocol: int
    src: bytes
    dst: bytes
    l4: int
    fragment: bool = False
    first_fragment: bool = False
    fragment_id: int = 0
    fragment_start: int = 0
    fragment_end: int = 0
    l4_header: int = 0
    src_port: int = 0
    dst_port: int = 0
    icmp_type: int = 0
    tcp_flags: int = 0
    quoted: bytes | None = None
    echo_request: bool = False
    echo_reply: bool = False

    @property
    def later_fragment(self) -> bool:
        """It has no transport header."""
        return self.fragment and not self.first_fragment

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
    if not packet.later_fragment:
        _parse_transport(data[packet.l4 : end], packet, quoted)
    return packet


def _parse4(data: bytes, quoted: bool) -> tuple[Packet, int]:
    if len(data) < 20:
        raise BadMessage("IPv4 header is cut")
    header, total = (data[0] & 15) * 4, int.from_bytes(data[2:4])
    if header < 20 or header > len(data) or total < header or (not quoted and total != len(data)):
        raise BadMessage("IPv4 lengths do not fit")
    _check_options4_untrusted(data[20:header])
    offset = int.from_bytes(data[6:8])
    packet = Packet(4, data[9], data[12:16], data[16:20], header)
    packet.fragment_start = (offset & 0x1FFF) * 8
    packet.fragment_end = packet.fragment_start + total - header
    if packet.fragment_end + header > PACKET_MAX:
        raise BadMessage("fragment reaches beyond the longest packet")
    packet.fragment, packet.first_fragment = offset & 0x3FFF != 0, offset & 0x1FFF == 0
    packet.fragment_id = int.from_bytes(data[4:6])
    if not packet.first_fragment and packet.protocol == TCP and offset & 0x1FFF < 3:
        raise BadMessage("fragment would write over the TCP header (RFC 3128)")
    return packet, min(total, len(data))


def _check_options4_untrusted(options: bytes) -> None:
    """A source route (RFC 791) would lead the packet to an address that nobody judged. Raises BadMessage."""
    while options and options[0] != _END_OF_OPTIONS:
        size = 1
        if options[0] != _NO_OPERATION:
            size = options[1] if len(options) >= 2 else 0
            if not 2 <= size <= len(options) or options[0] in _SOURCE_ROUTES:
                raise BadMessage("IPv4 options are cut, or are a source route")
        options = options[size:]


def _parse6(data: bytes, quoted: bool) -> tuple[Packet, int]:
    if len(data) < 40:
        raise BadMessage("IPv6 header is cut")
    if not quoted and 40 + int.from_bytes(data[4:6]) != len(data):
        raise BadMessage("IPv6 length does not fit")
    packet = Packet(6, data[6], data[8:24], data[24:40], 40)
    depth = 0
    while packet.protocol in (_HOP_OPTIONS, _ROUTING, _FRAGMENT, _DESTINATION_OPTIONS):
        at = packet.l4
        if at + 8 > len(data) or depth == _EXTENSIONS_MAX:
            raise BadMessage("IPv6 extension headers are cut, or too many")
        if packet.protocol == _ROUTING or (packet.protocol == _HOP_OPTIONS and depth):
            raise BadMessage("IPv6 routing header, or hop-by-hop options that do not stand first")
        size = 8 if packet.protocol == _FRAGMENT else (data[at + 1] + 1) * 8
        if at + size > len(data):
            raise BadMessage("IPv6 extension header is cut")
        if packet.protocol == _FRAGMENT:
            _parse_fragment6(data[at:], packet)
        packet.protocol = data[at]
        packet.l4 += size
        depth += 1
        if packet.later_fragment:  # what follows is payload, whatever it looks like
            break
    return packet, len(data)


def _parse_fragment6(header: bytes, packet: Packet) -> None:
    """header: with all that follows it. A fragment has one such header (RFC 8200 §4.5)."""
    if packet.fragment:
        raise BadMessage("IPv6 fragment within a fragment")
    packet.fragment = True
    packet.fragment_start = int.from_bytes(header[2:4]) & 0xFFF8
    packet.fragment_end = packet.fragment_start + len(header) - 8
    packet.first_fragment = packet.fragment_start == 0
    packet.fragment_id = int.from_bytes(header[4:8])
    if packet.fragment_end > PACKET_MAX:
        raise BadMessage("fragment reaches beyond the longest packet")


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
        if len(l4) < 8 or (packet.protocol == ICMP) != (packet.version == 4):
            raise BadMessage("ICMP header is cut, or of the other IP version")
        packet.icmp_type = l4[0]
        errors, request, reply = ((3, 11, 12), 8, 0) if packet.protocol == ICMP else ((1, 2, 3, 4), 128, 129)
        packet.echo_request, packet.echo_reply = l4[0] == request, l4[0] == reply
        if l4[0] in errors:
            packet.quoted = l4[8:]
        elif packet.echo_request or packet.echo_reply:
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


def shortened_error(data: bytes, packet: Packet) -> bytes:
    """An ICMP error is cut to the size that senders keep to (RFC 1812, RFC 4443); checksums follow by difference. Raises
    BadMessage: nothing of it is left."""
    most = _ICMP4_ERROR_MAX if packet.version == 4 else _ICMP6_ERROR_MAX
    if len(data) <= most:
        return data
    if packet.l4 + 8 > most:
        raise BadMessage("ICMP error behind too many headers")
    changed = bytearray(data[:most])
    # RFC 4884: what follows the quotation is cut off, so nothing may say how long the quotation is.
    length_at = packet.l4 + (5 if packet.version == 4 else 4)
    if packet.version == 4 or packet.icmp_type in (1, 3):
        changed[length_at] = 0
    words = slice(packet.l4 + 4, packet.l4 + 6)
    change = _difference(data[words], changed[words]) + _difference(data[most:], b"")
    if packet.version == 4:
        changed[2:4] = most.to_bytes(2)
        _adjust(changed, 10, _difference(data[2:4], changed[2:4]))
    else:
        changed[4:6] = (most - 40).to_bytes(2)
        change += _difference((len(data) - packet.l4).to_bytes(2), (most - packet.l4).to_bytes(2))
    _adjust(changed, packet.l4 + 2, change)
    return bytes(changed)


def _difference(old: bytes | bytearray, new: bytes | bytearray) -> int:
    """The sum of ~old + new over the 16-bit words (RFC 1624)."""
    change = 0
    for at in range(0, len(old), 2):
        change += int.from_bytes(old[at : at + 2].ljust(2, b"\0")) ^ 0xFFFF
    for at in range(0, len(new), 2):
        change += int.from_bytes(new[at : at + 2])
    return change


def _adjust(data: bytearray, at: int, change: int) -> None:
    """The checksum there follows a change, so that what was wrong stays wrong."""
    total = (int.from_bytes(data[at : at + 2]) ^ 0xFFFF) + change
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    data[at : at + 2] = (total ^ 0xFFFF).to_bytes(2)


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
