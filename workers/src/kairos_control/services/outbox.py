"""Events on their way to the queue, kept in the tenant's object until they are back in its log: neither a crash behind a change nor a
queue that forgets loses one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from kairos.audit.event import Event

from ..ports import Clock, EventQueue, LocalDatabase
from ..store.bulk import bulks, columns

RESEND_AFTER_S = 60
_AT_ONCE = 500


class Outbox:
    """The port EventQueue of a tenant's object, before the real one."""

    def __init__(self, queue: EventQueue, local: LocalDatabase, clock: Clock) -> None:
        self._queue, self._local, self._clock = queue, local, clock

    async def send(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """They are durable before the queue is asked to take them."""
        now = self._clock()
        for bulk in bulks((message["id"], msgspec.json.encode(message).decode(), now) for message in messages):
            self._local.write(
                f"INSERT INTO outbox (id, event, sent_at) SELECT {columns(3)} FROM json_each(?) WHERE true"
                " ON CONFLICT (id) DO UPDATE SET sent_at = excluded.sent_at",  # its place among the others stays
                bulk,
            )
        await self._queue.send(messages)

    def up_to(self, ids: Sequence[str]) -> Iterator[Event]:
        """Oldest first, the events that were taken up to the newest of these and are not back yet: the queue delivers in any
        order, or never, and the log keeps the order in which they came."""
        newest = max((self._place(bulk) for bulk in bulks([each] for each in ids)), default=0)
        for row in self._local.rows("SELECT event FROM outbox WHERE rowid <= ? ORDER BY rowid", newest):
            yield msgspec.json.decode(row["event"], type=Event)

    def _place(self, bulk: str) -> int:
        """Of the newest of these; 0: none of them is here."""
        [row] = self._local.rows(
            f"SELECT coalesce(max(rowid), 0) AS place FROM outbox WHERE id IN (SELECT {columns(1)} FROM json_each(?))",
            bulk,
        )
        place: int = row["place"]
        return place

    def arrived(self, ids: Sequence[str]) -> None:
        """They are in the log."""
        for bulk in bulks([each] for each in ids):
            self._local.write(f"DELETE FROM outbox WHERE id IN (SELECT {columns(1)} FROM json_each(?))", bulk)

    async def send_again(self) -> None:
        """What should have arrived by now. The log takes an event once, however often it comes."""
        rows = self._local.rows(
            "SELECT event FROM outbox WHERE sent_at <= ? ORDER BY sent_at LIMIT ?",
            self._clock() - RESEND_AFTER_S, _AT_ONCE,
        )  # fmt: skip
        if rows:
            await self.send([msgspec.json.decode(row["event"]) for row in rows])
