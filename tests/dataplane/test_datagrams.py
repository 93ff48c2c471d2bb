"""What an engine takes in and what it drops: docs/protocol.md §6, check by check."""

from __future__ import annotations

import socket
from ipaddress import ip_network

import pytest

from engine_rig import (
    HOST,
    PEER,
    RELAY,
    STRANGER,
    VNI,
    Rig,
    both_ways,
    open_datagram,
    udp_packet,
    wait_until,
    whole,
)
from kairos.wire.datagram import TRAILER, DatagramType, SegmentKind
from kairos_dataplane import ControlReceived, PathKind, PathMoved, SessionKey, Verdict

PACKET = udp_packet(PEER, HOST, b"hello")


def test_a_packet_of_an_allowed_flow_reaches_the_host(rig: Rig) -> None:
    rig.put(rig.seal(whole(PACKET)))
    assert rig.to_host() == []  # it waits for its verdict
    (flow,) = rig.judge()
    assert (str(flow.src), str(flow.dst), flow.src_port, flow.dst_port) == (PEER, HOST, 4000, 5000)
    assert [data for _, data in rig.to_host()] == [PACKET]


@pytest.mark.parametrize("bit", [0, 13, 24, 40, 63, 64, 127, 128, 300, 8 * 20 + 1, -1, -100])
def test_a_flipped_bit_drops_the_datagram(rig: Rig, bit: int) -> None:
    rig.allow_from_peer(PACKET)
    datagram = bytearray(rig.seal(whole(PACKET)))
    datagram[bit // 8] ^= 0x80 >> bit % 8
    rig.put(bytes(datagram))
    assert rig.to_host() == []
    assert sum(rig.drops().values()) == 1


@pytest.mark.parametrize("size", [0, 1, 15, 16, 31])
def test_a_short_datagram_is_dropped(rig: Rig, size: int) -> None:
    rig.put(rig.seal(whole(PACKET))[:size])
    assert rig.drops() == {"drop_short": 1}


def test_a_replay_is_dropped(rig: Rig) -> None:
    rig.allow_from_peer(PACKET)
    datagram = rig.seal(whole(PACKET))
    rig.put(datagram, datagram)
    rig.put(datagram)
    assert len(rig.to_host()) == 1
    assert rig.drops() == {"drop_replay": 2}


def test_what_is_left_of_the_window_is_dropped_and_what_is_in_it_is_not(rig: Rig) -> None:
    rig.allow_from_peer(PACKET)
    rig.put(*(rig.seal(whole(PACKET), counter=counter) for counter in (9000, 9000 - 8191, 9000 - 8192)))
    assert len(rig.to_host()) == 2
    assert rig.drops() == {"drop_replay": 1}


def test_unknown_sessions_and_epochs_are_dropped(rig: Rig) -> None:
    rig.put(rig.seal(whole(PACKET), session=rig.session + 1), rig.seal(whole(PACKET), epoch=1))
    assert rig.drops() == {"drop_unknown_session": 1, "drop_unknown_epoch": 1}


def test_a_cut_session_takes_nothing_more(rig: Rig) -> None:
    rig.allow_from_peer(PACKET)
    rig.engine.cut_session(rig.session)
    rig.put(rig.seal(whole(PACKET)))
    assert rig.drops() == {"drop_unknown_session": 1}
    assert rig.engine.flows() == []


def test_an_epoch_is_retired_while_the_next_goes_on(rig: Rig) -> None:
    rig.allow_from_peer(PACKET)
    rig.engine.install_keys(both_ways(rig.session, 1))
    rig.engine.retire_receive(0, [rig.session])
    rig.put(rig.seal(whole(PACKET), epoch=1), rig.seal(whole(PACKET), epoch=0))
    assert len(rig.to_host()) == 1
    assert rig.drops() == {"drop_unknown_epoch": 1}


def test_no_key_is_installed_twice(rig: Rig) -> None:
    for key in both_ways(rig.session):
        with pytest.raises(FileExistsError):
            rig.engine.install_keys([key])


def test_keys_are_installed_all_or_none_and_those_of_gone_sessions_are_left_out(rig: Rig) -> None:
    other = rig.engine.add_session(VNI)
    with pytest.raises(FileExistsError):
        rig.engine.install_keys([*both_ways(other, 1), *both_ways(rig.session, 0)])
    rig.engine.install_keys([*both_ways(other, 1), *both_ways(12345, 1)])
    with pytest.raises(ValueError, match="bytes"):
        SessionKey(other, 2, b"short", bytes(12), transmit=True)


def test_an_inner_source_outside_the_lease_is_dropped(rig: Rig) -> None:
    rig.put(rig.seal(whole(udp_packet(STRANGER, HOST, b"x"))), rig.seal(whole(udp_packet(HOST, HOST, b"x"))))
    assert rig.drops() == {"drop_spoofed_source": 2}
    assert rig.opened() == []


@pytest.mark.parametrize(
    "trailer",
    [
        (6, 28, 100, 0, 2),
        (SegmentKind.UDP4, 28, 0, 0, 2),
        (SegmentKind.UDP4, 28, 5, 2, 2),
        (SegmentKind.UDP4, 27, 5, 0, 2),
        (SegmentKind.UDP4, 255, 5, 0, 2),
        (SegmentKind.UDP4, 28, 4, 0, 2),
        (SegmentKind.UDP4, 28, 6, 0, 2),
        (SegmentKind.TCP4, 28, 5, 0, 2),
        (SegmentKind.UDP6, 28, 5, 0, 2),
        (SegmentKind.UDP4, 28, 60000, 1, 3),
    ],
)
def test_a_senseless_segment_is_dropped(rig: Rig, trailer: tuple[int, int, int, int, int]) -> None:
    header = PACKET[:28]
    rig.put(rig.seal(b"hello" + header + TRAILER.pack(*trailer)))
    assert rig.drops() == {"drop_bad_segment": 1}


def test_an_authentic_datagram_without_a_trailer_is_dropped(rig: Rig) -> None:
    rig.put(rig.seal(b"1234567"), rig.seal(b""))
    assert rig.drops() == {"drop_bad_segment": 2}


def test_a_broken_relay_record_is_told_and_what_stood_before_it_counts(rig: Rig) -> None:
    datagram = rig.seal(whole(PACKET))
    for tail in (b"\x00", b"\x00\x05abc", b"\xff\xff"):
        with pytest.raises(OSError, match="message"):
            rig.engine.put_relay(RELAY, len(datagram).to_bytes(2) + datagram + tail)
    rig.engine.settle()
    assert rig.counted()["rx_relay_datagrams"] == 1


def test_control_payloads_go_up_and_down(rig: Rig) -> None:
    rig.put(rig.seal(b"are you there", DatagramType.PROBE))
    (event,) = rig.events()
    assert event == ControlReceived(rig.session, DatagramType.PROBE, b"are you there", None, RELAY, 45)
    rig.engine.send_control(rig.session, DatagramType.PROBE_ACK, b"yes")
    ((header, plain),) = rig.sent()
    assert (header.type, plain) == (DatagramType.PROBE_ACK, b"yes")
    with pytest.raises(OSError, match="argument"):
        rig.engine.send_control(rig.session, DatagramType.PROBE, b"x" * 1201)
    rig.put(rig.seal(b"x" * 1201, DatagramType.KEEPALIVE))
    assert rig.drops() == {"drop_too_large": 1}


def test_the_path_follows_the_newest_datagram_but_no_probe(rig: Rig) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        for sock in (ours, theirs):
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(60)
        ours.setblocking(False)
        rig.engine.set_udp(ours.fileno())
        events = []

        def send(datagram: bytes) -> None:
            seen = sum(rig.counted().get(name, 0) for name in ("rx_datagrams", "drop_replay"))
            theirs.sendto(datagram, ours.getsockname())
            wait_until(lambda: sum(rig.counted().get(n, 0) for n in ("rx_datagrams", "drop_replay")) > seen)
            events.extend(rig.events())

        old = rig.seal(b"", DatagramType.KEEPALIVE)
        rig.put(rig.seal(b"", DatagramType.KEEPALIVE))
        rig.events()
        send(rig.seal(b"probe", DatagramType.PROBE))
        send(old)  # authentic and new, but not the newest
        assert not [event for event in events if isinstance(event, PathMoved)]
        send(rig.seal(b"", DatagramType.KEEPALIVE))
        moved = [event for event in events if isinstance(event, PathMoved)]
        assert moved == [PathMoved(rig.session, PathKind.DIRECT, theirs.getsockname(), 0)]
        rig.engine.send_control(rig.session, DatagramType.PROBE_ACK, b"here")
        assert open_datagram(theirs.recv(2000))[1] == b"here"
        rig.put(rig.seal(b"", DatagramType.KEEPALIVE))  # and back
        assert PathMoved(rig.session, PathKind.RELAY, None, RELAY) in rig.events()


def test_without_follow_the_path_stays(rig: Rig) -> None:
    rig.engine.use_direct(rig.session, ("192.0.2.1", 9), follow=False)
    rig.put(rig.seal(b"", DatagramType.KEEPALIVE))
    assert not [event for event in rig.events() if isinstance(event, PathMoved)]


def test_a_full_relay_queue_drops_the_oldest(rig: Rig) -> None:
    count = 1100
    for number in range(count):
        rig.engine.send_control(rig.session, DatagramType.KEEPALIVE, number.to_bytes(4) + b"x" * 1000)
    kept: list[int] = []
    while sent := rig.sent():
        kept += [int.from_bytes(plain[:4]) for _, plain in sent]
    assert kept == list(range(count - len(kept), count))
    assert rig.drops() == {"drop_relay_full": count - len(kept)}
    assert 900 < len(kept) < count


def test_a_packet_to_another_member_turns_around(rig: Rig) -> None:
    other = rig.engine.add_session(7)
    rig.engine.set_remote(other, 99)
    rig.engine.install_keys(both_ways(other))
    rig.engine.use_relay(other, RELAY, follow=False)
    rig.engine.add_route(7, ip_network("10.77.0.3/32"), other)
    packet = udp_packet(PEER, "10.77.0.3", b"to the third")
    rig.put(rig.seal(whole(packet)))
    rig.judge(Verdict.ALLOW)
    ((header, plain),) = rig.sent()
    assert (header.receiver, plain) == (99, whole(packet))
    assert rig.counted()["turned_around"] == 1


def test_a_route_that_leads_back_is_no_route(rig: Rig) -> None:
    rig.put(rig.seal(whole(udp_packet(PEER, PEER, b"me"))))
    rig.judge()
    assert rig.drops() == {"drop_no_route": 1}
