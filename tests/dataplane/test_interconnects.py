"""From one VNI into another: both have the same prefixes, each names the other by a prefix of its own (joined_vnis.py)."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joined_vnis import (
    ALICE,
    ALICE6,
    ALICE6_SEEN,
    ALICE_SEEN,
    BOB,
    BOB6,
    BOB6_SEEN,
    BOB_SEEN,
    HERE,
    OTHER,
    THERE,
    THIRD,
    Joined,
    assert_sound,
    expiring,
    icmp_error,
    joined_on,
    one_hop_back,
)

from effort import effort
from engine_rig import HOST, HOST6, VNI, Rig, echo_reply, echo_request, ip_packet, tcp_packet, udp_packet
from kairos.wire.datagram import TRAILER, SegmentKind
from kairos_dataplane import Mapping, Verdict
from kairos_dataplane.pure.packet import ACK, ICMP, PSH, RST, SYN, TCP, UDP, checksum, parse_untrusted, pseudo_sum
from kairos_dataplane.pure.segments import Offload


@pytest.fixture
def joined(rig: Rig) -> Iterator[Joined]:
    made = Joined(rig)
    yield made
    made.tun.close()


@pytest.mark.parametrize(
    ("there", "arrives", "back", "returns"),
    [
        (
            udp_packet(ALICE, BOB_SEEN, b"question!"),
            udp_packet(ALICE_SEEN, BOB, b"question!"),
            udp_packet(BOB, ALICE_SEEN, b"answer", (5000, 4000)),
            udp_packet(BOB_SEEN, ALICE, b"answer", (5000, 4000)),
        ),
        (
            udp_packet(ALICE6, BOB6_SEEN, b"question!"),
            udp_packet(ALICE6_SEEN, BOB6, b"question!"),
            udp_packet(BOB6, ALICE6_SEEN, b"answer", (5000, 4000)),
            udp_packet(BOB6_SEEN, ALICE6, b"answer", (5000, 4000)),
        ),
        (
            tcp_packet(ALICE, BOB_SEEN, SYN),
            tcp_packet(ALICE_SEEN, BOB, SYN),
            tcp_packet(BOB, ALICE_SEEN, SYN | ACK, b"", (5000, 4000)),
            tcp_packet(BOB_SEEN, ALICE, SYN | ACK, b"", (5000, 4000)),
        ),
        (
            echo_request(ALICE, BOB_SEEN),
            echo_request(ALICE_SEEN, BOB),
            echo_reply(BOB, ALICE_SEEN),
            echo_reply(BOB_SEEN, ALICE),
        ),
    ],
)
def test_both_sides_name_each_other(joined: Joined, there: bytes, arrives: bytes, back: bytes, returns: bytes) -> None:
    joined.from_alice(there)
    first, second = joined.judge()
    assert (first.vni, first.from_vni, second.vni, second.from_vni) == (VNI, 0, OTHER, VNI)
    assert first.session == second.session == joined.rig.session
    assert joined.to_bob() == [arrives]
    joined.from_bob(back)
    assert joined.rig.opened() == []
    assert joined.to_alice() == [returns]
    assert {flow.packets for flow in joined.rig.engine.flows()} == {(1, 1)}
    assert joined.rig.counted()["crossed"] == 2
    assert joined.rig.drops() == {}


def test_the_far_verdict_refuses_in_the_callers_terms(joined: Joined) -> None:
    joined.from_alice(tcp_packet(ALICE, BOB_SEEN, SYN, sequence=77), udp_packet(ALICE6, BOB6_SEEN, b"no"))
    joined.judge(across=Verdict.DENY)
    assert joined.to_bob() == []
    reset, prohibited = joined.to_alice()
    assert_sound(reset)
    assert_sound(prohibited)
    parsed = parse_untrusted(reset)
    assert (parsed.tcp_flags, reset[12:16]) == (RST | ACK, bytes([10, 202, 0, 2]))
    quoted = parse_untrusted(prohibited).quoted
    assert quoted is not None
    assert one_hop_back(quoted) == udp_packet(ALICE6, BOB6_SEEN, b"no")
    assert joined.rig.drops() == {"drop_denied": 2}


def test_the_near_verdict_comes_first(joined: Joined) -> None:
    joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"no"))
    assert [flow.from_vni for flow in joined.judge(here=Verdict.DENY)] == [0]
    assert joined.to_bob() == []


def test_an_allow_is_taken_back_on_either_side(joined: Joined) -> None:
    joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"1"))
    flows = joined.judge()
    joined.from_bob(udp_packet(BOB, ALICE_SEEN, b"1", (5000, 4000)))
    for flow in flows:
        joined.rig.engine.verdict(flow.id, Verdict.DENY, 2, 2)
        joined.to_bob()
        joined.to_alice()
        joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"2"))
        joined.from_bob(udp_packet(BOB, ALICE_SEEN, b"3", (5000, 4000)))
        assert [parse_untrusted(packet).protocol for packet in joined.to_bob() + joined.to_alice()] == [ICMP, ICMP]
        joined.rig.engine.verdict(flow.id, Verdict.ALLOW, 2, 3)


def test_what_is_not_declared_has_no_path(joined: Joined) -> None:
    joined.from_alice(udp_packet(ALICE, "10.204.0.2", b"unknown"))
    joined.judge()
    assert joined.rig.drops() == {"drop_no_route": 1}
    joined.rig.engine.remove_mapping(OTHER, THERE[0])  # alice has no name there any more
    joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"nameless"))
    joined.judge()
    assert joined.rig.drops() == {"drop_no_route": 1, "drop_no_mapping": 1}


def test_a_removed_interconnect_cuts_what_lives(joined: Joined) -> None:
    joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"1"))
    joined.judge()
    joined.rig.engine.remove_mapping(VNI, HERE[0])
    joined.rig.engine.remove_mapping(OTHER, THERE[0])
    assert len(joined.to_bob()) == 1
    joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"2"))
    joined.from_bob(udp_packet(BOB, ALICE_SEEN, b"3", (5000, 4000)))
    assert (joined.to_alice(), joined.to_bob()) == ([], [])
    assert joined.rig.drops() == {"drop_no_route": 2}


def test_a_removed_vni_takes_what_crossed_from_it(joined: Joined) -> None:
    joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"1"))
    joined.judge()
    joined.rig.engine.remove_vni(OTHER)
    assert [flow.vni for flow in joined.rig.engine.flows()] == [VNI]
    joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"2"))
    assert joined.rig.drops() == {"drop_no_mapping": 1}


def test_a_cut_session_takes_its_flows_on_both_sides(joined: Joined) -> None:
    joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"1"))
    joined.judge()
    joined.rig.engine.cut_session(joined.rig.session)
    assert joined.rig.engine.flows() == []


def test_nothing_crosses_twice(joined: Joined) -> None:
    joined.rig.engine.add_mapping(OTHER, Mapping(ip_network("10.99.0.0/24"), THIRD, ip_network("10.98.0.0/24")))
    joined.from_alice(udp_packet(ALICE, "10.203.0.2", b"onwards"))
    joined.judge()
    assert joined.rig.drops() == {"drop_second_crossing": 1}


def test_an_interconnect_is_a_hop(joined: Joined) -> None:
    """The last hop is told by the gateway's own address; each packet that crosses has one less."""
    for router in (HOST, HOST6):
        joined.rig.engine.set_router(VNI, ip_address(router))
    last = [udp_packet(ALICE, BOB_SEEN, b"v4"), udp_packet(ALICE6, BOB6_SEEN, b"v6")]
    last = [expiring(packet) for packet in last]
    joined.from_alice(*last)
    joined.judge()
    errors = [plain[: -TRAILER.size] for _, plain in joined.rig.sent()]
    assert errors == [icmp_error(HOST, ALICE, last[0], (11, 0)), icmp_error(HOST6, ALICE6, last[1], (3, 0))]
    assert joined.rig.drops() == {"drop_hop_limit": 2}
    joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"v4"), udp_packet(ALICE6, BOB6_SEEN, b"v6"))
    joined.judge()
    v4, v6 = joined.plain_to_bob()
    assert (v4[8], v6[7], checksum(v4[:20])) == (63, 63, 0)


