"""A name server for each VNI on this host: on the host's own address there, for this host's programs and nobody else.

program -- getaddrinfo -- systemd-resolved, or resolv.conf of the VNI's namespace -- [this server] -- the fabric's word on members
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Collection
from functools import partial
from typing import Any

from kairos.errors import BadMessage
from kairos_agent.answers import answer, parse_query_untrusted
from kairos_node.namespace import Namespace
from kairos_node.network_view import Address
from kairos_node.zone import Zone

PORT = 53
_IDLE_S = 10.0
_STREAMS_MAX = 32


class NameServer(asyncio.DatagramProtocol):
    """zone: the names as they are now; addresses: of this host, who alone may ask."""

    def __init__(self, zone: Zone, addresses: Collection[Address]) -> None:
        self.zone = zone
        self._own = {str(address) for address in addresses}
        self._transport: asyncio.DatagramTransport | None = None
        self._streams: asyncio.Server | None = None
        self._talking: set[asyncio.StreamWriter] = set()

    @classmethod
    async def start(cls, zone: Zone, addresses: Collection[Address], place: Namespace | None) -> NameServer:
        """On the first of the addresses, in the VNI's namespace where it has one. Raises OSError."""
        server, loop = cls(zone, addresses), asyncio.get_running_loop()
        at = next(iter(addresses))
        sockets = partial(_sockets, at)
        udp, tcp = place.call(sockets) if place is not None else sockets()
        server._transport, _ = await loop.create_datagram_endpoint(lambda: server, sock=udp)
        server._streams = await asyncio.start_server(server._talk, sock=tcp)
        return server

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._streams is not None:
            self._streams.close()
        for writer in list(self._talking):
            writer.close()

    # -- UDP ---------------------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if addr[0] in self._own and self._transport is not None:
            with contextlib.suppress(BadMessage):
                self._transport.sendto(answer(self.zone, parse_query_untrusted(data), stream=False), addr)

    # -- TCP ---------------------------------------------------------------------------------------------------------

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer.get_extra_info("peername")[0] not in self._own or len(self._talking) >= _STREAMS_MAX:
            writer.close()
            return
        self._talking.add(writer)
        try:
            while True:
                async with asyncio.timeout(_IDLE_S):
                    query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                    said = answer(self.zone, parse_query_untrusted(query), stream=True)
                    writer.write(len(said).to_bytes(2, "big") + said)
                    await writer.drain()
        except (OSError, EOFError, TimeoutError, BadMessage):
            pass
        finally:
            self._talking.discard(writer)
            writer.close()


def _sockets(at: Address) -> tuple[socket.socket, socket.socket]:
    return _socket(at, socket.SOCK_DGRAM), _socket(at, socket.SOCK_STREAM)


def _socket(address: Address, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, kind)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a crash
        made.bind((str(address), PORT))
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
