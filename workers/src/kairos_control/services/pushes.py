"""News to the nodes that hold an events socket open. A push never carries truth: nodes fetch it."""

from __future__ import annotations

from kairos.api.push import NetworkChanged, ToNode, encode
from kairos.identity.spiffe import is_gateway

from ..ports import TenantPlatform
from ..store.tenants import TenantStore


class Pushes:
    def __init__(self, platform: TenantPlatform, tenants: TenantStore) -> None:
        self._platform = platform
        self._tenants = tenants

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

    async def network_changed(self) -> None:
        """The tenant's revision grows, and everyone is told."""
        tenant = self._platform.tenant
        await self._platform.database.write([self._tenants.next_revision(tenant)])
        self.to_all(NetworkChanged(await self._tenants.revision(tenant)))

    def _send(self, nodes: set[str], message: ToNode) -> None:
        text = encode(message)
        for node in nodes:
            self._platform.sockets.send(node, text)