def test_nobody_speaks_by_a_name_that_is_seen(joined: Joined) -> None:
    """Names are made where a packet crosses, and never taken from a member."""
    joined.from_alice(udp_packet(BOB_SEEN, HOST, b"spoof"), udp_packet(ALICE_SEEN, BOB_SEEN, b"spoof"))
    joined.from_bob(udp_packet(ALICE_SEEN, HOST, b"spoof"), udp_packet(BOB_SEEN, ALICE_SEEN, b"spoof"))
    assert joined.judge() == []
    assert joined.rig.drops() == {"drop_spoofed_source": 4}


def test_the_longest_prefix_names(joined: Joined) -> None:
    """As for routes: of two mappings that hold an address the more specific one counts, whichever came first."""
    engine = joined.rig.engine
    engine.add_mapping(VNI, Mapping(ip_network("10.202.0.9/32"), OTHER, ip_network("10.77.0.2/32")))
    engine.add_mapping(OTHER, Mapping(ip_network("10.205.0.2/32"), VNI, ip_network("10.77.0.2/32")))
    joined.from_alice(udp_packet(ALICE, "10.202.0.9", b"by its other name"))
    joined.judge()
    assert joined.to_bob() == [udp_packet("10.205.0.2", BOB, b"by its other name")]


def test_a_mapping_is_checked(joined: Joined) -> None:
    engine = joined.rig.engine
    with pytest.raises(FileExistsError):
        engine.add_mapping(VNI, HERE[0])
    with pytest.raises(OSError, match="Invalid argument"):
        engine.add_mapping(VNI, Mapping(ip_network("10.210.0.0/24"), VNI, ip_network("10.77.0.0/24")))
    with pytest.raises(FileNotFoundError):
        engine.remove_mapping(VNI, Mapping(ip_network("10.210.0.0/24"), OTHER, ip_network("10.77.0.0/24")))


