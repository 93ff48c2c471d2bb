"""In which database the records of each tenant are. This is a table of the directory, and the only truth about it.

A placement outlives its tenant: the audit stays where it is, and a tenant that is made again under the name goes on there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from ..ports import DIRECTORY, Database, Row, Statement


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the records of one tenant are, and how far it is on its way to another database."""

    shard: str = DIRECTORY
    """The binding of the database that has them."""
    moving_to: str = ""
    """The binding of the database to which they are copied; empty: they are not."""
    erasing: str = ""
    """The binding of a database with a copy that counts no more and is to be deleted; empty: there is none."""


class PlacementStore:
    """The placements of all tenants."""

    def __init__(self, directory: Database) -> None:
        self._database = directory

    async def of(self, tenant: str) -> Placement | None:
        """None: the tenant was never placed; its records, if it has any, are in the directory."""
        row = await self._database.first("SELECT * FROM placements WHERE tenant = ?", tenant)
        return None if row is None else _placement(row)

    async def of_each(self, tenants: Iterable[str]) -> dict[str, Placement]:
        """Of each of these tenants."""
        names = sorted(set(tenants))
        rows = await self._database.rows(
            "SELECT * FROM placements WHERE tenant IN (SELECT value FROM json_each(?))", json.dumps(names)
        )
        return dict.fromkeys(names, Placement()) | {row["tenant"]: _placement(row) for row in rows}

    async def moving(self) -> list[str]:
        """Tenants whose records are copied now."""
        rows = await self._database.rows("SELECT tenant FROM placements WHERE moving_to <> '' ORDER BY tenant")
        return [row["tenant"] for row in rows]

    async def counts(self) -> dict[str, int]:
        """How many tenants there are, by the database that has their records."""
        rows = await self._database.rows(
            "SELECT coalesce(p.shard, ?) AS shard, count(*) AS count FROM tenants t LEFT JOIN placements p"
            " ON p.tenant = t.tenant GROUP BY 1",
            DIRECTORY,
        )
        return {row["shard"]: row["count"] for row in rows}

    @staticmethod
    def add(tenant: str, shard: str) -> Statement:
        """Changes nothing where the tenant was placed before."""
        return "INSERT INTO placements (tenant, shard) VALUES (?, ?) ON CONFLICT DO NOTHING", (tenant, shard)

    @staticmethod
    def depart(tenant: str, shard: str) -> Statement:
        """Its records are copied to `shard` from now on. One that was never placed leaves the directory."""
        sql = (
            "INSERT INTO placements (tenant, shard, moving_to) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET moving_to = excluded.moving_to WHERE erasing = ''"
        )
        return sql, (tenant, DIRECTORY, shard)

    @staticmethod
    def arrive(tenant: str) -> Statement:
        """The copy is the truth from now on, and the records that were are to be deleted."""
        return (
            "UPDATE placements SET shard = moving_to, erasing = shard, moving_to = '' WHERE tenant = ? AND moving_to <> ''",
            (tenant,),
        )

    @staticmethod
    def abandon(tenant: str) -> Statement:
        """The copy is to be deleted."""
        return (
            "UPDATE placements SET erasing = moving_to, moving_to = '' WHERE tenant = ? AND moving_to <> ''",
            (tenant,),
        )

    @staticmethod
    def erased(tenant: str) -> Statement:
        """Nothing is left to be deleted."""
        return "UPDATE placements SET erasing = '' WHERE tenant = ?", (tenant,)


def _placement(row: Row) -> Placement:
    return Placement(row["shard"], row["moving_to"], row["erasing"])
