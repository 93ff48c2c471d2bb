"""A gateway's data plane with many sessions, and packets that come from all of them in turn.

The engine is the real one; its TUNs are socket pairs, and the peers' datagrams are sealed beforehand. So what is timed is
one core's work a packet: open, replay window, lease, flow, and the write to the TUN.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_network

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine_rig import udp_packet, whole
from kairos.wire.datagram import DatagramHeader, DatagramType, nonce
from kairos_dataplane import Dataplane, FlowOpened, SessionKey, Verdict, load
from kairos_dataplane.engine import LOCAL

RELAY = 1
_BATCH = 64  # datagrams a frame: what the socket pair of a TUN holds
_PACKET = 1_380
HOST_ADDRESS = "10.255.0.1"
_FIRST_ADDRESS = int(IPv4Address("10.0.0.1"))


def add_session(engine: Dataplane, vni: int, number: int, key: bytes, iv: bytes, relay: int = RELAY) -> int:
    """A session as a gateway has it: one address, keys both ways, a relay queue as its path."""
    session = engine.add_session(vni)
    engine.set_remote(session, number + 1)
    engine.use_relay(session, relay, follow=False)
    engine.add_lease(session, ip_network(address(number)))
    engine.add_route(vni, ip_network(address(number)), session)
    back = SessionKey(session, 0, os.urandom(32), os.urandom(12), transmit=True)
    engine.install_keys([SessionKey(session, 0, key, iv, transmit=False), back])
    return session


def address(number: int) -> str:
    """Of the endpoint with this number."""
    return str(IPv4Address(_FIRST_ADDRESS + number))


class _Peer:
    """One endpoint: its keys and the one packet that it sends again and again."""

    def __init__(self, engine: Dataplane, vni: int, number: int) -> None:
        self._key, self._iv, self._counters = AESGCM.generate_key(256), os.urandom(12), itertools.count()
        self._cipher = AESGCM(self._key)
        self._plain = whole(udp_packet(address(number), HOST_ADDRESS, bytes(_PACKET - 28)))
        self._session = add_session(engine, vni, number, self._key, self._iv)

    def record(self) -> bytes:
        """The packet as it stands in a DATAGRAMS frame."""
        counter = next(self._counters)
        header = DatagramHeader(DatagramType.DATA, 0, self._session, counter).pack()
        sealed = header + self._cipher.encrypt(nonce(self._iv, counter), self._plain, header)
        return len(sealed).to_bytes(2, "big") + sealed


class FanIn:
    """sessions are spread evenly over the VNIs; each has one flow, which is allowed."""

    def __init__(self, sessions: int, vnis: int) -> None:
        self.engine = load("c")
        self.engine.add_relay(RELAY)
        self._tuns = [self._tun(vni) for vni in range(1, vnis + 1)]
        peers = [_Peer(self.engine, 1 + number % vnis, number) for number in range(sessions)]
        self._peers = itertools.cycle(peers)
        for frame in self._frames(sessions, 1):
            self.engine.put_relay(RELAY, frame)
            self.engine.settle()
            self._allow()
        self._drain()

    def cpu_seconds(self, packets: int, run: int) -> float:
        """What so many packets cost, `run` of one session after each other. Raises RuntimeError when one is lost."""
        before, seconds = self.engine.counters()["rx_packets"], 0.0
        for frame in self._frames(packets, run):
            began = time.process_time()
            self.engine.put_relay(RELAY, frame)
            self.engine.settle()
            seconds += time.process_time() - began
            self._drain()
        counters = self.engine.counters()
        if counters["rx_packets"] - before != packets:
            raise RuntimeError(f"lost packets: { {name: n for name, n in counters.items() if n} }")
        return seconds

    def close(self) -> None:
        self.engine.close()
        for tun in self._tuns:
            tun.close()

    def _tun(self, vni: int) -> socket.socket:
        outer, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        outer.setblocking(False)
        inner.setblocking(False)
        with inner:
            self.engine.add_vni(vni, inner.fileno())
        self.engine.add_route(vni, ip_network(HOST_ADDRESS), LOCAL)
        return outer

    def _frames(self, packets: int, run: int) -> Iterator[bytes]:
        records = (peer.record() for peer in self._peers for _ in range(run))
        for start in range(0, packets, _BATCH):
            yield b"".join(itertools.islice(records, min(_BATCH, packets - start)))

    def _allow(self) -> None:
        while events := self.engine.events():
            for event in events:
                if isinstance(event, FlowOpened):
                    self.engine.verdict(event.flow.id, Verdict.ALLOW, 1, 1)
        self._drain()

    def _drain(self) -> None:
        for tun in self._tuns:
            try:
                while True:
                    tun.recv(1 << 17)
            except BlockingIOError:
                pass
