"""What the fabric recorded outside this tenant's object, copied into the tenant's log: fabric-wide actions, and what
the cron found."""

from __future__ import annotations

import msgspec

from ..ports import TenantPlatform
from ..store import Stores
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
        news = await self._store.fabric_events.for_tenant(
            self._platform.tenant, since, self._store.audit_log.fabric_mark(), _AT_ONCE
        )
        if news:
            await self._log.append([msgspec.structs.replace(each.event, tenant=self._platform.tenant) for each in news])
            self._store.audit_log.set_fabric_mark(news[-1].seq)
        return len(news) < _AT_ONCE
