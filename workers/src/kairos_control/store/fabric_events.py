"""Audit events that the fabric records outside the tenants' objects, as rows of D1. Each tenant's object copies
those that concern it into its own log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from kairos.audit.event import Event

from ..ports import Database, Row, Statement

EVERY_TENANT = ""
"""The scope of an event that each tenant's log gets."""
FABRIC_ONLY = "-"
"""The scope of an event that concerns no tenant. No tenant has this name."""


@dataclass(frozen=True, slots=True)
class FabricEvent:
    """One event, with its number."""

    seq: int
    """Its number, which grows in the order in which events were written."""
    event: Event
    """As it stands in a log."""
    count: int
    """How often it happened."""


class FabricEventStore:
    """The fabric's own events, of all scopes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @staticmethod
    def adding(scope: str, event: Event) -> Statement:
        """The statement that adds an event. For one that has been added, by scope, source and id, it increments the
        count."""
        return (
            "INSERT INTO fabric_events (scope, source, id, at, event) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (scope, source, id) DO UPDATE SET count = count + 1",
            (scope, event.source, event.id, event.at, msgspec.json.encode(event).decode()),
        )

    async def add(self, scope: str, events: Sequence[Event]) -> None:
        await self._database.write([self.adding(scope, event) for event in events])

    async def for_tenant(self, tenant: str, since: float, after: int, count: int) -> list[FabricEvent]:
        """Events for this tenant or for every tenant from `since` on, with a number above `after`, oldest first."""
        rows = await self._database.rows(
            "SELECT seq, event, count FROM fabric_events WHERE scope = ?1 AND seq > ?3 UNION ALL"
            " SELECT seq, event, count FROM fabric_events WHERE scope = ?2 AND seq > ?3 AND at >= ?4 ORDER BY seq LIMIT ?5",
            tenant, EVERY_TENANT, after, since, count,
        )  # fmt: skip
        return [_event(row) for row in rows]

    async def page(self, before: int, count: int) -> list[FabricEvent]:
        """Events that are not of a single tenant, the newest first, with a number below `before`."""
        rows = await self._database.rows(
            "SELECT seq, event, count FROM fabric_events WHERE scope IN (?, ?) AND seq < ? ORDER BY seq DESC LIMIT ?",
            EVERY_TENANT, FABRIC_ONLY, before, count,
        )  # fmt: skip
        return [_event(row) for row in rows]

    async def delete_ended(self, before: float, count: int) -> None:
        """At most `count` of those from before this Unix time."""
        await self._database.write(
            [
                (
                    "DELETE FROM fabric_events WHERE seq IN (SELECT seq FROM fabric_events WHERE at < ? LIMIT ?)",
                    (before, count),
                )
            ]
        )


def _event(row: Row) -> FabricEvent:
    return FabricEvent(row["seq"], msgspec.json.decode(row["event"], type=Event), row["count"])
