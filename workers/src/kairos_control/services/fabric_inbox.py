"""What the fabric recorded outside this tenant's object, copied into the tenant's log: fabric-wide actions, and what
the cron found."""

from __future__ import annotations

import msgspec

from ..ports import DIRECTORY, TenantPlatform
from ..store import Stores
from ..store.fabric_events import FabricEventStore
from .audit_log import AuditLog

_AT_ONCE = 500


class FabricInbox:
    """Copies the fabric's events into the log of one tenant."""

    def __init__(self, platform: TenantPlatform, store: Stores, log: AuditLog) -> None:
        self._platform, self._store, self._log = platform, store, log
        self._begun = False

    async def begin(self) -> None:
        """Copies waiting events before this object records any of its own, so that a tenant's log begins with the
        tenant's creation."""
        if not self._begun:
            await self.copy()
            self._begun = True

    async def copy(self) -> bool:
        """Copies the oldest events that the log does not have yet, none from before the tenant was created. True: none
        is left.

        After a crash between log and mark the same events are copied again; the log takes an event once.
        """
        tenant = await self._store.tenants.one(self._platform.tenant)
        since = tenant.created_at if tenant else self._platform.clock()
        done = await self._copy(DIRECTORY, self._store.fabric_events, since)
        shard = (await self._store.home.placement()).shard
        return done and (shard == DIRECTORY or await self._copy(shard, self._store.home_events, since))

    async def _copy(self, database: str, kept: FabricEventStore, since: float) -> bool:
        log = self._store.audit_log
        news = await kept.for_tenant(self._platform.tenant, since, log.fabric_mark(database), _AT_ONCE)
        if news:
            await self._log.append([msgspec.structs.replace(each.event, tenant=self._platform.tenant) for each in news])
            log.set_fabric_mark(database, news[-1].seq)
        return len(news) < _AT_ONCE
