"""Networks behind endpoints: what endpoints advertise, and what of it the operator has approved."""

from __future__ import annotations

import json
from collections.abc import Iterable

from kairos.api.admin import RouteRecord
from kairos.api.session import Route

from ..ports import Database, Row, Statement
from .bulk import bulks, columns
from .tables import Table

_KEY = "v.name || ' ' || r.prefix || ' ' || r.node"
_SHOWN = (
    f"SELECT r.*, {_KEY} AS key, v.name AS vni_name, d.name AS device_name FROM routes r JOIN vnis v ON v.vni = r.vni"
    " JOIN devices d ON d.tenant = r.tenant AND d.node = r.node WHERE r.tenant = ?"
)
_APPROVE = (
    "INSERT INTO routes (vni, tenant, node, prefix, advertised, approved) VALUES (?, ?, ?, ?, 0, 1)"
    " ON CONFLICT DO UPDATE SET approved = 1"
)
_OFFER = (
    f"INSERT INTO routes (tenant, node, vni, prefix, advertised, approved) SELECT ?, ?, {columns(2)}, 1, 0"
    " FROM json_each(?) WHERE true ON CONFLICT DO UPDATE SET advertised = 1"
)
_WITHDRAW = (
    "UPDATE routes SET advertised = 0 WHERE tenant = ? AND node = ? AND (vni, prefix) IN"
    f" (SELECT {columns(2)} FROM json_each(?))"
)
_DISAPPROVE = "UPDATE routes SET approved = 0 WHERE vni = ? AND prefix = ? AND node = ?"
Offer = tuple[int, str]
"""A VNI and a prefix."""


class SubnetRouteStore:
    """The routes through endpoints of one tenant."""

    TABLES = (Table("routes", ("node", "vni", "prefix")),)

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def page(self, after: str, count: int) -> list[RouteRecord]:
        """By VNI, prefix and node, as `key` joins them."""
        rows = await self._database.rows(f"{_SHOWN} AND {_KEY} > ? ORDER BY key LIMIT ?", self._tenant, after, count)
        return [_record(row) for row in rows]

    async def one(self, vni: int, prefix: str, node: str) -> RouteRecord | None:
        row = await self._database.first(
            f"{_SHOWN} AND r.vni = ? AND r.prefix = ? AND r.node = ?", self._tenant, vni, prefix, node
        )
        return None if row is None else _record(row)

    async def of_node(self, node: str) -> dict[Offer, RouteRecord]:
        """What one node advertises or may."""
        rows = await self._database.rows(f"{_SHOWN} AND r.node = ?", self._tenant, node)
        return {(row["vni"], row["prefix"]): _record(row) for row in rows}

    async def prefixes_in(self, vni: int) -> list[str]:
        """Advertised, approved or both."""
        rows = await self._database.rows("SELECT DISTINCT prefix FROM routes WHERE vni = ? ORDER BY prefix", vni)
        return [row["prefix"] for row in rows]

    async def approved_through(self, vni: int, prefix: str) -> list[str]:
        """The nodes that the prefix is approved to lead through."""
        rows = await self._database.rows(
            "SELECT node FROM routes WHERE vni = ? AND prefix = ? AND approved = 1 ORDER BY node", vni, prefix
        )
        return [row["node"] for row in rows]

    async def in_force(self, vnis: Iterable[int]) -> dict[int, list[Route]]:
        """What is both advertised and approved, by VNI. A node that is no member any more leads nowhere."""
        rows = await self._database.rows(
            "SELECT r.vni, r.prefix, r.node FROM routes r WHERE r.vni IN (SELECT value FROM json_each(?))"
            " AND advertised = 1 AND approved = 1"
            " AND EXISTS (SELECT 1 FROM leases l WHERE l.vni = r.vni AND l.node = r.node)"
            " ORDER BY r.vni, r.prefix, r.node",
            json.dumps(sorted(set(vnis))),
        )
        routes: dict[int, list[Route]] = {}
        for row in rows:
            routes.setdefault(row["vni"], []).append(Route(row["prefix"], row["node"]))
        return routes

    # -- writes ------------------------------------------------------------------------------------------------------

    def offer(self, node: str, added: Iterable[Offer], withdrawn: Iterable[Offer]) -> list[Statement]:
        """What the node advertises from now on beyond the rest, and what no more."""
        return [
            *((_WITHDRAW, (self._tenant, node, bulk)) for bulk in bulks(sorted(withdrawn))),
            *((_OFFER, (self._tenant, node, bulk)) for bulk in bulks(sorted(added))),
            self._forget(node),
        ]

    def approve(self, vni: int, prefix: str, node: str) -> Statement:
        """It may come before the node advertises it."""
        return _APPROVE, (vni, self._tenant, node, prefix)

    def disapprove(self, vni: int, prefix: str, node: str) -> list[Statement]:
        return [(_DISAPPROVE, (vni, prefix, node)), self._forget(node)]

    @staticmethod
    def remove(vni: int, node: str) -> Statement:
        """All of one node in one VNI."""
        return "DELETE FROM routes WHERE vni = ? AND node = ?", (vni, node)

    def remove_node(self, node: str) -> Statement:
        """All of one node."""
        return "DELETE FROM routes WHERE tenant = ? AND node = ?", (self._tenant, node)

    @staticmethod
    def remove_vni(vni: int) -> Statement:
        return "DELETE FROM routes WHERE vni = ?", (vni,)

    def _forget(self, node: str) -> Statement:
        """Rows that say nothing."""
        sql = "DELETE FROM routes WHERE tenant = ? AND node = ? AND advertised = 0 AND approved = 0"
        return sql, (self._tenant, node)


def key(record: RouteRecord) -> str:
    """The place of a route in a listing."""
    return f"{record.vni} {record.prefix} {record.node}"


def _record(row: Row) -> RouteRecord:
    return RouteRecord(
        row["vni_name"], row["prefix"], row["node"], row["device_name"], bool(row["advertised"]), bool(row["approved"])
    )
