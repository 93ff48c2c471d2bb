"""Pushes to the nodes that hold an events socket open. A push says that something has changed; the nodes fetch it."""

from __future__ import annotations

from collections.abc import Iterable

from kairos.api.push import ToNode, encode
from kairos.identity.spiffe import is_gateway

from ..ports import TenantPlatform
from .event_sockets import EventSockets


class Pushes:
    """Sends messages to the connected nodes of one tenant."""

    def __init__(self, platform: TenantPlatform, event_sockets: EventSockets) -> None:
        self._platform, self._event_sockets = platform, event_sockets

    def to_all(self, message: ToNode) -> None:
        self._event_sockets.send_all(encode(message))

    def to_gateways(self, message: ToNode) -> None:
        self.to(self._platform.sockets.gateways(), message)

    def about(self, node: str, message: ToNode) -> None:
        """To the node and to all nodes that have tunnels with it: the gateways, or every node if it is a gateway."""
        if is_gateway(node):
            self.to_all(message)
        else:
            self.to_gateways(message)
            self.to([node], message)

    def to(self, nodes: Iterable[str], message: ToNode) -> None:
        """To those of these nodes that are connected."""
        self._event_sockets.send(nodes, encode(message))
