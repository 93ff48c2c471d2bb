"""One stream: a program on this host, and what it reaches in a VNI. Bytes move as fast as the slower side takes them."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from kairos.policy.input import Application
from kairos.protocol.path import format_address
from kairos_agent.proxy.negotiation import Address, Target

_PIECE = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close says "aborted", not "that was all"
End = tuple[Address, int]


@dataclass(eq=False, slots=True)
class Stream:
    """target: as it was asked for; vni, near, far: the connection in the VNI; application: of the program that asked; task: cancelled
    to cut it; moved: bytes from the program and to it."""

    target: Target
    vni: int
    near: End
    far: End
    client: socket.socket
    inner: socket.socket
    application: Application | None
    task: asyncio.Task[None]
    moved: list[int] = field(default_factory=lambda: [0, 0])
    active_at: float = 0.0

    async def carry(self, early: bytes) -> None:
        """Both directions until both have ended; a half-closed one stays open the other way. early: came with the request.
        Raises OSError when a side is gone."""
        loop = asyncio.get_running_loop()
        self.active_at = loop.time()
        await loop.sock_sendall(self.inner, early)
        self.moved[0] += len(early)
        ways = [
            asyncio.ensure_future(self._pump(0, self.client, self.inner)),
            asyncio.ensure_future(self._pump(1, self.inner, self.client)),
        ]
        try:
            await asyncio.gather(*ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, way: int, source: socket.socket, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, _PIECE):
            await loop.sock_sendall(sink, data)
            self.moved[way] += len(data)
            self.active_at = loop.time()
        sink.shutdown(socket.SHUT_WR)

    def shown(self, now: float) -> dict[str, Any]:
        """For a person, and --json."""
        return {
            "target": str(self.target),
            "vni": self.vni,
            "near": _text(self.near),
            "far": _text(self.far),
            "program": self.application.path if self.application is not None else "",
            "bytes": list(self.moved),
            "idle_s": round(now - self.active_at, 1),
        }


def abort(sock: socket.socket) -> None:
    """Closes it so that the peer sees an error, not an end."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    finally:
        sock.close()


def end_of(name: tuple[Any, ...]) -> End:
    """A socket's name as the kernel gives it."""
    return ip_address(str(name[0]).partition("%")[0]), int(name[1])


def _text(end: End) -> str:
    return format_address((str(end[0]), end[1]))
