"""The list of tenants."""

from __future__ import annotations

from kairos.api.admin import Tenant

from ..ports import Database, Row, Statement


class TenantStore:
    """All tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def exists(self, tenant: str) -> bool:
        return await self._database.first("SELECT 1 FROM tenants WHERE tenant = ?", tenant) is not None

    async def one(self, tenant: str) -> Tenant | None:
        row = await self._database.first("SELECT * FROM tenants WHERE tenant = ?", tenant)
        return None if row is None else _record(row)

    async def page(self, after: str, count: int, only: str = "") -> list[Tenant]:
        """By name. only: the one tenant to look at; empty: all."""
        rows = await self._database.rows(
            "SELECT * FROM tenants WHERE tenant > ? AND ? IN ('', tenant) ORDER BY tenant LIMIT ?", after, only, count
        )
        return [_record(row) for row in rows]

    async def names(self) -> list[str]:
        rows = await self._database.rows("SELECT tenant FROM tenants ORDER BY tenant")
        return [row["tenant"] for row in rows]

    @staticmethod
    def adding(record: Tenant) -> Statement:
        """The statement that adds a tenant; where its name is taken, the batch raises ConstraintError."""
        return "INSERT INTO tenants (tenant, created_at) VALUES (?, ?)", (record.tenant, record.created_at)

    @staticmethod
    def remove(tenant: str) -> Statement:
        """The statement that deletes a tenant's row."""
        return "DELETE FROM tenants WHERE tenant = ?", (tenant,)


def _record(row: Row) -> Tenant:
    return Tenant(row["tenant"], row["created_at"])
