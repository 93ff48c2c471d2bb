"""The events sockets that a Tenant or EventShard object holds, over the hibernation API
(https://developers.cloudflare.com/durable-objects/best-practices/websockets/).

The runtime keeps the sockets while the object is evicted, with two tags each: the node, and its role. Which nodes are
online is kept in memory and read from the runtime once after an eviction: with 10,000 sockets that takes longer than a
request should.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import js
from pyodide.ffi import to_js

from kairos.identity.spiffe import is_gateway
from workers import Response

BAD_MESSAGE = 4002
"""Close code: the node sent what is no message, or too much."""
TRY_AGAIN_LATER = 1013
"""Close code (https://www.iana.org/assignments/websocket)."""
_REPLACED = 4001
_MESSAGE_MAX = 64 * 1024
_GATEWAY = "role:gateway"  # no node is called so: a node id has no colon
_ENDPOINT = "role:endpoint"


def is_readable(message: Any) -> bool:
    """Whether it is a text, and not longer than a message of a node may be."""
    return isinstance(message, str) and len(message) <= _MESSAGE_MAX


class HibernatingSockets:
    """The port Sockets."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._online: set[str] | None = None  # None: not read from the runtime yet

    def open(self, node: str, messages: Iterable[str]) -> Response:
        """A new socket of the node, on which these messages come first; it replaces the one that the node had. Returns the answer to
        the request for it."""
        self.close(node, _REPLACED, "replaced")
        client, server = js.WebSocketPair.new().object_values()
        online = self._known()
        self._ctx.acceptWebSocket(server, to_js([node, _GATEWAY if is_gateway(node) else _ENDPOINT]))
        online.add(node)
        for message in messages:
            server.send(message)
        return Response(None, status=101, web_socket=client)

    def ended(self, socket: Any) -> None:
        """It has closed or failed; a newer one of its node may be open."""
        node = self.node_of(socket)
        if not self._open(node):
            self._known().discard(node)

    def node_of(self, socket: Any) -> str:
        return str(self._ctx.getTags(socket)[0])

    def online(self) -> set[str]:
        return set(self._known())

    def gateways(self) -> list[str]:
        return [self.node_of(socket) for socket in self._open(_GATEWAY)]

    def is_online(self, node: str) -> bool:
        return node in self._known()

    def send(self, node: str, text: str) -> bool:
        sockets = self._open(node)
        for socket in sockets:
            socket.send(text)
        return bool(sockets)

    def close(self, node: str, code: int, reason: str) -> None:
        for socket in self._open(node):
            socket.close(code, reason)
        self._known().discard(node)

    def _open(self, tag: str) -> list[Any]:
        """A socket that we closed stays listed until its peer has answered, and sending on it raises."""
        return [each for each in self._ctx.getWebSockets(tag) if each.readyState == js.WebSocket.OPEN]

    def _known(self) -> set[str]:
        if self._online is None:
            sockets = [each for each in self._ctx.getWebSockets() if each.readyState == js.WebSocket.OPEN]
            self._online = {self.node_of(socket) for socket in sockets}
        return self._online
