"""The history of signed policies. The bundles themselves are in R2, by digest."""

from __future__ import annotations

from kairos.api.admin import PolicyVersion
from kairos.api.session import PolicyRecord

from ..ports import Database, Row, Statement
from .columns import b64, unb64
from .tables import Table

_INSERT = "INSERT INTO policies (tenant, version, sha384, signature, created_at) VALUES (?, ?, ?, ?, ?)"


class PolicyStore:
    """The policies of one tenant."""

    TABLES = (Table("policies", ("version",)),)

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def newest(self) -> PolicyRecord | None:
        row = await self._database.first(
            "SELECT * FROM policies WHERE tenant = ? ORDER BY version DESC LIMIT 1", self._tenant
        )
        return None if row is None else _record(row)

    async def newest_version(self) -> int:
        """0: there is no policy."""
        row = await self._database.first(
            "SELECT coalesce(max(version), 0) AS version FROM policies WHERE tenant = ?", self._tenant
        )
        version: int = row["version"] if row else 0
        return version

    async def one(self, version: int) -> PolicyRecord | None:
        row = await self._database.first(
            "SELECT * FROM policies WHERE tenant = ? AND version = ?", self._tenant, version
        )
        return None if row is None else _record(row)

    async def page(self, before: int, count: int) -> list[PolicyVersion]:
        """Versions below `before`, the newest first."""
        rows = await self._database.rows(
            "SELECT * FROM policies WHERE tenant = ? AND version < ? ORDER BY version DESC LIMIT ?",
            self._tenant,
            before,
            count,
        )
        return [PolicyVersion(_record(row), row["created_at"]) for row in rows]

    def adding(self, record: PolicyRecord, created_at: int) -> Statement:
        """The statement that adds a policy; where its version is taken, the batch raises ConstraintError."""
        return _INSERT, (self._tenant, record.version, record.sha384.hex(), b64(record.signature), created_at)


def _record(row: Row) -> PolicyRecord:
    return PolicyRecord(row["tenant"], row["version"], bytes.fromhex(row["sha384"]), unb64(row["signature"]))
