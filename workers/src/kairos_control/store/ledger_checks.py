"""Up to which time the two ends of a tenant's flows were compared."""

from __future__ import annotations

from ..ports import Database


class LedgerCheckStore:
    """The progress of one tenant's double-entry check."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def until(self) -> int | None:
        """Unix seconds; None: never."""
        row = await self._database.first("SELECT until FROM ledger_checks WHERE tenant = ?", self._tenant)
        return None if row is None else int(row["until"])

    async def set_until(self, until: int) -> None:
        await self._database.write(
            [
                (
                    "INSERT INTO ledger_checks (tenant, until) VALUES (?, ?) ON CONFLICT (tenant) DO UPDATE SET until = excluded.until",
                    (self._tenant, until),
                )
            ]
        )
