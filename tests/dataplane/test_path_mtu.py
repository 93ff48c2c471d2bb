"""What an engine does when it knows how large a datagram the path carries (docs/protocol.md §7, Path MTU)."""

from __future__ import annotations

import socket

import pytest

from engine_rig import HOST, HOST6, PEER, PEER6, RELAY, Rig, tcp_packet, udp_packet
from kairos.wire.datagram import DATA_OVERHEAD, TRAILER, DatagramType, SegmentKind
from kairos_dataplane import ControlReceived
from kairos_dataplane.engine import LIMIT_MIN
from kairos_dataplane.pure.packet import parse_untrusted
from kairos_dataplane.pure.segments import Offload, whole_untrusted

LIMIT = 1_252  # an underlay of 1280 bytes
MOST = LIMIT - DATA_OVERHEAD
DONT_FRAGMENT = 0x40


def no_fragments(packet: bytes) -> bytes:
    """The same with DF set in IPv4, whose header checksum is nobody's concern here."""
    return packet if packet[0] >> 4 == 6 else packet[:6] + bytes([packet[6] | DONT_FRAGMENT]) + packet[7:]


def learn(rig: Rig, packet: bytes) -> None:
    """Its flow is allowed, and what came of it forgotten."""
    rig.from_host(packet)
    rig.judge()
    rig.to_host()
    rig.sent()


@pytest.mark.parametrize(
    ("host", "peer", "offload"),
    [
        (HOST, PEER, Offload()),
        (HOST, PEER, Offload(1, csum_start=20, csum_offset=16)),
        (HOST, PEER, Offload(1, 1, 40, 1340, 20, 16)),
        (HOST6, PEER6, Offload()),
        (HOST6, PEER6, Offload(1, 4, 60, 1320, 40, 16)),
    ],
)
def test_tcp_is_cut_to_what_the_path_carries(rig: Rig, host: str, peer: str, offload: Offload) -> None:
    size = 4_000 if offload.gso_size else 1_340
    payload = bytes(byte % 251 for byte in range(size))
    learn(rig, tcp_packet(host, peer))
    rig.engine.set_limit(rig.session, LIMIT)
    rig.from_host(tcp_packet(host, peer, flags=0x18, payload=payload), offload=offload)
    pieces, carried = [plain for _, plain in rig.sent()], b""
    assert len(pieces) == -(-size // (MOST - (40 if host == HOST else 60)))
    for plain in pieces:
        assert len(plain) + 32 <= LIMIT
        _, segment = whole_untrusted(plain)
        packet = parse_untrusted(segment)
        sequence = int.from_bytes(segment[packet.l4 + 4 : packet.l4 + 8])
        assert sequence == 1_000 + len(carried)
        carried += segment[packet.l4 + packet.l4_header :]
    assert carried == payload


SYN_WITH_DATA = tcp_packet(HOST, PEER, flags=0x02, payload=bytes(1_340))


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(SYN_WITH_DATA, id="SYN with data"),
        pytest.param(tcp_packet(HOST, PEER, flags=0x14, payload=bytes(1_340)), id="RST with data"),
        pytest.param(tcp_packet(HOST, PEER, flags=0x18, payload=bytes(1_340))[:-1] + b"x", id="wrong checksum"),
    ],
)
def test_what_would_not_be_the_same_in_pieces_goes_whole(rig: Rig, packet: bytes) -> None:
    """Each piece would open the connection, or end it, or carry a checksum that holds; IP fragments the datagram instead."""
    learn(rig, tcp_packet(HOST, PEER))
    rig.engine.set_limit(rig.session, LIMIT)
    rig.from_host(packet)
    [(_, plain)] = rig.sent()
    assert whole_untrusted(plain) == (Offload(), packet)


def test_pieces_of_a_syn_are_refused(rig: Rig) -> None:
    rig.from_host(SYN_WITH_DATA, offload=Offload(1, 1, 40, 700, 20, 16))
    rig.judge()
    assert rig.drops() == {"drop_too_large": 1}
    for flags in (0x02, 0x04):
        template = tcp_packet(PEER, HOST, flags=flags)
        pieces = [b"p" * 100 + template + TRAILER.pack(SegmentKind.TCP4, 40, 100, index, 2) for index in range(2)]
        rig.put(*map(rig.seal, pieces))
    assert rig.opened() == []
    assert rig.drops()["drop_bad_segment"] == 4


