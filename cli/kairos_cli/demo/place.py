"""Stands at one place of the VNI demo, until its input ends: `python -m kairos_cli.demo.place [NAME]`.

With a name it answers TCP connections and UDP datagrams with that name. It looks at every packet on every interface here and at its
end prints those of the matrix: [{"cell": 20001, "forward": true, "packets": 2}, ...].
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from collections import Counter

from kairos_cli.demo.matrix import FIRST_NUMBER, every_cell
from kairos_cli.demo.segments import PORT

_EVERY_PROTOCOL = 3  # ETH_P_ALL
_ECHO_FORWARD, _ECHO_BACK = {(1, 8), (58, 128)}, {(1, 0), (58, 129)}


def main(name: str) -> None:
    seen: Counter[tuple[int, bool]] = Counter()
    watch = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_EVERY_PROTOCOL))
    watch.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    threading.Thread(target=_look, args=(watch, seen), daemon=True).start()
    if name:
        _serve(name.encode())
    print("ready", flush=True)
    sys.stdin.read()
    print(json.dumps([{"cell": cell, "forward": way, "packets": count} for (cell, way), count in seen.copy().items()]))


def _serve(name: bytes) -> None:
    tcp = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", PORT))
    threading.Thread(target=_answer_tcp, args=(tcp, name), daemon=True).start()
    threading.Thread(target=_answer_udp, args=(udp, name), daemon=True).start()


def _answer_tcp(server: socket.socket, name: bytes) -> None:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(name)


def _answer_udp(server: socket.socket, name: bytes) -> None:
    while True:
        _, asking = server.recvfrom(2048)
        server.sendto(name, asking)


def _look(watch: socket.socket, seen: Counter[tuple[int, bool]]) -> None:
    count = len(every_cell())
    while True:
        found = cell_of(watch.recv(256))
        if found is not None and FIRST_NUMBER <= found[0] < FIRST_NUMBER + count:
            seen[found] += 1


def cell_of(packet: bytes) -> tuple[int, bool] | None:
    """Number and direction of a packet that has the form of a probe or of its answer."""
    if len(packet) < 40:  # no probe is shorter: an IPv4 echo carries 12 bytes
        return None
    version = packet[0] >> 4
    protocol, at = (packet[9], (packet[0] & 15) * 4) if version == 4 else (packet[6], 40)
    if version not in (4, 6) or len(packet) < at + 8:
        return None
    if protocol in (1, 58):
        (identity,) = struct.unpack_from("!H", packet, at + 4)
        kind = (protocol, packet[at])
        return (identity, kind in _ECHO_FORWARD) if kind in _ECHO_FORWARD | _ECHO_BACK else None
    if protocol not in (6, 17):
        return None
    source, target = struct.unpack_from("!HH", packet, at)
    if target == PORT:
        return source, True
    return (target, False) if source == PORT else None


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
