"""One tenant as a whole: its record, its deletion, and the housekeeping that the cron asks for."""

from __future__ import annotations

from kairos.api.admin import Tenant

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from .audit_log import AuditLog
from .journal import Journal
from .outbox import Outbox
from .retention import Retention
from .sessions import Sessions
from .telemetry import Telemetry

_ENROLLMENT_KEPT_S = 86_400
_VNI_TABLES = ("interconnects", "leases", "lease_cursors", "given_addresses", "vni_selectors", "routes")
_TABLES = (
    "telemetry_minutes",
    "telemetry_hours",
    "admins",
    "certificates",
    "gateway_ranks",
    "network_changes",
    "devices",
    "tokens",
    "policies",
    "vnis",
    "tenants",
)


class Lifecycle:
    def __init__(
        self,
        platform: TenantPlatform,
        store: Stores,
        journal: Journal,
        sessions: Sessions,
        outbox: Outbox,
        audit_log: AuditLog,
        retention: Retention,
        telemetry: Telemetry,
    ) -> None:
        self._platform = platform
        self._store = store
        self._journal = journal
        self._sessions = sessions
        self._outbox = outbox
        self._audit_log = audit_log
        self._retention = retention
        self._telemetry = telemetry

    async def show(self) -> Tenant:
        """Raises not-found."""
        tenant = await self._store.tenants.one(self._platform.tenant)
        if tenant is None:
            raise problem("not-found", f"there is no tenant {self._platform.tenant}")
        return tenant

    async def delete(self, actor: str) -> None:
        """Deletes the tenant's records, children first, and ends the sessions of its nodes. The audit stays."""
        tenant = self._platform.tenant
        nodes = [
            row["node"]
            for row in await self._platform.database.rows("SELECT node FROM devices WHERE tenant = ?", tenant)
        ]
        await self._sessions.revoke_all(nodes)
        of_vnis = "WHERE vni IN (SELECT vni FROM vnis WHERE tenant = ?)"
        await self._platform.database.write(
            [(f"DELETE FROM {table} {of_vnis}", (tenant,)) for table in _VNI_TABLES]
            + [(f"DELETE FROM {table} WHERE tenant = ?", (tenant,)) for table in _TABLES]
        )
        for table in ("enrollments", "sessions", "nonces", "isolations", "receipts", "postures", "newest_samples"):
            self._platform.local.write(f"DELETE FROM {table}")
        self._journal.record("tenant.deleted", actor=actor, subject=tenant, devices=len(nodes))

    async def woken(self) -> None:
        """Called by the alarm that the audit log has set."""
        await self._outbox.send_again()
        await self._audit_log.seal()

    async def sweep(self) -> None:
        """Housekeeping: deletes what has ended, and sends and seals what an alarm has left."""
        await self.woken()
        await self._retention.retire()
        now = int(self._platform.clock())
        self._sessions.forget_ended()
        await self._telemetry.sweep()
        self._store.nonces.delete_ended(now)
        self._platform.local.write(
            "DELETE FROM enrollments WHERE status <> 'held' AND created_at < ?", now - _ENROLLMENT_KEPT_S
        )
