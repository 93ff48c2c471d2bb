"""A long way for one direction: UDP that arrives at a device reaches its program so many milliseconds later.

    python -m bench.programs.late DEVICE MILLISECONDS        in the receiver's namespace, until SIGTERM

Not every kernel has netem. Here nftables drops the original behind the packet socket that has seen it, and what was seen
comes in again, when its time has come, through a TUN.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections import deque

from kairos_dataplane.tun import open_tun
from two_hosts import sh

_TUN = "late0"
_ETH_P_IP, _UDP = 0x0800, 17
_SO_RCVBUFFORCE = 33
_ROOM = 32 << 20
_NO_OFFLOADS = bytes(10)  # struct virtio_net_hdr


def main() -> None:
    device, delay_s = sys.argv[1], int(sys.argv[2]) / 1000
    tun = open_tun(_TUN)
    sh(f"ip link set {_TUN} up && sysctl -qw net.ipv4.conf.{_TUN}.rp_filter=0")
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
    packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
    packets.bind((device, _ETH_P_IP))
    packets.setblocking(False)
    sh(f"nft 'add table inet {_TUN}; add chain inet {_TUN} in {{ type filter hook prerouting priority -300; }}'")
    sh(f"nft add rule inet {_TUN} in iifname {device} meta l4proto udp drop")
    _pass_on(packets, tun, delay_s)


def _pass_on(packets: socket.socket, tun: int, delay_s: float) -> None:
    waiting: deque[tuple[float, bytes]] = deque()
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            os.write(tun, waiting.popleft()[1])
        select.select([packets], [], [], max(0.0, waiting[0][0] - now) if waiting else None)
        _take(packets, waiting, delay_s)


def _take(packets: socket.socket, waiting: deque[tuple[float, bytes]], delay_s: float) -> None:
    due = time.monotonic() + delay_s
    try:
        while True:
            packet, origin = packets.recvfrom(65536)
            if origin[2] != socket.PACKET_OUTGOING and packet[9] == _UDP:
                waiting.append((due, _NO_OFFLOADS + packet))
    except BlockingIOError:
        pass


if __name__ == "__main__":
    main()
