"""Headers that say something else to the receiver's kernel than to our checks (source routes, routing headers, long chains of options) are
dropped, from a peer and from this host alike."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from engine_rig import HOST, HOST6, PEER, PEER6, Rig, ip_packet, tcp_packet, udp_packet, whole
from kairos_dataplane import Verdict
from kairos_dataplane.pure.packet import ICMP, ICMP6, TCP, UDP, checksum, parse_untrusted

HOP_OPTIONS, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
L4 = udp_packet(PEER6, HOST6, b"e" * 56)[40:]


def options(following: int, size: int = 8) -> bytes:
    """Hop-by-hop or destination options: padding alone."""
    return bytes([following, size // 8 - 1, 1, size - 4]) + bytes(size - 4)


def fragment6(following: int, start: int, more: bool, identity: int = 5) -> bytes:
    return struct.pack("!BBHI", following, 0, start | more, identity)


def ipv6(first: int, payload: bytes) -> bytes:
    return ip_packet(PEER6, HOST6, first, payload)


def with_options4(option: bytes) -> bytes:
    packet = udp_packet(PEER, HOST, b"routed")
    padded = option + bytes(-len(option) % 4)
    head = bytes([0x40 | 5 + len(padded) // 4, 0]) + struct.pack("!H", len(packet) + len(padded)) + packet[4:10]
    head += b"\0\0" + packet[12:20] + padded
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + packet[20:]


def routing_header(segments_left: int) -> bytes:
    return struct.pack("!BBBBI", UDP, 2, 0, segments_left, 0) + ip_address("fd77::9").packed


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(ipv6(ROUTING, routing_header(1) + L4), id="routing header"),
        pytest.param(ipv6(ROUTING, routing_header(0) + L4), id="spent routing header"),
        pytest.param(ipv6(DESTINATION_OPTIONS, options(HOP_OPTIONS) + options(UDP) + L4), id="late hop options"),
        pytest.param(
            ipv6(DESTINATION_OPTIONS, options(DESTINATION_OPTIONS) * 9 + options(UDP) + L4), id="too many options"
        ),
        pytest.param(
            ipv6(FRAGMENT, fragment6(FRAGMENT, 0, False) + fragment6(UDP, 0, False) + L4), id="nested fragment"
        ),
        pytest.param(ipv6(FRAGMENT, fragment6(UDP, 0xFFF8, False) + L4), id="IPv6 fragment beyond the end"),
        pytest.param(ip_packet(PEER, HOST, UDP, L4, fragment=0x1FFF), id="IPv4 fragment beyond the end"),
        pytest.param(ipv6(FRAGMENT, fragment6(TCP, 0, True) + tcp_packet(PEER6, HOST6)[40:56]), id="tiny fragment"),
        pytest.param(ip_packet(PEER, HOST, TCP, tcp_packet(PEER, HOST)[20:36], fragment=0x2000), id="tiny fragment 4"),
        pytest.param(with_options4(b"\x83\x07\x04\x0a\x4d\x00\x09"), id="loose source route"),
        pytest.param(with_options4(b"\x01\x89\x07\x04\x0a\x4d\x00\x09"), id="strict source route"),
        pytest.param(with_options4(b"\x44\x01"), id="an option without a length"),
        pytest.param(ip_packet(PEER, HOST, ICMP6, bytes([128]) + bytes(7)), id="ICMPv6 in IPv4"),
        pytest.param(ip_packet(PEER6, HOST6, ICMP, bytes([8]) + bytes(7)), id="ICMP in IPv6"),
    ],
)
def test_a_header_that_hides_what_follows_is_refused(rig: Rig, packet: bytes) -> None:
    rig.put(rig.seal(whole(packet)))
    assert rig.opened() == []
    assert rig.drops() == {"drop_bad_packet": 1}


def test_options_are_looked_through(rig: Rig) -> None:
    """Before the fragment header, behind it, and harmless ones of IPv4."""
    plain = ipv6(HOP_OPTIONS, options(DESTINATION_OPTIONS) + options(UDP, 24) + L4)
    cut = ipv6(
        DESTINATION_OPTIONS, options(FRAGMENT) + fragment6(DESTINATION_OPTIONS, 0, True) + options(UDP) + L4[:24]
    )
    rig.put(*(rig.seal(whole(packet)) for packet in (plain, cut, with_options4(b"\x94\x04\0\0"))))
    flows = rig.judge()
    assert [(flow.protocol, flow.src_port, flow.dst_port) for flow in flows] == [(UDP, 4000, 5000)] * 2
    assert [data for _, data in rig.to_host()] == [plain, cut, with_options4(b"\x94\x04\0\0")]


def test_a_later_fragment_is_payload_whatever_it_looks_like(rig: Rig) -> None:
    """Destination options in the first fragment: the later ones repeat their number, and do not have them."""
    first = ipv6(FRAGMENT, fragment6(DESTINATION_OPTIONS, 0, True) + options(UDP) + L4[:24])
    later = ipv6(FRAGMENT, fragment6(DESTINATION_OPTIONS, 32, False) + b"\xff" * 16)
    assert parse_untrusted(later).l4 == 48
    rig.put(rig.seal(whole(first)), rig.seal(whole(later)))
    rig.judge()
    assert [data for _, data in rig.to_host()] == [first, later]


@pytest.mark.parametrize("version", [4, 6])
def test_no_fragment_writes_over_what_was_judged(rig: Rig, version: int) -> None:
    """RFC 3128, RFC 5722: the ports in the first fragment are those of the flow, so nothing may replace them."""
    rig.put(rig.seal(whole(udp_packet(PEER, HOST, b"") if version == 4 else udp_packet(PEER6, HOST6, b""))))
    rig.judge()
    rig.to_host()

    def fragment(start: int, more: bool, data: bytes) -> bytes:
        if version == 4:
            return ip_packet(PEER, HOST, UDP, data, identity=5, fragment=0x2000 * more | start // 8)
        return ipv6(FRAGMENT, fragment6(UDP, start, more) + data)

    sound = [fragment(0, True, L4[:24]), fragment(24, False, L4[24:])]
    rig.put(*(rig.seal(whole(packet)) for packet in (sound[0], fragment(16, True, bytes(16)), sound[1])))
    assert [data for _, data in rig.to_host()] == sound
    assert rig.drops() == {"drop_overlapping_fragment": 1}


MESSAGES4 = [1, 2, 4, 5, 6, 7, 9, 10, 13, 14, 15, 16, 17, 18, 30, 40, 42, 43, 253, 255]
MESSAGES6 = [0, 5, 100, 101, 127, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 140, 143, 151, 155, 160, 161, 255]


@pytest.mark.parametrize(("version", "kind"), [(4, kind) for kind in MESSAGES4] + [(6, kind) for kind in MESSAGES6])
def test_only_echoes_and_errors_are_messages_between_hosts(rig: Rig, version: int, kind: int) -> None:
    """Redirects, advertisements, discovery, groups and what is deprecated: no flow lets them pass, and none is opened."""
    ends = (PEER, HOST) if version == 4 else (PEER6, HOST6)
    echo, protocol = (8, ICMP) if version == 4 else (128, ICMP6)
    rig.allow_from_peer(ip_packet(*ends, protocol, bytes([echo]) + bytes(7)))
    rig.put(rig.seal(whole(ip_packet(*ends, protocol, bytes([kind]) + bytes(7)))))
    assert (rig.opened(), rig.to_host()) == ([], [])
    assert rig.drops() == {"drop_icmp_type": 1}


@pytest.mark.parametrize("version", [4, 6])
def test_an_echo_has_leave_in_one_direction(rig: Rig, version: int) -> None:
    """The reply passes, a request of the other end with the same identifier is judged, a reply to nothing is dropped."""
    ends, protocol = ((PEER, HOST), ICMP) if version == 4 else ((PEER6, HOST6), ICMP6)
    request, reply = (8, 0) if version == 4 else (128, 129)

    def echo(kind: int, ends: tuple[str, str], identifier: int = 0) -> bytes:
        return ip_packet(*ends, protocol, struct.pack("!BBHHH", kind, 0, 0, identifier, 1))

    rig.from_host(echo(reply, ends[::-1]))
    assert rig.drops() == {"drop_unsolicited_icmp": 1}
    flow = rig.allow_from_peer(echo(request, ends))
    assert (flow.icmp_type, flow.src_port, flow.dst_port) == (request, 0, 0)
    rig.from_host(echo(reply, ends[::-1]))
    assert len(rig.sent()) == 1
    rig.from_host(echo(request, ends[::-1]))
    [asked] = rig.judge(Verdict.DENY)
    assert (asked.session, str(asked.src)) == (0, ends[1])
    rig.put(rig.seal(whole(echo(reply, ends))))
    assert rig.to_host()[-1][1] != echo(reply, ends)
    rig.from_host(echo(reply, ends[::-1], 9))
    assert (rig.opened(), rig.drops()) == ([], {"drop_unsolicited_icmp": 2, "drop_denied": 2})
