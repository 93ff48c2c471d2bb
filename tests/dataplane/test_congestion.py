"""ECN across the tunnel, on every engine: the table of RFC 6040 §4.2, cell by cell, over real UDP sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from engine_rig import HOST, HOST6, PEER, PEER6, Rig, open_datagram, tcp_packet, udp_packet, wait_until, whole
from kairos.wire.datagram import TRAILER, SegmentKind
from kairos_dataplane.pure.packet import ACK, checksum

NOT_ECT, ECT1, ECT0, CE = range(4)
# (inner, outer) -> inner after the tunnel, None: dropped
TABLE = {
    (NOT_ECT, NOT_ECT): NOT_ECT,
    (NOT_ECT, ECT0): NOT_ECT,
    (NOT_ECT, ECT1): NOT_ECT,
    (NOT_ECT, CE): None,
    (ECT0, NOT_ECT): ECT0,
    (ECT0, ECT0): ECT0,
    (ECT0, ECT1): ECT1,
    (ECT0, CE): CE,
    (ECT1, NOT_ECT): ECT1,
    (ECT1, ECT0): ECT1,
    (ECT1, ECT1): ECT1,
    (ECT1, CE): CE,
    (CE, NOT_ECT): CE,
    (CE, ECT0): CE,
    (CE, ECT1): CE,
    (CE, CE): CE,
}


def marked(packet: bytes, mark: int) -> bytes:
    if packet[0] >> 4 == 6:
        return packet[:1] + bytes([packet[1] & 0xCF | mark << 4]) + packet[2:]
    head = packet[:1] + bytes([packet[1] & 0xFC | mark]) + packet[2:10] + b"\0\0" + packet[12:20]
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + packet[20:]


class Wire:
    """UDP between the rig's engine and its peer, over the loopback of this host."""

    def __init__(self, rig: Rig, engine: socket.socket, peer: socket.socket) -> None:
        self.rig, self.engine, self.peer = rig, engine, peer
        self._level, self._mark = (
            (socket.IPPROTO_IP, socket.IP_TOS)
            if peer.family == socket.AF_INET
            else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        )
        receive = socket.IP_RECVTOS if peer.family == socket.AF_INET else socket.IPV6_RECVTCLASS
        self.peer.setsockopt(self._level, receive, 1)

    def send(self, datagram: bytes, mark: int) -> None:
        seen = self.rig.counted().get("rx_datagrams", 0)
        self.peer.setsockopt(self._level, self._mark, mark)
        self.peer.sendto(datagram, self.engine.getsockname())
        wait_until(lambda: self.rig.counted().get("rx_datagrams", 0) > seen)
        self.rig.put()  # the receiver has finished with its batch when this one gets its turn

    def receive(self) -> tuple[bytes, int]:
        """A packet and the mark of the datagram that brought it."""
        datagram, control, _, _ = self.peer.recvmsg(2000, 64)
        return open_datagram(datagram)[1][: -TRAILER.size], control[0][2][0] & 3


@pytest.fixture(params=["127.0.0.1", "::1"])
def wire(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Wire]:
    with rig.over_udp(request.param) as ends:
        yield Wire(rig, *ends)


@pytest.mark.parametrize("ends", [(PEER, HOST), (PEER6, HOST6)])
def test_the_receiver_keeps_the_table(wire: Wire, ends: tuple[str, str]) -> None:
    rig, packet = wire.rig, udp_packet(*ends, b"hello")
    rig.allow_from_peer(packet)
    for (inner, outer), expected in TABLE.items():
        wire.send(rig.seal(whole(marked(packet, inner))), outer)
        assert [data for _, data in rig.to_host()] == ([] if expected is None else [marked(packet, expected)])
    assert rig.drops() == {"drop_congested": 1}


@pytest.mark.parametrize("ends", [(HOST, PEER), (HOST6, PEER6)])
def test_the_sender_copies_the_bits_and_not_the_class(wire: Wire, ends: tuple[str, str]) -> None:
    rig, packet = wire.rig, udp_packet(*ends, b"hello")
    rig.from_host(packet)
    rig.judge()
    assert wire.receive() == (packet, NOT_ECT)
    for mark in (ECT0, ECT1, CE, NOT_ECT):
        rig.from_host(marked(packet, mark))
        assert wire.receive() == (marked(packet, mark), mark)


def test_a_piece_of_a_super_packet_carries_its_mark(wire: Wire) -> None:
    rig = wire.rig
    rig.allow_from_peer(tcp_packet(PEER, HOST))
    template = marked(tcp_packet(PEER, HOST, ACK), ECT0)
    wire.send(rig.seal(b"x" * 100 + template + TRAILER.pack(SegmentKind.TCP4, 40, 100, 0, 2)), CE)
    wire.send(rig.seal(b"x" * 100 + template + TRAILER.pack(SegmentKind.TCP4, 40, 100, 1, 2)), ECT0)
    assert [data[1] & 3 for _, data in rig.to_host()] == [CE, ECT0]
