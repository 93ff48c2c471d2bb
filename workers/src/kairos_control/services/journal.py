"""What the fabric did, for the audit: collected while a call is served, and durable before the call is answered."""

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
        """Makes a change in D1, and durable the events that tell of it. Raises ConstraintError: there was no change."""
        ...


class FabricEvents:
    """The events of one scope (store/fabric_events.py) on their way into the tenants' logs. A change and its events are one batch."""

    def __init__(self, store: FabricStores, scope: str) -> None:
        self._store, self._scope = store, scope

    async def append(self, events: Sequence[Event]) -> None:
        await self.write((), events)

    async def write(self, change: Sequence[Statement], events: Sequence[Event]) -> None:
        adding = self._store.fabric_events.adding
        await self._store.write([*change, *(adding(self._scope, event) for event in events)])


class Journal:
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
        """Makes a change in D1 and records the event that tells of it, in one batch: there is none without the other, whatever dies.

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
        """Makes durable what was recorded. If that fails, the events stay for the next call and the exception goes on."""
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
