"""Records the fabric's own audit events. They are collected while a call is served and are durable before it is
answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from kairos.audit.event import Event

from ..ports import Platform, Statement
from ..store import FabricStores

EVENT_MAX = 16 * 1024
"""Bytes of an event's JSON, as of one that a node sends."""
_TEXT_MAX = 1024  # characters that are left of a text in an event that is too large
_VALUE_MAX = 512  # bytes that a value of its detail may have


class EventSink(Protocol):
    """Where events become durable."""

    async def append(self, events: Sequence[Event]) -> None: ...

    async def write(self, change: Sequence[Statement], events: Sequence[Event]) -> None:
        """Writes a change in D1 and makes its events durable. Raises ConstraintError: nothing was changed."""
        ...


class FabricEvents:
    """Events of one scope (store/fabric_events.py), as rows of D1 that the tenants' objects copy. A change and its
    events are one batch."""

    def __init__(self, store: FabricStores, scope: str) -> None:
        self._store, self._scope = store, scope

    async def append(self, events: Sequence[Event]) -> None:
        await self.write((), events)

    async def write(self, change: Sequence[Statement], events: Sequence[Event]) -> None:
        adding = self._store.fabric_events.adding
        await self._store.write_directory([*change, *(adding(self._scope, event) for event in events)])


class DirectoryLog(Protocol):
    """A tenant's log that is told of changes of the directory (services/audit_log.py)."""

    async def append(self, events: Sequence[Event]) -> None: ...

    async def write_directory(self, change: Sequence[Statement], events: Sequence[Event]) -> None: ...


class DirectoryChanges:
    """The events of one tenant that tell of changes of the directory. A change and its events are one batch."""

    def __init__(self, log: DirectoryLog) -> None:
        self._log = log

    async def append(self, events: Sequence[Event]) -> None:
        await self._log.append(events)

    async def write(self, change: Sequence[Statement], events: Sequence[Event]) -> None:
        await self._log.write_directory(change, events)


class Journal:
    """Records the events of one scope: a tenant, or the whole fabric."""

    def __init__(self, platform: Platform, tenant: str, sink: EventSink) -> None:
        """tenant: whose events these are; empty: of every tenant."""
        self._platform, self._tenant, self._sink = platform, tenant, sink
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
        """An event that is durable when the call is answered."""
        self._events.append(self._event(kind, actor, subject, outcome, rule, reason, detail))

    async def write(
        self,
        change: Sequence[Statement],
        kind: str,
        *,
        actor: str,
        subject: str = "",
        outcome: str = "",
        rule: str = "",
        reason: str = "",
        **detail: Any,
    ) -> None:
        """Writes a change in D1 and its event in one batch, so that a crash cannot leave one without the other.

        Raises ConstraintError: nothing was changed, and nothing is recorded.
        """
        await self._sink.write(change, [self._event(kind, actor, subject, outcome, rule, reason, detail)])

    def _event(
        self, kind: str, actor: str, subject: str, outcome: str, rule: str, reason: str, detail: dict[str, Any]
    ) -> Event:
        return fitting(
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
        """Makes the recorded events durable. If that fails, they stay for the next call, and the exception is
        raised."""
        events, self._events = self._events, []
        try:
            if events:
                await self._sink.append(events)
        except BaseException:
            self._events = [*events, *self._events]
            raise


def fitting(event: Event) -> Event:
    """The event, cut to EVENT_MAX bytes where it is larger; its detail then names in `cut` what is missing from it."""
    if len(msgspec.json.encode(event)) <= EVENT_MAX:
        return event
    kept = {name: value for name, value in event.detail.items() if len(msgspec.json.encode(value)) <= _VALUE_MAX}
    cut = sorted(set(event.detail) - set(kept))
    texts = {name: getattr(event, name)[:_TEXT_MAX] for name in ("actor", "subject", "outcome", "rule", "reason")}
    cut += [name for name, text in texts.items() if text != getattr(event, name)]
    while len(msgspec.json.encode([kept, cut])) > EVENT_MAX // 2:
        cut = [*cut, kept.popitem()[0]] if kept else cut[: len(cut) // 2]
    return msgspec.structs.replace(event, **texts, detail={**kept, "cut": cut})
