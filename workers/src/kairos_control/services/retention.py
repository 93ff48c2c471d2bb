"""Retention: old events lose their text, never their place. Segments older than the tenant keeps are deleted from R2 and their rows from
the index; leaf hashes and heads stay, so every head and every proof of what remains verifies as before."""

from __future__ import annotations

from kairos.api.admin import AuditRetention
from kairos.audit.head import RETIRED

from ..http.call import Call, Reply, reply
from ..ports import TenantPlatform
from ..problems import problem
from .audit_log import AuditLog
from .journal import Journal

DAYS_MAX = 3650
DAY_S = 86_400
_SEGMENTS_AT_ONCE = 100  # the next sweep goes on


class Retention:
    def __init__(self, platform: TenantPlatform, journal: Journal, log: AuditLog) -> None:
        self._platform, self._journal, self._log = platform, journal, log

    async def show(self, call: Call) -> Reply:
        return reply(await self._kept())

    async def change(self, call: Call) -> Reply:
        days = call.decode(AuditRetention).days
        if not 0 <= days <= DAYS_MAX:
            raise problem("invalid", f"days: 1 to {DAYS_MAX}, or 0 to keep everything")
        before = await self._kept()
        await self._platform.database.write(
            [
                (
                    "INSERT INTO audit_retention (tenant, days) VALUES (?, ?) ON CONFLICT (tenant) DO UPDATE SET days = excluded.days",
                    (self._platform.tenant, days),
                )
            ]
        )
        self._journal.record("audit.retention", actor=call.actor, subject=f"{days} days", before=before.days, days=days)
        return reply(await self._kept())

    async def retire(self) -> None:
        """The log says what goes before it goes: a crash in between deletes the rest with the next sweep, and says so again."""
        platform, kept = self._platform, await self._kept()
        if not kept.days:
            return
        cutoff = int(platform.clock()) - kept.days * DAY_S
        rows = await platform.database.rows(
            "SELECT first, size FROM audit_segments WHERE tenant = ? AND size > ? AND at < ? ORDER BY first LIMIT ?",
            platform.tenant, kept.retired, cutoff, _SEGMENTS_AT_ONCE,
        )  # fmt: skip
        if not rows:
            return
        size = rows[-1]["size"]
        self._journal.record(
            RETIRED, actor="fabric", subject=f"events 0 to {size - 1}", size=size, before=cutoff, days=kept.days
        )
        await self._journal.flush()
        for row in rows:
            await self._log.forget_lines(row["first"])
        await platform.database.write(
            [
                ("DELETE FROM audit WHERE tenant = ? AND at < ?", (platform.tenant, cutoff)),
                (
                    "UPDATE audit_retention SET retired = ?, before = ? WHERE tenant = ?",
                    (size, cutoff, platform.tenant),
                ),
            ]
        )

    async def _kept(self) -> AuditRetention:
        row = await self._platform.database.first(
            "SELECT days, retired, before FROM audit_retention WHERE tenant = ?", self._platform.tenant
        )
        return AuditRetention(row["days"], row["retired"], row["before"]) if row else AuditRetention()
