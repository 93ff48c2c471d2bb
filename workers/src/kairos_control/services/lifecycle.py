"""One tenant as a whole: its record, its deletion, and the housekeeping that the cron asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kairos.api.admin import Tenant

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from .audit_log import AuditLog
from .event_sockets import EventSockets
from .fabric_inbox import FabricInbox
from .housekeeping import run_each
from .index_upkeep import IndexUpkeep
from .journal import Journal
from .refusals import Refusals
from .relocation import Relocation
from .retention import Retention
from .sessions import Sessions
from .telemetry import Telemetry

SEAL_RETRY_S = 60


class Lifecycle:
    """The record, the deletion and the housekeeping of one tenant."""

    def __init__(
        self,
        platform: TenantPlatform,
        store: Stores,
        journal: Journal,
        sessions: Sessions,
        inbox: FabricInbox,
        audit_log: AuditLog,
        index: IndexUpkeep,
        retention: Retention,
        refusals: Refusals,
        telemetry: Telemetry,
        relocation: Relocation,
        event_sockets: EventSockets,
    ) -> None:
        self._platform, self._store, self._journal = platform, store, journal
        self._sessions, self._telemetry, self._refusals = sessions, telemetry, refusals
        self._relocation, self._event_sockets = relocation, event_sockets
        self._inbox, self._audit_log, self._index, self._retention = inbox, audit_log, index, retention

    async def show(self) -> Tenant:
        """Raises not-found."""
        tenant = await self._store.tenants.one(self._platform.tenant)
        if tenant is None:
            raise problem("not-found", f"there is no tenant {self._platform.tenant}")
        return tenant

    async def delete(self, actor: str) -> None:
        """Deletes the tenant's records and ends the sessions of its nodes. The audit stays, with its retention: a
        tenant that is made again under this name goes on in the same log. Raises moving while the tenant is moved,
        until nothing is left where it was."""
        await self._relocation.refuse_unless_settled()
        await self._inbox.copy()
        nodes = await self._store.devices.nodes()
        await self._sessions.revoke_all(nodes)
        self._journal.record("tenant.deleted", actor=actor, subject=self._platform.tenant, devices=len(nodes))
        # Before the records are deleted: a crash in between leaves a tenant that can be deleted again, and no
        # unrecorded deletion.
        await self._journal.flush()
        await self._store.delete_tenant()

    async def alarm(self) -> None:
        """The alarm that the audit log or a move has set. Does a part of the move and seals what waits, and sets another
        alarm if that failed or if there was too much for one."""
        try:
            wait = 0 if await self._relocation.step() and await self._audit_log.seal() else 1
        except Exception as error:  # any type: whatever a binding makes of an outage
            print(f"audit of {self._platform.tenant}: {type(error).__name__}: {error}")
            wait = SEAL_RETRY_S
        if wait:
            await self._platform.wake(self._platform.clock() + wait)

    async def sweep(self) -> bool:
        """Housekeeping: copies and seals waiting events, and deletes what has ended. A step that fails does not stop
        the others.

        True: all events that were taken before this call are in R2 and in the index. Raises internal if a step failed.
        While the tenant is moved, the sweep does a part of that and nothing else.
        """
        steps: dict[str, Callable[[], Awaitable[object]]] = {"move": self._relocation.step}
        moving = (await self._store.home.placement()).moving_to
        done = await run_each(f"sweep of {self._platform.tenant}", steps if moving else steps | self._steps())
        await self._journal.flush()
        if not done:
            raise problem("internal", "a part of the housekeeping failed; the fabric's log has more")
        return not moving and self._audit_log.waiting == 0

    def _steps(self) -> dict[str, Callable[[], Awaitable[object]]]:
        return {
            "fabric events": self._inbox.copy,
            "seal": self._audit_log.seal,
            "index": self._index.sweep,
            "retention": self._retention.retire,
            "telemetry": self._telemetry.sweep,
            "ended records": self._delete_ended,
            "event shards": self._spread_sockets,
            "state": self._publish_state,
        }

    async def _delete_ended(self) -> None:
        now = int(self._platform.clock())
        self._store.sessions.delete_ended(now)
        self._store.nonces.delete_ended(now)
        self._store.enrollments.remove_ended(now)
        self._refusals.record_waiting()

    async def _spread_sockets(self) -> None:
        self._event_sockets.spread_for(await self._store.devices.active_endpoints())

    async def _publish_state(self) -> None:
        tenant = self._platform.tenant
        await self._store.metrics.set_audit_state(tenant, self._audit_log.waiting, self._refusals.total)