@pytest.mark.parametrize(
    ("question", "arrived", "error", "told"),
    [
        (
            udp_packet(ALICE, BOB_SEEN, b"q" * 40),
            udp_packet(ALICE_SEEN, BOB, b"q" * 40),
            (BOB, ALICE_SEEN, (3, 4), 1280),
            (BOB_SEEN, ALICE),
        ),
        (
            tcp_packet(ALICE6, BOB6_SEEN, SYN),
            tcp_packet(ALICE6_SEEN, BOB6, SYN),
            (BOB6, ALICE6_SEEN, (2, 0), 1280),
            (BOB6_SEEN, ALICE6),
        ),
    ],
)
@pytest.mark.parametrize("quoted", [28, 200])
def test_an_icmp_error_comes_back_about_the_packet_that_was_sent(
    joined: Joined,
    question: bytes,
    arrived: bytes,
    error: tuple[str, str, tuple[int, int], int],
    told: tuple[str, str],
    quoted: int,
) -> None:
    joined.from_alice(question)
    joined.judge()
    src, dst, kind, mtu = error
    quoted = max(quoted, parse_untrusted(arrived).l4 + 8)
    joined.from_bob(icmp_error(src, dst, arrived[:quoted], kind, mtu))
    assert joined.to_alice() == [icmp_error(*told, question[:quoted], kind, mtu)]


def test_a_router_without_a_name_speaks_as_the_destination(joined: Joined) -> None:
    """Only the gateway's own addresses and the members' have names across; one behind bob has none."""
    joined.rig.engine.add_lease(joined.bob, ip_network("172.16.0.0/24"))
    joined.from_alice(udp_packet(ALICE, BOB_SEEN, b"far"))
    joined.judge()
    joined.from_bob(icmp_error("172.16.0.9", ALICE_SEEN, udp_packet(ALICE_SEEN, BOB, b"far"), (11, 0)))
    assert joined.to_alice() == [icmp_error(BOB_SEEN, ALICE, udp_packet(ALICE, BOB_SEEN, b"far"), (11, 0))]


def test_fragments_cross_and_wait_together(joined: Joined) -> None:
    l4 = udp_packet(ALICE, BOB_SEEN, b"f" * 56)[20:]
    translated = udp_packet(ALICE_SEEN, BOB, b"f" * 56)[20:]
    sent = [ip_packet(ALICE, BOB_SEEN, UDP, l4[:32], identity=5, fragment=0x2000)]
    sent += [ip_packet(ALICE, BOB_SEEN, UDP, l4[32:], identity=5, fragment=4)]
    joined.from_alice(*sent)
    joined.judge()
    assert joined.to_bob() == [
        ip_packet(ALICE_SEEN, BOB, UDP, translated[:32], identity=5, fragment=0x2000),
        ip_packet(ALICE_SEEN, BOB, UDP, translated[32:], identity=5, fragment=4),
    ]
    assert joined.rig.drops() == {}
    assert {flow.packets for flow in joined.rig.engine.flows()} == {(2, 0)}


def test_the_pieces_of_a_super_packet_are_renamed_in_their_template(joined: Joined) -> None:
    joined.from_alice(tcp_packet(ALICE, BOB_SEEN, SYN))
    joined.judge()
    joined.to_bob()
    template = tcp_packet(ALICE, BOB_SEEN, ACK | PSH, b"", sequence=1000)
    pieces = [b"y" * 100 + template + TRAILER.pack(SegmentKind.TCP4, 40, 100, n, 3) for n in range(3)]
    joined.rig.put(*(joined.rig.seal(piece) for piece in pieces))
    expected = tcp_packet(ALICE_SEEN, BOB, ACK | PSH, b"", sequence=1000)
    for plain in joined.plain_to_bob():
        headers = plain[-48:-8] if TRAILER.unpack(plain[-8:])[1] else plain[:40]
        assert (headers[12:20], headers[20:24]) == (expected[12:20], expected[20:24])


