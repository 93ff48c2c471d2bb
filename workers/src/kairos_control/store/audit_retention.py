"""How long a tenant keeps the text of its audit events. The setting outlives the tenant, as its log does."""

from __future__ import annotations

from kairos.api.admin import AuditRetention

from ..ports import Database, Statement
from .tables import Table


class AuditRetentionStore:
    """The retention setting of one tenant."""

    TABLES = (Table("audit_retention", ("tenant",), outlives=True),)

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def get(self) -> AuditRetention:
        row = await self._database.first(
            "SELECT days, retired, before FROM audit_retention WHERE tenant = ?", self._tenant
        )
        return AuditRetention(row["days"], row["retired"], row["before"]) if row else AuditRetention()

    async def set_days(self, days: int) -> None:
        await self._database.write(
            [
                (
                    "INSERT INTO audit_retention (tenant, days) VALUES (?, ?)"
                    " ON CONFLICT (tenant) DO UPDATE SET days = excluded.days",
                    (self._tenant, days),
                )
            ]
        )

    def retired(self, size: int, before: int) -> Statement:
        """The statement that records that the events below `size`, sealed before this Unix time, have lost their
        text."""
        return (
            "UPDATE audit_retention SET retired = ?, before = ? WHERE tenant = ?",
            (size, before, self._tenant),
        )
