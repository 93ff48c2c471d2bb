"""Several gateways of one tenant: which is preferred, and how they share the load."""

from __future__ import annotations

import msgspec

from kairos.api.admin import GatewayRank, GatewayRecord

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.gateways import RankedGateway
from .journal import Journal
from .pushes import Pushes


class Gateways:
    """The gateways of one tenant."""

    def __init__(self, platform: TenantPlatform, store: Stores, journal: Journal, pushes: Pushes) -> None:
        self._platform = platform
        self._store = store
        self._journal = journal
        self._pushes = pushes

    async def page(self, after: str, count: int) -> list[GatewayRecord]:
        """By node id."""
        return [self._record(each) for each in await self._store.gateways.page(after, count)]

    async def rank(self, node: str, rank: GatewayRank, actor: str) -> GatewayRecord:
        """Every endpoint is told and moves its VNIs at its own pace. Raises not-found."""
        before = await self._one(node)
        await self._store.write([self._store.gateways.rank(node, rank.priority, rank.weight)])
        after = await self._one(node)
        if after != before:
            self._journal.record(
                "gateway.ranked",
                actor=actor,
                subject=node,
                before=msgspec.to_builtins(before),
                after=msgspec.to_builtins(after),
            )
            await self._pushes.network_changed()
        return after

    async def _one(self, node: str) -> GatewayRecord:
        gateway = await self._store.gateways.one(node)
        if gateway is None:
            raise problem("not-found", f"there is no gateway {node}")
        return self._record(gateway)

    def _record(self, gateway: RankedGateway) -> GatewayRecord:
        online = gateway.node in self._platform.sockets.online()
        return GatewayRecord(gateway.node, gateway.name, gateway.priority, gateway.weight, online)
