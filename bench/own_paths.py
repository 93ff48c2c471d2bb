"""A gateway's data plane with many sessions, of which each has a relay queue and a UDP source of its own.

Each visit to a session is a burst from its source over the loopback, and as many packets from the TUN, which leave through
its relay queue. What is timed is the CPU of the engine's threads; the senders' is not in it.
"""

from __future__ import annotations

import itertools
import os
import resource
import socket
import time
from ipaddress import ip_network

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.fan_in import HOST_ADDRESS, address
from engine_rig import udp_packet, wait_until, whole
from kairos.wire.datagram import DatagramHeader, DatagramType, nonce
from kairos_dataplane import FlowOpened, SessionKey, Verdict, load
from kairos_dataplane.engine import LOCAL
from kairos_dataplane.pure.segments import Offload

_VNI, _PACKET, _FILES = 1, 1_380, 64
_OFFLOAD = Offload().pack()


class _Peer:
    def __init__(self, number: int, session: int, key: bytes, iv: bytes, engine_at: tuple[str, int]) -> None:
        self.relay, self._session, self._cipher, self._iv = number + 1, session, AESGCM(key), iv
        self._plain = whole(udp_packet(address(number), HOST_ADDRESS, bytes(_PACKET - 28)))
        self.answer = _OFFLOAD + udp_packet(HOST_ADDRESS, address(number), bytes(_PACKET - 28), (5000, 4000))
        self._counters = itertools.count()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.connect(engine_at)

    def send(self) -> None:
        counter = next(self._counters)
        header = DatagramHeader(DatagramType.DATA, 0, self._session, counter).pack()
        self._udp.send(header + self._cipher.encrypt(nonce(self._iv, counter), self._plain, header))

    def close(self) -> None:
        self._udp.close()


class OwnPaths:
    """Raises OSError where so many sockets may not be open."""

    def __init__(self, sessions: int) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, sessions + 1_000), hard))
        self._engine = engine = load("c")
        self._tun, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inner.setblocking(False)
        with inner:
            engine.add_vni(_VNI, inner.fileno())
        engine.add_route(_VNI, ip_network(HOST_ADDRESS), LOCAL)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._udp.setblocking(False)
        engine.set_udp(self._udp.fileno())
        self._peers = [self._peer(number) for number in range(sessions)]
        self._turns = itertools.cycle(self._peers)
        for peer in self._peers:
            self._visit(peer, 1)

    def cpu_seconds(self, packets: int, run: int) -> float:
        """Of the engine, for so many packets each way, `run` of one session after each other."""
        began, own = time.process_time(), time.thread_time()
        for peer in itertools.islice(self._turns, packets // run):
            self._visit(peer, run)
        return time.process_time() - began - (time.thread_time() - own)

    def close(self) -> None:
        self._engine.close()
        self._tun.close()
        self._udp.close()
        for peer in self._peers:
            peer.close()

    def _peer(self, number: int) -> _Peer:
        engine, key, iv = self._engine, os.urandom(32), os.urandom(12)
        session = engine.add_session(_VNI)
        engine.set_remote(session, number + 1)
        engine.add_lease(session, ip_network(address(number)))
        engine.add_route(_VNI, ip_network(address(number)), session)
        engine.add_relay(number + 1)
        engine.use_relay(session, number + 1, follow=False)
        back = SessionKey(session, 0, os.urandom(32), os.urandom(12), transmit=True)
        engine.install_keys([SessionKey(session, 0, key, iv, transmit=False), back])
        return _Peer(number, session, key, iv, self._udp.getsockname())

    def _visit(self, peer: _Peer, run: int) -> None:
        for _ in range(run):
            peer.send()
        self._read(run)
        before = self._engine.counters()["tx_packets"]
        for _ in range(run):
            self._tun.send(peer.answer)
        wait_until(lambda: self._engine.counters()["tx_packets"] >= before + run)
        while self._engine.take_relay(peer.relay):
            pass

    def _read(self, packets: int) -> None:
        """So many from the TUN; a new flow is allowed."""
        self._tun.setblocking(False)
        while packets:
            try:
                self._tun.recv(1 << 17)
            except BlockingIOError:
                for event in self._engine.events():
                    if isinstance(event, FlowOpened):
                        self._engine.verdict(event.flow.id, Verdict.ALLOW, 1, 1)
            else:
                packets -= 1
