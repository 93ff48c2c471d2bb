"""Two VNIs of one engine, joined: both have the same prefixes, each names the other by a prefix of its own.

alice 10.77.0.2 -- VNI 7 -- gateway -- VNI 8 -- bob 10.77.0.2       alice calls bob   10.202.0.2, fd22::2
                                                                   bob calls alice   10.201.0.2, fd21::2
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network

from engine_rig import PEER, PEER6, VNI, Rig, both_ways, ip_packet, open_datagram, rig_on, whole
from kairos.wire.datagram import TRAILER
from kairos_dataplane import Flow, Mapping, Verdict
from kairos_dataplane.pure.packet import ICMP, ICMP6, checksum, parse_untrusted, pseudo_sum
from kairos_dataplane.pure.segments import VNET_BYTES

OTHER, THIRD, OTHER_RELAY = 8, 9, 2
ALICE, BOB, ALICE6, BOB6 = PEER, PEER, PEER6, PEER6  # at home
BOB_SEEN, BOB6_SEEN = "10.202.0.2", "fd22::2"
ALICE_SEEN, ALICE6_SEEN = "10.201.0.2", "fd21::2"
HERE = tuple(
    Mapping(ip_network(seen), OTHER, ip_network(real))
    for seen, real in (("10.202.0.0/24", "10.77.0.0/24"), ("fd22::/64", "fd77::/64"), ("10.203.0.0/24", "10.99.0.0/24"))
)
THERE = tuple(
    Mapping(ip_network(seen), VNI, ip_network(real))
    for seen, real in (("10.201.0.0/24", "10.77.0.0/24"), ("fd21::/64", "fd77::/64"))
)


class Joined:
    """The rig's VNI, where alice is the peer, and another with bob, joined."""

    def __init__(self, rig: Rig) -> None:
        self.rig, engine = rig, rig.engine
        self.tun, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inner.setblocking(False)
        self.tun.setblocking(False)
        with inner:
            engine.add_vni(OTHER, inner.fileno())
        engine.add_relay(OTHER_RELAY)
        self.bob = engine.add_session(OTHER)
        for prefix in ("10.77.0.2/32", "fd77::2/128"):
            engine.add_route(OTHER, ip_network(prefix), self.bob)
            engine.add_lease(self.bob, ip_network(prefix))
        for prefix in ("10.77.0.1/32", "fd77::1/128"):
            engine.add_route(OTHER, ip_network(prefix), 0)
        engine.install_keys(both_ways(self.bob))
        engine.use_relay(self.bob, OTHER_RELAY, follow=False)
        for vni, mappings in ((VNI, HERE), (OTHER, THERE)):
            for mapping in mappings:
                engine.add_mapping(vni, mapping)

    def from_alice(self, *packets: bytes) -> None:
        self.rig.put(*(self.rig.seal(whole(packet)) for packet in packets))

    def from_bob(self, *packets: bytes) -> None:
        self.rig.put(*(self.rig.seal(whole(packet), session=self.bob) for packet in packets))

    def to_alice(self) -> list[bytes]:
        return [one_hop_back(plain[: -TRAILER.size]) for _, plain in self.rig.sent()]

    def to_bob(self) -> list[bytes]:
        return [one_hop_back(plain[: -TRAILER.size]) for plain in self.plain_to_bob()]

    def plain_to_bob(self) -> list[bytes]:
        frame, plain = self.rig.engine.take_relay(OTHER_RELAY), []
        while frame:
            size = int.from_bytes(frame[:2])
            plain.append(open_datagram(frame[2 : 2 + size])[1])
            frame = frame[2 + size :]
        return plain

    def to_tun(self) -> list[bytes]:
        """Out of the gateway's TUN in bob's VNI."""
        written = []
        while True:
            try:
                written.append(one_hop_back(self.tun.recv(1 << 17)[VNET_BYTES:]))
            except BlockingIOError:
                return written

    def judge(self, here: Verdict = Verdict.ALLOW, across: Verdict = Verdict.ALLOW) -> list[Flow]:
        """Until nobody asks: the first verdict brings the second question."""
        judged: list[Flow] = []
        while flows := self.rig.opened():
            for flow in flows:
                self.rig.engine.verdict(flow.id, across if flow.from_vni else here, 1, 1)
            judged += flows
        return judged


@contextmanager
def joined_on(name: str) -> Iterator[Joined]:
    with rig_on(name) as rig:
        made = Joined(rig)
        try:
            yield made
        finally:
            made.tun.close()


def one_hop_back(packet: bytes) -> bytes:
    """As it was before it crossed, by its hop limit."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes([packet[7] + 1 & 0xFF]) + packet[8:]
    header = (packet[0] & 15) * 4
    head = packet[:8] + bytes([packet[8] + 1 & 0xFF]) + packet[9:10] + packet[10:header]
    was = checksum(packet[:header])  # 0 where it holds, and a wrong one stays as wrong as it was
    bare = head[:10] + b"\0\0" + head[12:]
    return bare[:10] + ((checksum(bare) - was) & 0xFFFF).to_bytes(2) + bare[12:] + packet[header:]


def assert_sound(packet: bytes) -> None:
    """Every checksum holds, the quoted ones too."""
    parsed = parse_untrusted(packet)
    if parsed.version == 4:
        assert checksum(packet[: parsed.l4]) == 0
    l4 = packet[parsed.l4 :]
    start = 0 if parsed.protocol == ICMP else pseudo_sum(parsed.src, parsed.dst, parsed.protocol, len(l4))
    assert checksum(l4, start) == 0
    if parsed.quoted is not None and len(parsed.quoted) == total_length(parsed.quoted):
        assert_sound(parsed.quoted)


def total_length(packet: bytes) -> int:
    return int.from_bytes(packet[2:4]) if packet[0] >> 4 == 4 else 40 + int.from_bytes(packet[4:6])


def icmp_error(src: str, dst: str, about: bytes, kind: tuple[int, int], rest: int = 0) -> bytes:
    version = 6 if ":" in src else 4
    body = struct.pack("!BBHI", *kind, 0, rest) + about
    bare = ip_packet(src, dst, ICMP if version == 4 else ICMP6, body)
    parsed = parse_untrusted(bare)
    start = 0 if version == 4 else pseudo_sum(parsed.src, parsed.dst, ICMP6, len(body))
    return ip_packet(src, dst, parsed.protocol, body[:2] + checksum(body, start).to_bytes(2) + body[4:])


def expiring(packet: bytes) -> bytes:
    """With one hop left."""
    if packet[0] >> 4 == 6:
        return packet[:7] + b"\x01" + packet[8:]
    head = packet[:8] + b"\x01" + packet[9:10] + b"\0\0" + packet[12:20]
    return head[:10] + checksum(head).to_bytes(2) + head[12:] + packet[20:]
