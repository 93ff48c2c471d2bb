"""From one VNI into another: 1:1 by prefix, checksums by difference (RFC 1624). csrc/translate.c says the same in C."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Protocol

from kairos.errors import BadMessage
from kairos_dataplane.engine import Mapping, Network
from kairos_dataplane.pure.packet import ICMP6, TCP, UDP, Packet, parse_untrusted

_CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP6: 2}


class Side(Protocol):
    """A VNI, as far as it is concerned here."""

    id: int
    mappings: list[Mapping]


def translate(vni: Side, to: Side, data: bytes, packet: Packet, partial: bool) -> bytes | None:
    """The packet as `to` knows its ends; None: one of them has no name there. partial: the transport checksum holds the
    sum of the pseudo header, and the kernel does the rest."""
    changed = bytearray(data)
    dst, src = _arriving(vni, to, packet.dst), _leaving(vni, to, packet.src)
    if dst is None:
        return None
    if packet.quoted is not None:
        told = _translate_quoted(vni, to, packet.quoted, packet.version)
        if told is None:
            return None
        quoted, inside, about = told
        changed[len(data) - len(packet.quoted) :] = quoted
        _adjust(changed, packet.l4 + 2, inside, partial=False, udp=False)
        src = src or about
    if src is None:
        return None
    _readdress(changed, packet, src, dst, partial)
    return bytes(changed)


def _translate_quoted(vni: Side, to: Side, quoted: bytes, version: int) -> tuple[bytes, int, bytes] | None:
    """The packet an ICMP error is about went the other way. Also: the change to the error's checksum, and the name of the
    destination, for a router on the way that has none of its own."""
    try:
        packet = parse_untrusted(quoted, quoted=True)
    except BadMessage:
        return None
    src, about = _arriving(vni, to, packet.src), _leaving(vni, to, packet.dst)
    if src is None or about is None or packet.version != version:
        return None
    changed = bytearray(quoted)
    change = _readdress(changed, packet, src, about, partial=False)
    return bytes(changed), change, about


def _arriving(vni: Side, to: Side, address: bytes) -> bytes | None:
    """An address of `to` as packets in `vni` name it, by its own name. The longest prefix counts, as it does for the route."""
    held = [mapping for mapping in vni.mappings if mapping.to == to.id and ip_address(address) in mapping.seen]
    longest = max(held, key=lambda mapping: mapping.seen.prefixlen, default=None)
    return None if longest is None else _renamed(address, longest.real)


def _leaving(vni: Side, to: Side, address: bytes) -> bytes | None:
    """An address of `vni`, as `to` names it."""
    held = [mapping for mapping in to.mappings if mapping.to == vni.id and ip_address(address) in mapping.real]
    longest = max(held, key=lambda mapping: mapping.real.prefixlen, default=None)
    return None if longest is None else _renamed(address, longest.seen)


def _renamed(address: bytes, prefix: Network) -> bytes:
    host = int.from_bytes(address) & int(prefix.hostmask)
    return (int(prefix.network_address) | host).to_bytes(len(address))


def _readdress(data: bytearray, packet: Packet, src: bytes, dst: bytes, partial: bool) -> int:
    """Returns the change to whatever sum covers this packet."""
    width = len(src)
    change = addresses = _replace(data, 12 if width == 4 else 8, src + dst)
    if packet.version == 4:
        change += _adjust(data, 10, addresses, partial=False, udp=False)
    field = _CHECKSUM_AT.get(packet.protocol, 0)
    without = (packet.fragment and not packet.first_fragment) or (packet.protocol == ICMP6 and packet.version == 4)
    at = packet.l4 + field
    if field == 0 or without or at + 2 > len(data):
        return change
    udp = packet.protocol == UDP
    if udp and not partial and data[at : at + 2] == b"\0\0":  # there is none
        return change
    return change + _adjust(data, at, addresses, partial, udp)


def _adjust(data: bytearray, at: int, difference: int, partial: bool, udp: bool) -> int:
    field = int.from_bytes(data[at : at + 2])
    total = difference + (field if partial else field ^ 0xFFFF)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    field = total if partial else total ^ 0xFFFF
    if udp and not partial and field == 0:
        field = 0xFFFF
    return _replace(data, at, field.to_bytes(2))


def _replace(data: bytearray, at: int, fresh: bytes) -> int:
    """Returns the sum of ~old + new over the 16-bit words."""
    words = f"!{len(fresh) // 2}H"
    old: tuple[int, ...] = struct.unpack_from(words, data, at)
    change: int = sum(word ^ 0xFFFF for word in old) + sum(struct.unpack(words, fresh))
    data[at : at + len(fresh)] = fresh
    return change
