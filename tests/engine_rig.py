"""One engine at arm's length: a socket pair for its TUN, and a peer of it made of kairos.wire and AES-GCM alone.

Nothing here needs root. Datagrams that come in by `put` have been dealt with when it returns; for the rest there are
conditions to wait for.
"""

from __future__ import annotations

import ctypes.util
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kairos.wire.datagram import (
    HEADER,
    TRAILER,
    DatagramHeader,
    DatagramType,
    SegmentKind,
    nonce,
    parse_header_untrusted,
)
from kairos_dataplane import Dataplane, Event, Flow, FlowOpened, SessionKey, Verdict, load
from kairos_dataplane.engine import NEVER
from kairos_dataplane.pure.packet import ICMP, SYN, TCP, UDP, checksum, pseudo_sum
from kairos_dataplane.pure.segments import VNET_BYTES, Offload

ENGINES = {
    "c-ipsec-mb": lambda: load("c", "ipsec-mb", 1 << 12),
    "c-openssl": lambda: load("c", "openssl", 1 << 12),
    "pure": lambda: load("pure", "auto", 1 << 12),
}
with_ipsec_mb = pytest.mark.skipif(
    ctypes.util.find_library("IPSec_MB") is None, reason="libIPSec_MB is not installed (x86-64 alone has it)"
)
"""`./dev` installs it wherever Debian has it."""
VNI, PEER_INDEX, RELAY = 7, 0x1234, 1
HOST, PEER, STRANGER = "10.77.0.1", "10.77.0.2", "10.99.0.1"
HOST6, PEER6 = "fd77::1", "fd77::2"
TO_ENGINE = (bytes(range(32)), bytes(range(12)))
FROM_ENGINE = (bytes(range(32, 64)), bytes(range(12, 24)))
WAIT_S = 60.0  # for what must happen, on a slow machine too
# Where a packet out of the TUN can end.
_TUN_OUTCOMES = [
    "tx_packets",
    "parked",
    "drop_no_route",
    "drop_no_key",
    "drop_no_path",
    "drop_bad_packet",
    "drop_multicast",
    "drop_denied",
    "drop_pending",
    "drop_park_full",
    "drop_icmp_type",
    "drop_unsolicited_icmp",
    "drop_misdirected_icmp",
    "drop_spoofed_source",
    "drop_unknown_fragment",
    "drop_overlapping_fragment",
    "drop_flow_table_full",
    "drop_flow_quota",
    "drop_undecided",
    "drop_too_large",
]


def ip_packet(src: str, dst: str, protocol: int, l4: bytes, *, identity: int = 0, fragment: int = 0) -> bytes:
    """fragment: the flags and offset word of IPv4."""
    a, b = ip_address(src), ip_address(dst)
    if isinstance(a, IPv4Address):
        head = (
            struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(l4), identity, fragment, 64, protocol, 0) + a.packed + b.packed
        )
        return head[:10] + checksum(head).to_bytes(2) + head[12:] + l4
    return struct.pack("!IHBB", 6 << 28, len(l4), protocol, 64) + a.packed + b.packed + l4


def udp_packet(src: str, dst: str, payload: bytes, ports: tuple[int, int] = (4000, 5000)) -> bytes:
    l4 = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    total = checksum(l4, pseudo_sum(ip_address(src).packed, ip_address(dst).packed, UDP, len(l4)))
    return ip_packet(src, dst, UDP, l4[:6] + total.to_bytes(2) + l4[8:])


def tcp_packet(
    src: str,
    dst: str,
    flags: int = SYN,
    payload: bytes = b"",
    ports: tuple[int, int] = (4000, 5000),
    sequence: int = 1000,
    acknowledged: int = 0,
) -> bytes:
    l4 = struct.pack("!HHIIBBHHH", *ports, sequence, acknowledged, 5 << 4, flags, 1024, 0, 0) + payload
    total = checksum(l4, pseudo_sum(ip_address(src).packed, ip_address(dst).packed, TCP, len(l4)))
    return ip_packet(src, dst, TCP, l4[:16] + total.to_bytes(2) + l4[18:])


def echo_request(src: str, dst: str, ident: int = 9) -> bytes:
    return _echo(8, src, dst, ident)


def echo_reply(src: str, dst: str, ident: int = 9) -> bytes:
    return _echo(0, src, dst, ident)


def _echo(kind: int, src: str, dst: str, ident: int) -> bytes:
    body = struct.pack("!BBHHH", kind, 0, 0, ident, 1) + b"echo"
    return ip_packet(src, dst, ICMP, body[:2] + checksum(body).to_bytes(2) + body[4:])


def whole(packet: bytes) -> bytes:
    """The plaintext of a DATA datagram that carries one complete packet."""
    return packet + TRAILER.pack(SegmentKind.WHOLE, 0, 0, 0, 1)


def both_ways(session: int, epoch: int = 0, not_after: int = NEVER) -> list[SessionKey]:
    """The keys of a peer of this session."""
    return [
        SessionKey(session, epoch, *TO_ENGINE, transmit=False, not_after=not_after),
        SessionKey(session, epoch, *FROM_ENGINE, transmit=True, not_after=not_after),
    ]


