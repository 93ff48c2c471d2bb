"""Verdicts: asked once, kept for both directions, taken back while the flow lives."""

from __future__ import annotations

import struct

import pytest

from engine_rig import (
    HOST,
    HOST6,
    PEER,
    PEER6,
    Rig,
    echo_request,
    ip_packet,
    open_datagram,
    tcp_packet,
    udp_packet,
    whole,
)
from kairos.wire.datagram import TRAILER, SegmentKind
from kairos_dataplane import End, Verdict
from kairos_dataplane.pure.packet import ACK, FIN, ICMP, ICMP6, PSH, RST, SYN, TCP, UDP, checksum, parse_untrusted
from kairos_dataplane.pure.segments import Offload


def test_replies_of_an_allowed_flow_pass_without_a_question(rig: Rig) -> None:
    rig.from_host(udp_packet(HOST, PEER, b"question"))
    (flow,) = rig.judge()
    assert flow.session == 0
    rig.put(rig.seal(whole(udp_packet(PEER, HOST, b"answer", (5000, 4000)))))
    assert len(rig.to_host()) == 1
    assert rig.opened() == []
    (live,) = rig.engine.flows()
    assert (live.packets, live.verdict, live.rule, live.generation) == ((1, 1), Verdict.ALLOW, 1, 1)


def test_a_denied_tcp_flow_from_the_peer_is_reset(rig: Rig) -> None:
    rig.put(rig.seal(whole(tcp_packet(PEER, HOST, SYN, sequence=77))))
    rig.judge(Verdict.DENY)
    assert rig.to_host() == []
    ((_, plain),) = rig.sent()
    reset = parse_untrusted(plain[: -TRAILER.size])
    assert (reset.protocol, reset.tcp_flags, reset.src_port, reset.dst_port) == (TCP, RST | ACK, 5000, 4000)
    assert plain[28:32] == (78).to_bytes(4)
    assert checksum(plain[20:40], sum(struct.unpack("!6H", plain[12:20] + b"\x00\x06\x00\x14"))) == 0
    assert rig.counted()["flows_denied"] == 1
    assert rig.drops() == {"drop_denied": 1}


def test_what_verdicts_release_inside_a_cork_leaves_when_told_to_or_when_it_ends(rig: Rig) -> None:
    """However it ends: an error of the daemon's in the middle holds nothing back."""
    opened = []

    def judge_and_fail() -> None:
        with rig.engine.corked():
            rig.from_host(udp_packet(HOST, PEER, b"question", (1, 53)))
            rig.judge()
            rig.engine.flush()
            opened.append(open_datagram(peer.recv(2048)))
            rig.from_host(*(udp_packet(HOST, PEER, b"question", (port, 53)) for port in (2, 3)))
            assert len(rig.judge()) == 2
            raise KeyError

    with rig.over_udp() as (_, peer):
        with pytest.raises(KeyError):
            judge_and_fail()
        opened += [open_datagram(peer.recv(2048)) for _ in range(2)]
    assert [header.counter for header, _ in opened] == [0, 1, 2]
    assert all(b"question" in plain for _, plain in opened)


def test_a_denied_flow_of_the_host_is_answered_on_its_tun(rig: Rig) -> None:
    for packet, protocol, kind in (
        (udp_packet(HOST, PEER, b"no"), ICMP, (3, 13)),
        (udp_packet(HOST6, PEER6, b"no"), ICMP6, (1, 1)),
    ):
        rig.from_host(packet)
        rig.judge(Verdict.DENY)
        ((_, answer),) = rig.to_host()
        parsed = parse_untrusted(answer)
        assert (parsed.protocol, tuple(answer[parsed.l4 : parsed.l4 + 2]), parsed.quoted) == (protocol, kind, packet)
    assert rig.sent() == []


def test_a_live_flow_is_judged_again(rig: Rig) -> None:
    flow = rig.allow_from_peer(tcp_packet(PEER, HOST, SYN))
    rig.put(rig.seal(whole(tcp_packet(PEER, HOST, ACK | PSH, b"data", acknowledged=500))))
    rig.from_host(tcp_packet(HOST, PEER, ACK, b"", (5000, 4000), acknowledged=600))
    assert (len(rig.to_host()), len(rig.sent())) == (1, 1)
    assert rig.engine.verdict(flow.id, Verdict.DENY, 9, 2)
    rig.put(rig.seal(whole(tcp_packet(PEER, HOST, ACK | PSH, b"data", acknowledged=500))))
    rig.from_host(tcp_packet(HOST, PEER, ACK, b"", (5000, 4000), acknowledged=600))
    resets = [rig.sent()[-1][1][: -TRAILER.size], rig.to_host()[-1][1]]
    assert [parse_untrusted(packet).tcp_flags for packet in resets] == [RST, RST]
    assert rig.engine.verdict(flow.id, Verdict.ALLOW, 1, 3)
    rig.put(rig.seal(whole(tcp_packet(PEER, HOST, ACK | FIN, b"more"))))
    assert len(rig.to_host()) == 1


