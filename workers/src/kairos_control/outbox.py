"""Events on their way to the queue, kept in the tenant's object until they are back in its log: neither a crash behind a change nor a
queue that forgets loses one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kairos.audit.event import Event

from .ports import Clock, EventQueue, LocalStore

RESEND_AFTER_S = 60
_AT_ONCE = 500

SCHEMA = ("CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, event TEXT NOT NULL, sent_at REAL NOT NULL)",)


class Outbox:
    """The port EventQueue of a tenant's object, before the real one."""

    def __init__(self, queue: EventQueue, local: LocalStore, clock: Clock) -> None:
        self._queue, self._local, self._clock = queue, local, clock

    async def send(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """They are durable before the queue is asked to take them."""
        for message in messages:
            self._local.write(
                "INSERT INTO outbox (id, event, sent_at) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET sent_at = excluded.sent_at",  # its place among the others stays
                message["id"], msgspec.json.encode(message).decode(), self._clock(),
            )  # fmt: skip
        await self._queue.send(messages)

    def ahead_of(self, event_id: str) -> Iterator[Event]:
        """Oldest first, the events that were taken before this one and are not back yet: the queue delivers in any order, or
        never, and the log keeps the order in which they came."""
        for row in self._local.rows(
            "SELECT event FROM outbox WHERE rowid < (SELECT rowid FROM outbox WHERE id = ?) ORDER BY rowid", event_id
        ):
            yield msgspec.json.decode(row["event"], type=Event)

    def arrived(self, event_id: str) -> None:
        """It is in the log."""
        self._local.write("DELETE FROM outbox WHERE id = ?", event_id)

    async def send_again(self) -> None:
        """What should have arrived by now. The log takes an event once, however often it comes."""
        rows = self._local.rows(
            "SELECT event FROM outbox WHERE sent_at <= ? ORDER BY sent_at LIMIT ?",
            self._clock() - RESEND_AFTER_S, _AT_ONCE,
        )  # fmt: skip
        if rows:
            await self.send([msgspec.json.decode(row["event"]) for row in rows])