class Rig:
    """An engine with one VNI, one session to the peer and the relay as its path. Both sides lease one v4 and one v6."""

    def __init__(self, engine: Dataplane) -> None:
        self.engine = engine
        self.tun, self._inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.tun.settimeout(WAIT_S)
        self._inner.setblocking(False)
        engine.add_vni(VNI, self._inner.fileno())
        engine.add_relay(RELAY)
        self.session = engine.add_session(VNI)
        engine.set_remote(self.session, PEER_INDEX)
        for prefix, hop in (("10.77.0.2/32", self.session), ("fd77::2/128", self.session), ("10.77.0.0/24", 0)):
            engine.add_route(VNI, ip_network(prefix), hop)
        engine.add_route(VNI, ip_network("fd77::/64"), 0)
        for prefix in ("10.77.0.2/32", "fd77::2/128"):
            engine.add_lease(self.session, ip_network(prefix))
        engine.install_keys(both_ways(self.session))
        engine.use_relay(self.session, RELAY, follow=True)
        self._counter = 0

    # -- the peer --

    def seal(
        self,
        plain: bytes,
        kind: DatagramType = DatagramType.DATA,
        counter: int | None = None,
        epoch: int = 0,
        session: int | None = None,
    ) -> bytes:
        """Without a counter: the next one."""
        if counter is None:
            counter, self._counter = self._counter, self._counter + 1
        header = DatagramHeader(kind, epoch, self.session if session is None else session, counter).pack()
        return header + AESGCM(TO_ENGINE[0]).encrypt(nonce(TO_ENGINE[1], counter), plain, header)

    def put(self, *datagrams: bytes) -> None:
        self.engine.put_relay(RELAY, b"".join(len(d).to_bytes(2) + d for d in datagrams))
        self.engine.settle()

    def sent(self) -> list[tuple[DatagramHeader, bytes]]:
        """What the engine has sent to the peer: header and plaintext."""
        frame, opened = self.engine.take_relay(RELAY), []
        while frame:
            size = int.from_bytes(frame[:2])
            datagram, frame = frame[2 : 2 + size], frame[2 + size :]
            opened.append(open_datagram(datagram))
        return opened

    @contextmanager
    def over_udp(self, host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, socket.socket]]:
        """The path is direct, over the loopback of this host: the sockets of the engine and of the peer."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as ours, socket.socket(family, socket.SOCK_DGRAM) as theirs:
            for end in (ours, theirs):
                end.bind((host, 0))
            ours.setblocking(False)
            theirs.settimeout(20)
            self.engine.set_udp(ours.fileno())
            self.engine.use_direct(self.session, theirs.getsockname()[:2], follow=False)
            yield ours, theirs

    # -- the host --

    def from_host(self, *packets: bytes, offload: Offload | None = None) -> None:
        """Into the TUN; returns when the engine has dealt with them."""
        before = self._outcomes()
        for packet in packets:
            self.tun.send((offload or Offload()).pack() + packet)
        wait_until(lambda: self._outcomes() >= before + len(packets))
        self.engine.settle()  # the batch has ended: its events are out

    def _outcomes(self) -> int:
        counters = self.engine.counters()
        return sum(counters[name] for name in _TUN_OUTCOMES)

    def limit_tun(self) -> None:
        """From now on the TUN refuses packets above 4.5 KB with EMSGSIZE, and holds two that are just below."""
        self._inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

    def to_host(self) -> list[tuple[Offload, bytes]]:
        """What the engine has written to the TUN."""
        written = []
        while select.select([self.tun], [], [], 0)[0]:
            data = self.tun.recv(1 << 17)
            written.append((Offload.unpack(data), data[VNET_BYTES:]))
        return written

    # -- the daemon --

    def opened(self) -> list[Flow]:
        return [event.flow for event in self.events() if isinstance(event, FlowOpened)]

    def events(self) -> list[Event]:
        events: list[Event] = []
        while batch := self.engine.events():
            events += batch
        return events

    def judge(self, verdict: Verdict = Verdict.ALLOW) -> list[Flow]:
        flows = self.opened()
        for flow in flows:
            assert self.engine.verdict(flow.id, verdict, 1, 1)
        return flows

    def allow_from_peer(self, packet: bytes) -> Flow:
        """Opens the flow of `packet`, and forgets what it caused."""
        self.put(self.seal(whole(packet)))
        (flow,) = self.judge()
        self.to_host()
        return flow

    def counted(self) -> dict[str, int]:
        return {name: value for name, value in self.engine.counters().items() if value}

    def drops(self) -> dict[str, int]:
        return {name: value for name, value in self.counted().items() if name.startswith("drop_")}

    def close(self) -> None:
        self.engine.close()
        self._inner.close()
        self.tun.close()


def open_datagram(datagram: bytes) -> tuple[DatagramHeader, bytes]:
    header = parse_header_untrusted(datagram)
    plain = AESGCM(FROM_ENGINE[0]).decrypt(
        nonce(FROM_ENGINE[1], header.counter), datagram[HEADER.size :], datagram[: HEADER.size]
    )
    return header, plain


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the engine did not get there in time"
        os.sched_yield()


@contextmanager
def rig_on(name: str) -> Iterator[Rig]:
    rig = Rig(ENGINES[name]())
    try:
        yield rig
    finally:
        rig.close()