def test_the_other_end_of_a_refused_flow_is_judged_by_itself(rig: Rig) -> None:
    """What a reply that came before its question was refused must not stop the question."""
    rig.put(rig.seal(whole(udp_packet(PEER, HOST, b"answer"))))
    rig.judge(Verdict.DENY)
    rig.from_host(udp_packet(HOST, PEER, b"question", (5000, 4000)))
    (flow,) = rig.judge()
    assert (flow.session, flow.src_port) == (0, 5000)
    rig.put(rig.seal(whole(udp_packet(PEER, HOST, b"answer"))))
    assert rig.to_host()[-1][1][28:] == b"answer"
    assert len(rig.engine.flows()) == 1


def test_a_flow_that_was_taken_up_in_the_middle_gives_no_leave_to_a_syn(rig: Rig) -> None:
    rig.allow_from_peer(tcp_packet(PEER, HOST, ACK, b"data"))
    rig.put(rig.seal(whole(tcp_packet(PEER, HOST, SYN))))
    rig.judge(Verdict.DENY)
    assert rig.to_host() == []


def test_a_syn_of_the_responder_is_an_attempt_of_its_own(rig: Rig) -> None:
    rig.from_host(tcp_packet(HOST, PEER, SYN, b"", (5000, 4000)))
    rig.judge()
    rig.put(rig.seal(whole(tcp_packet(PEER, HOST, SYN))))
    (flow,) = rig.judge(Verdict.DENY)
    assert flow.session == rig.session
    rig.to_host()


def test_a_waiting_flow_keeps_a_few_packets_in_their_order(rig: Rig) -> None:
    """A resolver asks for A and AAAA in one breath, from one port."""
    packets = [udp_packet(PEER, HOST, bytes([n])) for n in range(10)]
    rig.put(*(rig.seal(whole(packet)) for packet in packets))
    assert rig.drops() == {"drop_pending": 2}
    rig.judge()
    assert [data for _, data in rig.to_host()] == packets[:8]


def test_a_waiting_flow_that_is_denied_answers_each_packet(rig: Rig) -> None:
    rig.put(*(rig.seal(whole(tcp_packet(PEER, HOST, SYN, sequence=n))) for n in range(3)))
    rig.judge(Verdict.DENY)
    assert len(rig.sent()) == 3
    assert rig.drops() == {"drop_denied": 3}


def test_the_verdict_of_a_flow_that_is_gone_is_refused(rig: Rig) -> None:
    rig.put(rig.seal(whole(echo_request(PEER, HOST))))
    (flow,) = rig.opened()
    rig.engine.cut_session(rig.session)
    assert not rig.engine.verdict(flow.id, Verdict.ALLOW, 1, 1)
    assert rig.to_host() == []


def test_an_icmp_error_passes_only_for_an_allowed_flow(rig: Rig) -> None:
    question = udp_packet(HOST, PEER, b"question")

    def unreachable(about: bytes) -> bytes:
        body = struct.pack("!BBHI", 3, 3, 0, 0) + about[:28]
        return ip_packet(PEER, HOST, ICMP, body[:2] + checksum(body).to_bytes(2) + body[4:])

    rig.put(rig.seal(whole(unreachable(question))))
    assert rig.drops() == {"drop_unsolicited_icmp": 1}
    rig.from_host(question)
    rig.judge()
    rig.put(rig.seal(whole(unreachable(question))))
    assert [data for _, data in rig.to_host()] == [unreachable(question)]


def test_later_fragments_follow_the_first(rig: Rig) -> None:
    l4 = udp_packet(PEER, HOST, b"f" * 56)[20:]
    first = ip_packet(PEER, HOST, UDP, l4[:32], identity=5, fragment=0x2000)
    last = ip_packet(PEER, HOST, UDP, l4[32:], identity=5, fragment=4)
    rig.put(rig.seal(whole(last)))
    assert rig.drops() == {"drop_unknown_fragment": 1}
    rig.put(rig.seal(whole(first)))
    rig.judge()
    rig.put(rig.seal(whole(last)))
    assert [data for _, data in rig.to_host()] == [first, last]


def test_no_fragment_writes_over_a_tcp_header(rig: Rig) -> None:
    rig.put(rig.seal(whole(ip_packet(PEER, HOST, TCP, b"x" * 16, identity=5, fragment=1))))
    assert rig.drops() == {"drop_bad_packet": 1}


def test_a_super_packet_is_cut_and_each_piece_is_a_segment_of_its_own(rig: Rig) -> None:
    payload = bytes(range(250)) * 10
    packet = tcp_packet(HOST, PEER, ACK | PSH, payload, sequence=0xFFFFFF00)
    offload = Offload(flags=1, gso_type=1, hdr_len=40, gso_size=1000, csum_start=20, csum_offset=16)
    rig.from_host(tcp_packet(HOST, PEER, SYN))
    rig.judge()
    rig.sent()
    rig.from_host(packet, offload=offload)
    pieces = [plain for _, plain in rig.sent()]
    assert b"".join(plain[: len(plain) - 48] for plain in pieces) == payload
    assert [TRAILER.unpack(plain[-8:]) for plain in pieces] == [(SegmentKind.TCP4, 40, 1000, n, 3) for n in range(3)]
    assert {plain[-48:-8] for plain in pieces} == {packet[:40]}