@pytest.mark.parametrize(("host", "peer", "mtu"), [(HOST, PEER, MOST), (HOST6, PEER6, 1_280)])
def test_the_sender_of_another_packet_is_told(rig: Rig, host: str, peer: str, mtu: int) -> None:
    """IPv6 never below 1280: IP fragments the datagram around those."""
    learn(rig, udp_packet(host, peer, b"first"))
    rig.engine.set_limit(rig.session, LIMIT)
    large = no_fragments(udp_packet(host, peer, bytes(1_300)))
    rig.from_host(large)
    assert rig.sent() == []
    [(_, error)] = rig.to_host()
    packet = parse_untrusted(error)
    told = error[packet.l4 :]
    assert (told[0], told[1]) == ((3, 4) if host == HOST else (2, 0))
    assert int.from_bytes(told[4:8]) == mtu
    assert told[8:] == large[:128]
    assert rig.drops() == {"drop_too_large": 1}


def test_whoever_cannot_be_told_is_carried_in_fragments(rig: Rig) -> None:
    allows_fragments, small = udp_packet(HOST, PEER, bytes(1_300)), udp_packet(HOST6, PEER6, bytes(1_280 - 48))
    learn(rig, allows_fragments)
    learn(rig, small)
    rig.engine.set_limit(rig.session, LIMIT)
    for packet in (allows_fragments, small):
        rig.from_host(packet)
        assert len(rig.sent()) == 1
    assert rig.drops() == {}


def test_a_path_is_known_until_it_moves(rig: Rig) -> None:
    large = no_fragments(udp_packet(HOST, PEER, bytes(1_300)))
    learn(rig, large)
    rig.engine.set_limit(rig.session, LIMIT)
    rig.engine.use_relay(rig.session, RELAY, follow=True)
    rig.from_host(large)
    assert len(rig.sent()) == 1
    rig.engine.set_limit(rig.session, LIMIT)
    rig.from_host(large)
    assert rig.sent() == []
    rig.engine.set_limit(rig.session, 0)
    rig.from_host(large)
    assert len(rig.sent()) == 1


@pytest.mark.parametrize("limit", [1, LIMIT_MIN - 1])
def test_a_limit_that_no_path_has_is_refused(rig: Rig, limit: int) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        rig.engine.set_limit(rig.session, limit)


@pytest.mark.parametrize("size", [1_232, 8_972])
def test_a_probe_may_be_long_for_its_size_alone(rig: Rig, size: int) -> None:
    rig.put(rig.seal(b"begins".ljust(size - 32, b"\0"), DatagramType.PROBE))
    [event] = rig.events()
    assert isinstance(event, ControlReceived)
    assert (event.payload, event.size) == (b"begins".ljust(1_200, b"\0"), size)
    rig.engine.send_control(rig.session, DatagramType.PROBE_ACK, event.payload[:6], size=event.size)
    [(_, plain)] = rig.sent()
    assert plain == b"begins".ljust(size - 32, b"\0")


def test_no_other_control_datagram_may(rig: Rig) -> None:
    for kind in (DatagramType.KEEPALIVE, DatagramType.CLAIM):
        rig.put(rig.seal(bytes(1_201), kind))
    assert rig.drops() == {"drop_too_large": 2}


IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, OMIT = 10, 23, 5


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_icmp_error_changes_how_datagrams_leave(rig: Rig, host: str) -> None:
    """Nor does a probe, which sets other options for its own sake."""
    with rig.over_udp(host) as (ours, peer):
        for _ in range(2):
            assert ours.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == OMIT
            if ":" in host:
                assert ours.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) == OMIT
            rig.engine.send_control(rig.session, DatagramType.PROBE, b"probe", size=1_400)
            assert len(peer.recv(2_000)) == 1_400