def test_what_the_kernel_left_undone_is_renamed_too(joined: Joined) -> None:
    """A packet of the gateway's host, whose checksum field holds the pseudo header's sum."""
    packet = bytearray(udp_packet(HOST, BOB_SEEN, b"partial"))
    parsed = parse_untrusted(bytes(packet))
    packet[26:28] = pseudo_sum(parsed.src, parsed.dst, UDP, len(packet) - 20).to_bytes(2)
    joined.rig.from_host(bytes(packet), offload=Offload(1, csum_start=20, csum_offset=6))
    joined.judge()
    (plain,) = joined.plain_to_bob()
    assert TRAILER.unpack(plain[-8:])[0] == SegmentKind.PARTIAL
    arrived = parse_untrusted(plain[:-8])
    assert plain[26:28] == pseudo_sum(arrived.src, arrived.dst, UDP, len(plain) - 8 - 20).to_bytes(2)


def test_the_gateways_host_on_the_far_side_is_reached(joined: Joined) -> None:
    joined.from_alice(udp_packet(ALICE, "10.202.0.1", b"gateway"), udp_packet(ALICE6, "fd22::1", b"gateway"))
    joined.judge()
    assert joined.to_tun() == [
        udp_packet(ALICE_SEEN, HOST, b"gateway"),
        udp_packet(ALICE6_SEEN, HOST6, b"gateway"),
    ]


def test_a_checksum_that_was_wrong_stays_wrong_and_none_stays_none(joined: Joined) -> None:
    broken = bytearray(udp_packet(ALICE, BOB_SEEN, b"broken"))
    broken[26] ^= 1
    without = bytearray(broken)
    without[26:28] = b"\0\0"
    joined.from_alice(bytes(broken), bytes(without))
    joined.judge()
    first, second = joined.to_bob()
    parsed = parse_untrusted(first)
    assert checksum(first[20:], pseudo_sum(parsed.src, parsed.dst, UDP, len(first) - 20)) != 0
    assert second[26:28] == b"\0\0"


originals = st.sampled_from(
    [
        udp_packet(ALICE, BOB_SEEN, b"a" * 30),
        udp_packet(ALICE6, BOB6_SEEN, b"b" * 31),
        tcp_packet(ALICE, BOB_SEEN, payload=b"c" * 50),
        tcp_packet(ALICE6, BOB6_SEEN, payload=b"d" * 51),
        echo_request(ALICE, BOB_SEEN),
        icmp_error(ALICE, BOB_SEEN, udp_packet(BOB_SEEN, ALICE, b"e" * 30), (3, 3)),
        icmp_error(ALICE6, BOB6_SEEN, tcp_packet(BOB6_SEEN, ALICE6, payload=b"f"), (1, 4)),
        ip_packet(ALICE, BOB_SEEN, UDP, udp_packet(ALICE, BOB_SEEN, b"g" * 24)[20:], identity=7, fragment=0x2000),
        ip_packet(ALICE, BOB_SEEN, UDP, b"h" * 24, identity=7, fragment=4),
        ip_packet(ALICE6, BOB6_SEEN, TCP, tcp_packet(ALICE6, BOB6_SEEN)[40:]),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    packet = bytearray(draw(originals))
    for _ in range(draw(st.integers(0, 2))):
        packet[draw(st.integers(0, len(packet) - 1))] = draw(st.integers(0, 255))
    return bytes(packet)


@settings(max_examples=effort(150, nightly=2000))
@given(st.lists(mutated(), min_size=1, max_size=6), st.booleans())
def test_both_engines_cross_alike(packets: list[bytes], allow: bool) -> None:
    answers = []
    for name in ("c-openssl", "pure"):
        with joined_on(name) as joined:
            joined.from_bob(udp_packet(BOB, ALICE_SEEN, b"e" * 30, (4000, 5000)))
            joined.judge()
            for packet in packets:
                joined.from_alice(packet)
                joined.judge(across=Verdict.ALLOW if allow else Verdict.DENY)
            flows = sorted(
                (str(f.src), str(f.dst), f.vni, f.from_vni, f.verdict, f.packets) for f in joined.rig.engine.flows()
            )
            answers.append((joined.to_bob(), joined.to_alice(), joined.to_tun(), flows, joined.rig.counted()))
    assert answers[0] == answers[1]
