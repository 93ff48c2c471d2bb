"""Several gateways of one tenant: which is preferred, and how they share the load."""

from __future__ import annotations

import msgspec

from kairos.api.admin import GatewayRank, GatewayRecord

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.gateways import RankedGateway
from ..store.network_changes import change_of
from .journal import Journal
from .network_changes import NetworkChanges


class Gateways:
    """The gateways of one tenant."""

    def __init__(self, platform: TenantPlatform, store: Stores, journal: Journal, network: NetworkChanges) -> None:
        self._platform = platform
        self._store = store
        self._journal = journal
        self._network = network

    async def page(self, after: str, count: int) -> list[GatewayRecord]:
        """By node id."""
        return [self._record(each) for each in await self._store.gateways.page(after, count)]

    async def rank(self, node: str, rank: GatewayRank, actor: str) -> GatewayRecord:
        """Changes priority and weight. Every node is notified, and endpoints then move their VNIs. Raises not-found."""
        before = await self._one(node)
        change = change_of(gateways=True)
        ranked = self._store.gateways.rank(node, rank.priority, rank.weight)
        await self._store.write([ranked, *self._network.revision(change)])
        after = await self._one(node)
        if after != before:
            self._journal.record(
                "gateway.ranked",
                actor=actor,
                subject=node,
                before=msgspec.to_builtins(before),
                after=msgspec.to_builtins(after),
            )
            await self._network.announce(change)
        return after

    async def _one(self, node: str) -> GatewayRecord:
        gateway = await self._store.gateways.one(node)
        if gateway is None:
            raise problem("not-found", f"there is no gateway {node}")
        return self._record(gateway)

    def _record(self, gateway: RankedGateway) -> GatewayRecord:
        online = self._platform.sockets.is_online(gateway.node)
        return GatewayRecord(gateway.node, gateway.name, gateway.priority, gateway.weight, online)
