"""What the fabric did, for the audit: collected while a call is served, sent to the queue when it is answered."""

from __future__ import annotations

from typing import Any

import msgspec

from kairos.audit.event import Event

from ..ports import Platform
from ..store.tenants import TenantStore

_WAITING_MAX = 1000  # and what does not fit was printed: the Worker's own log has at least their number


class Journal:
    def __init__(self, platform: Platform, tenant: str) -> None:
        self._platform = platform
        self._tenant = tenant
        self._events: list[Event] = []

    def record(
        self,
        kind: str,
        *,
        actor: str,
        subject: str = "",
        outcome: str = "",
        rule: str = "",
        reason: str = "",
        **detail: Any,
    ) -> None:
        self._events.append(
            Event(
                id=self._platform.entropy(16).hex(),
                at=self._platform.clock(),
                tenant=self._tenant,
                source="fabric",
                kind=kind,
                actor=actor,
                subject=subject,
                outcome=outcome,
                rule=rule,
                reason=reason,
                suite=self._platform.settings.suite.name,
                detail=detail,
            )
        )

    async def flush(self) -> None:
        """A queue that does not take them now gets them with the next call: what was done is done, and its answer is due."""
        events, self._events = self._events, []
        try:
            if events:
                await self._platform.queue.send([msgspec.to_builtins(event) for event in events])
        except Exception as error:  # whatever the queue's bridge makes of an outage
            print(f"audit: {len(events)} events wait: {error}")
            self._events = [*events, *self._events][:_WAITING_MAX]


class EveryJournal(Journal):
    """For what concerns every tenant: each gets the event into its own log, under an id of its own."""

    def __init__(self, platform: Platform, tenants: TenantStore) -> None:
        super().__init__(platform, "")
        self._tenants = tenants

    async def flush(self) -> None:
        if not self._events:
            return
        tenants = await self._tenants.names()
        self._events = [
            msgspec.structs.replace(event, tenant=tenant, id=self._platform.entropy(16).hex())
            for event in self._events
            for tenant in tenants
        ]
        await super().flush()
