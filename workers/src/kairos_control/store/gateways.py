"""Which gateways of a tenant are preferred, and how they share the load."""

from __future__ import annotations

from dataclasses import dataclass

from ..ports import Database, Row, Statement
from .tables import Table

_RANKED = (
    "SELECT d.node, d.name, coalesce(g.priority, 100) AS priority, coalesce(g.weight, 100) AS weight FROM devices d"
    " LEFT JOIN gateway_ranks g ON g.tenant = d.tenant AND g.node = d.node"
    " WHERE d.tenant = ? AND d.role = 'gateway' AND d.status = 'active'"
)
_RANK = (
    "INSERT INTO gateway_ranks (tenant, node, priority, weight) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (tenant, node) DO UPDATE SET priority = excluded.priority, weight = excluded.weight"
)


@dataclass(frozen=True, slots=True)
class RankedGateway:
    """An active gateway with its rank; one that was never ranked has priority 100 and weight 100."""

    node: str
    """Its id."""
    name: str
    """The host name that it enrolled with."""
    priority: int
    """Lower is preferred."""
    weight: int
    """Its share of VNIs among the gateways of one priority."""


class GatewayStore:
    """The active gateways of one tenant."""

    TABLES = (Table("gateway_ranks", ("node",)),)

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def ranked(self) -> list[RankedGateway]:
        """All of them, the preferred ones first."""
        rows = await self._database.rows(f"{_RANKED} ORDER BY priority, d.enrolled_at, d.node", self._tenant)
        return [_gateway(row) for row in rows]

    async def one(self, node: str) -> RankedGateway | None:
        row = await self._database.first(f"{_RANKED} AND d.node = ?", self._tenant, node)
        return None if row is None else _gateway(row)

    async def page(self, after: str, count: int) -> list[RankedGateway]:
        rows = await self._database.rows(
            f"{_RANKED} AND d.node > ? ORDER BY d.node LIMIT ?", self._tenant, after, count
        )
        return [_gateway(row) for row in rows]

    def rank(self, node: str, priority: int, weight: int) -> Statement:
        return _RANK, (self._tenant, node, priority, weight)


def _gateway(row: Row) -> RankedGateway:
    return RankedGateway(row["node"], row["name"], row["priority"], row["weight"])
