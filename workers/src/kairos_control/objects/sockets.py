"""The events sockets of a tenant's nodes, over the hibernation API
(https://developers.cloudflare.com/durable-objects/best-practices/websockets/).

The runtime keeps the sockets while the object is evicted, with two tags each: the node, and its role. Which nodes are
online is kept in memory and read from the runtime once after an eviction: with 10,000 sockets that takes longer than a
request should.
"""

from __future__ import annotations

from typing import Any

import js
from pyodide.ffi import to_js

from kairos.identity.spiffe import is_gateway

_GATEWAY = "role:gateway"  # no node is called so: a node id has no colon
_ENDPOINT = "role:endpoint"


class HibernatingSockets:
    """The port Sockets."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._online: set[str] | None = None  # None: not read from the runtime yet

    def accept(self, node: str, socket: Any) -> None:
        """From now on this is the node's socket."""
        online = self._known()
        self._ctx.acceptWebSocket(socket, to_js([node, _GATEWAY if is_gateway(node) else _ENDPOINT]))
        online.add(node)

    def ended(self, node: str) -> None:
        """One of the node's sockets has closed or failed; a newer one may be open."""
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
