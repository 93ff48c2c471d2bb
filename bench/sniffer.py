"""When a packet was last seen on an interface: by its sender, with the kernel's own time stamps."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable
from ipaddress import IPv4Address

_CLONE_NEWNET = 0x4000_0000
_ETH_P_IP = 0x0800
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@qq")
_READ = 128  # the headers

Wanted = Callable[[bytes], bool]


class Sniffer:
    """namespace: a name of `ip netns`, or empty for our own. wanted: which IPv4 packets count, from their first bytes."""

    def __init__(self, namespace: str, interface: str, wanted: Wanted) -> None:
        self._last: dict[str, float] = {}
        self._wanted = wanted
        self._opened = threading.Event()
        self._socket: socket.socket | None = None
        threading.Thread(target=self._run, args=(namespace, interface), daemon=True).start()
        if not self._opened.wait(20) or self._socket is None:
            raise OSError(f"{interface} in {namespace or 'this namespace'} cannot be watched")

    def last(self, sender: str) -> float:
        """Unix seconds of the last packet from this address; 0: none came."""
        return self._last.get(sender, 0.0)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _run(self, namespace: str, interface: str) -> None:
        try:
            if namespace:
                _enter(namespace)  # this thread only: its socket stays there
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
            raw.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            raw.bind((interface, _ETH_P_IP))
            self._socket = raw
        finally:
            self._opened.set()
        while True:
            try:
                packet, ancillary, _, _ = raw.recvmsg(_READ, socket.CMSG_SPACE(_TIMESPEC.size))
            except OSError:  # closed, or the interface has gone
                return
            if self._wanted(packet):
                seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
                self._last[str(IPv4Address(packet[12:16]))] = seconds + nanoseconds / 1e9


def _enter(namespace: str) -> None:
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(handle)
