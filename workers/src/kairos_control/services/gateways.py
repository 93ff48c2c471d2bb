"""Several gateways of one tenant: which is preferred, and how they share the load."""

from __future__ import annotations

import msgspec

from kairos.api.admin import GatewayRank, GatewayRecord

from ..http.call import Call, Reply, reply
from ..http.paging import window
from ..ports import Row, TenantPlatform
from ..problems import problem
from ..store.network_changes import change_of
from .journal import Journal
from .network_changes import NetworkChanges

_PRIORITIES, _WEIGHTS = range(65536), range(1, 65536)
_RANKED = (
    "SELECT d.node, d.name, coalesce(g.priority, 100) AS priority, coalesce(g.weight, 100) AS weight FROM devices d"
    " LEFT JOIN gateway_ranks g ON g.tenant = d.tenant AND g.node = d.node"
    " WHERE d.tenant = ? AND d.role = 'gateway' AND d.status = 'active'"
)


async def ranked(platform: TenantPlatform) -> list[Row]:
    """Active gateways with node, name, priority and weight, preferred ones first."""
    return await platform.database.rows(f"{_RANKED} ORDER BY priority, d.enrolled_at, d.node", platform.tenant)


class Gateways:
    def __init__(self, platform: TenantPlatform, journal: Journal, network: NetworkChanges) -> None:
        self._platform = platform
        self._journal = journal
        self._network = network

    async def listing(self, call: Call) -> Reply:
        view = window(call)
        rows = await self._platform.database.rows(
            f"{_RANKED} AND d.node > ? ORDER BY d.node LIMIT ?", self._platform.tenant, view.after, view.fetch
        )
        online = self._platform.sockets.online()
        return view.page_of_rows(rows, "node", lambda row: _record(row, online))

    async def rank(self, call: Call) -> Reply:
        """Every endpoint hears of it and moves its VNIs at its own pace."""
        wanted, node = call.decode(GatewayRank), call.parameters["node"]
        if wanted.priority not in _PRIORITIES or wanted.weight not in _WEIGHTS:
            raise problem("invalid", "priority: 0 to 65535, lower is preferred; weight: 1 to 65535")
        before = await self._record(node)
        tenant, change = self._platform.tenant, change_of(gateways=True)
        await self._platform.database.write(
            [
                (
                    "INSERT INTO gateway_ranks (tenant, node, priority, weight) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (tenant, node) DO UPDATE SET priority = excluded.priority, weight = excluded.weight",
                    (tenant, node, wanted.priority, wanted.weight),
                ),
                *self._network.revision(change),
            ]
        )
        after = await self._record(node)
        if after != before:
            self._journal.record(
                "gateway.ranked", actor=call.actor, subject=node,
                before=msgspec.to_builtins(before), after=msgspec.to_builtins(after),
            )  # fmt: skip
            await self._network.announce(change)
        return reply(after)

    async def _record(self, node: str) -> GatewayRecord:
        row = await self._platform.database.first(f"{_RANKED} AND d.node = ?", self._platform.tenant, node)
        if row is None:
            raise problem("not-found", f"there is no gateway {node}")
        return _record(row, self._platform.sockets.online())


def _record(row: Row, online: set[str]) -> GatewayRecord:
    return GatewayRecord(row["node"], row["name"], row["priority"], row["weight"], row["node"] in online)
