"""Pushes to the nodes that hold an events socket open. A push says that something has changed; the nodes fetch it."""

from __future__ import annotations

from kairos.api.push import NetworkChanged, ToNode, encode
from kairos.identity.spiffe import is_gateway

from ..ports import TenantPlatform
from ..store import Stores


class Pushes:
    def __init__(self, platform: TenantPlatform, store: Stores) -> None:
        self._platform = platform
        self._store = store

    def to_all(self, message: ToNode) -> None:
        text = encode(message)
        for node in self._platform.sockets.online():
            self._platform.sockets.send(node, text)

    def to_gateways(self, message: ToNode) -> None:
        text = encode(message)
        for node in self._platform.sockets.gateways():
            self._platform.sockets.send(node, text)

    def about(self, node: str, message: ToNode) -> None:
        """To every node that meets this one, and to the node itself: to the gateways, or to everyone where it is a gateway."""
        if is_gateway(node):
            self.to_all(message)
        else:
            self.to_gateways(message)
            self._platform.sockets.send(node, encode(message))

    async def network_changed(self) -> None:
        """Counts one more revision of the network and tells everyone."""
        tenant = self._platform.tenant
        await self._store.write([self._store.tenants.next_revision(tenant)])
        self.to_all(NetworkChanged(await self._store.tenants.revision(tenant)))