def test_pieces_that_come_alone_are_whole_segments(rig: Rig) -> None:
    rig.allow_from_peer(tcp_packet(PEER, HOST, SYN))
    template = tcp_packet(PEER, HOST, ACK | PSH | FIN, b"", sequence=0xFFFFFFF0)
    for index, last in ((1, False), (2, True)):
        rig.put(rig.seal(b"y" * 100 + template + TRAILER.pack(SegmentKind.TCP4, 40, 100, index, 3)))
        ((offload, data),) = rig.to_host()
        assert (offload.flags, offload.gso_type, offload.csum_start, offload.csum_offset) == (1, 0, 20, 16)
        assert data[24:28] == ((0xFFFFFFF0 + index * 100) & 0xFFFFFFFF).to_bytes(4)
        assert parse_untrusted(data).tcp_flags == (ACK | PSH | FIN if last else ACK)
        assert checksum(data[:20]) == 0


def test_what_cannot_be_parsed_or_is_multicast_does_not_cross(rig: Rig) -> None:
    rig.from_host(b"\x45" + b"\0" * 30, udp_packet(HOST, "224.0.0.251", b"mdns"), udp_packet(HOST6, "ff02::1", b"ra"))
    assert rig.drops() == {"drop_bad_packet": 1, "drop_multicast": 2}


def test_one_peer_cannot_fill_the_table_for_the_host(rig: Rig) -> None:
    """The table of a rig holds 4,096 flows, of which nobody has more than are free."""
    for first in range(1, 2100, 700):
        rig.from_host(*(udp_packet(HOST, PEER, b"", (port, 53)) for port in range(first, min(first + 700, 2100))))
        rig.judge(Verdict.DENY)
    assert rig.drops()["drop_flow_quota"] == 2099 - 2048
    rig.to_host()
    rig.put(rig.seal(whole(udp_packet(PEER, HOST, b""))))
    assert rig.opened()


def test_one_peer_has_so_many_flows_that_wait_and_no_more(rig: Rig) -> None:
    """Else its flood would take the places where the flows of others wait for their verdict."""
    most = 512
    packets = [udp_packet(PEER, HOST, b"", (port, 53)) for port in range(1, most + 11)]
    rig.put(*(rig.seal(whole(packet)) for packet in packets))
    assert rig.drops() == {"drop_undecided": 10}
    assert len(rig.judge(Verdict.DENY)) == most
    rig.put(rig.seal(whole(packets[-1])))
    assert len(rig.judge()) == 1


def test_an_allowed_flow_that_is_over_is_told_once_with_its_counts(rig: Rig) -> None:
    flow = rig.allow_from_peer(udp_packet(PEER, HOST, b"question"))
    rig.from_host(udp_packet(HOST, PEER, b"answer", (5000, 4000)))
    rig.put(rig.seal(whole(udp_packet(PEER, HOST, b"other", (4001, 5001)))))
    rig.judge(Verdict.DENY)
    assert rig.engine.ended() == ([], 0)
    rig.engine.cut_session(rig.session)
    ([over], untold) = rig.engine.ended()
    assert (over.id, over.packets, over.bytes, over.ended, untold) == (flow.id, (1, 1), (36, 34), End.CUT, 0)
    assert rig.engine.ended() == ([], 0)


def test_a_flow_that_begins_anew_ends_the_one_before(rig: Rig) -> None:
    first = rig.allow_from_peer(tcp_packet(PEER, HOST, ACK, b"data"))
    rig.put(rig.seal(whole(tcp_packet(PEER, HOST, SYN))))
    ([over], _) = rig.engine.ended()
    assert (over.id, over.ended) == (first.id, End.REPLACED)


def test_flows_come_in_pages_and_are_found_by_their_ids(rig: Rig) -> None:
    packets = [udp_packet(PEER, HOST, b"", (port, 53)) for port in range(1, 301)]
    for start in range(0, len(packets), 100):
        rig.put(*(rig.seal(whole(packet)) for packet in packets[start : start + 100]))
        rig.judge()
    pages = list(rig.engine.flow_pages())
    flows = [flow for page in pages for flow in page]
    assert sorted(flow.src_port for flow in flows) == list(range(1, 301))
    ids = [flow.id for flow in flows]
    assert {flow.id for flow in rig.engine.find_flows([*ids[:3], 12345, 0])} == set(ids[:3])
    assert rig.engine.alive([*ids[5:8], 12345, 0]) == set(ids[5:8])
    rig.engine.cut_session(rig.session)
    assert (rig.engine.flows(), rig.engine.find_flows(ids), rig.engine.alive(ids)) == ([], [], set())
