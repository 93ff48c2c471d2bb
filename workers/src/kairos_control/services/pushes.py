"""News to the nodes that hold an events socket open. A push never carries truth: nodes fetch it."""

from __future__ import annotations

from collections.abc import Iterable

from kairos.api.push import ToNode, encode
from kairos.identity.spiffe import is_gateway

from ..ports import TenantPlatform


class Pushes:
    def __init__(self, platform: TenantPlatform) -> None:
        self._platform = platform

    def to_all(self, message: ToNode) -> None:
        self._send(self._platform.sockets.online(), message)

    def to_gateways(self, message: ToNode) -> None:
        self._send({node for node in self._platform.sockets.online() if is_gateway(node)}, message)

    def about(self, node: str, message: ToNode) -> None:
        """To whoever meets the node, and to itself: the gateways, or everyone where it is one."""
        if is_gateway(node):
            self.to_all(message)
        else:
            self.to_gateways(message)
            self._send({node}, message)

    def to(self, nodes: Iterable[str], message: ToNode) -> None:
        """To those of these nodes that are connected."""
        self._send(nodes, message)

    def _send(self, nodes: Iterable[str], message: ToNode) -> None:
        text = encode(message)
        for node in nodes:
            self._platform.sockets.send(node, text)
