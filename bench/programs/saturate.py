"""A peer that sends as fast as it can, and the host behind the engine that receives it.

    python -m bench.programs.saturate PORT SESSION TUN WAYS

Seals bulk TCP for that session of the engine at UDP port PORT of this host, by an engine of its own, and reads what the other
writes to its TUN, whose far end is the descriptor TUN. WAYS 2: that host sends as much back. Stays until its standard input ends. Runs at a lower priority than
what is measured.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from ipaddress import ip_network

from engine_rig import HOST, PEER, TO_ENGINE, VNI, tcp_packet
from kairos_dataplane import Dataplane, FlowOpened, SessionKey, Verdict, load
from kairos_dataplane.pure.packet import ACK
from kairos_dataplane.pure.segments import Offload

PAYLOAD, SEGMENT = 58_500, 1_300
_TCP4, _NEEDS_CHECKSUM, _NICER = 1, 1, 10
_BULK = Offload(_NEEDS_CHECKSUM, _TCP4, 40, SEGMENT, 20, 16).pack()


def main() -> None:
    port, session, tun, ways = map(int, sys.argv[1:5])
    os.nice(_NICER)
    os.set_blocking(tun, True)
    threading.Thread(target=_read_all, args=(tun,), daemon=True).start()
    if ways > 1:
        threading.Thread(target=_send_back, args=(tun,), daemon=True).start()
    outer, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inner.setblocking(False)
    engine = load("c")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        engine.set_udp(udp.fileno())
        _join(engine, inner, session, port)
        threading.Thread(target=_send, args=(outer, engine), daemon=True).start()
        sys.stdin.read()
        os._exit(0)  # the threads wait in system calls


def _join(engine: Dataplane, tun: socket.socket, remote: int, port: int) -> None:
    engine.add_vni(VNI, tun.fileno())
    ours = engine.add_session(VNI)
    engine.set_remote(ours, remote)
    engine.install_keys([SessionKey(ours, 0, *TO_ENGINE, transmit=True)])
    engine.use_direct(ours, ("127.0.0.1", port), follow=False)
    engine.add_route(VNI, ip_network(HOST), ours)


def _send(tun: socket.socket, engine: Dataplane) -> None:
    first = tcp_packet(PEER, HOST, ACK)
    tun.send(Offload().pack() + first)
    while not (events := engine.events()):
        os.sched_yield()
    for event in events:
        if isinstance(event, FlowOpened):
            engine.verdict(event.flow.id, Verdict.ALLOW, 1, 1)
    bulk = _BULK + tcp_packet(PEER, HOST, ACK, bytes(PAYLOAD))
    while True:
        tun.send(bulk)


def _send_back(tun: int) -> None:
    bulk = _BULK + tcp_packet(HOST, PEER, ACK, bytes(PAYLOAD), (5000, 4000))
    while True:
        os.write(tun, bulk)


def _read_all(tun: int) -> None:
    room = bytearray(1 << 17)
    while True:
        os.readv(tun, [room])


if __name__ == "__main__":
    main()
