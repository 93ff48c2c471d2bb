"""The list of tenants, in the directory. Another database has a copy of the rows of its tenants, which their records refer to and
which alone counts the revisions of their networks."""

from __future__ import annotations

from kairos.api.admin import Tenant

from ..ports import DIRECTORY, Database, Row, Statement

_SHOWN = "SELECT t.tenant, t.created_at, p.shard, p.moving_to FROM tenants t LEFT JOIN placements p ON p.tenant = t.tenant WHERE"


class TenantStore:
    """All tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def exists(self, tenant: str) -> bool:
        return await self._database.first("SELECT 1 FROM tenants WHERE tenant = ?", tenant) is not None

    async def one(self, tenant: str) -> Tenant | None:
        row = await self._database.first(f"{_SHOWN} t.tenant = ?", tenant)
        return None if row is None else _record(row)

    async def page(self, after: str, count: int, only: str = "") -> list[Tenant]:
        """By name. only: the one tenant to look at; empty: all."""
        rows = await self._database.rows(
            f"{_SHOWN} t.tenant > ? AND ? IN ('', t.tenant) ORDER BY t.tenant LIMIT ?", after, only, count
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
    def adding_copy(record: Tenant) -> Statement:
        """The statement that adds the row to a database that is not the directory. One that is there stays."""
        sql = "INSERT INTO tenants (tenant, created_at) VALUES (?, ?) ON CONFLICT DO NOTHING"
        return sql, (record.tenant, record.created_at)

    async def revision(self, tenant: str) -> int:
        """Of its network, in the database that has its records."""
        row = await self._database.first("SELECT revision FROM tenants WHERE tenant = ?", tenant)
        return int(row["revision"]) if row else 0

    @staticmethod
    def set_revision(tenant: str, revision: int) -> Statement:
        return "UPDATE tenants SET revision = ? WHERE tenant = ?", (revision, tenant)

    @staticmethod
    def remove(tenant: str) -> Statement:
        """The statement that deletes a tenant's row."""
        return "DELETE FROM tenants WHERE tenant = ?", (tenant,)


def _record(row: Row) -> Tenant:
    return Tenant(row["tenant"], row["created_at"], row["shard"] or DIRECTORY, row["moving_to"] or "")
