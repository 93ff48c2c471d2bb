"""A tenant's tamper-evident log, in its object: events in one order, a Merkle tree over them, segments sealed under signed heads.

An event is in the log when its row is: with that its position is settled, and a second delivery finds it there. Sealing writes the
events to R2 and the segment to D1 before the head is kept and told to anyone, so a head never covers what is not stored; a crash on
the way leaves a segment that the next sealing writes again, longer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import msgspec

from kairos.api.push import AuditHead
from kairos.audit.event import Event, EventBatch
from kairos.audit.head import Appended, Consistency, EventProof, SealedSegment, SignedHead
from kairos.audit.merkle import consistency, grow, inclusion, leaf_hash, root_at
from kairos.crypto import labels
from kairos.identity import transcript

from ..http.call import Call, Reply, reply
from ..ports import Row, TenantPlatform
from ..problems import problem
from ..store.bulk import bulks, columns
from ..store.columns import b64, unb64
from . import issuer
from .outbox import Outbox
from .pushes import Pushes

SEAL_AFTER_S = 20  # so a head follows an event within a minute, also when the object's alarm is late
SEGMENT_EVENTS = 1000
SEGMENT_BYTES = 4 * 1024 * 1024


class AuditLog:
    def __init__(self, platform: TenantPlatform, pushes: Pushes, outbox: Outbox) -> None:
        self._platform = platform
        self._pushes = pushes
        self._outbox = outbox
        self._sealing = asyncio.Lock()
        self._head = self._kept_head()

    @property
    def head(self) -> SignedHead | None:
        """The newest that was signed; None before the first."""
        return self._head

    @property
    def size(self) -> int:
        """With the events that are not sealed yet."""
        [row] = self._platform.local.rows("SELECT coalesce(max(position) + 1, 0) AS size FROM log_events")
        size: int = row["size"]
        return size

    # -- growing -----------------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[Event]) -> int:
        """Those that are not there yet, and those that came before them. Returns the log's size."""
        before, news = self.size, self._news(events)
        self._append(before, news)
        self._outbox.arrived([event.id for event in events])
        size = before + len(news)
        sealed = self._head.size if self._head else 0
        if size - sealed >= SEGMENT_EVENTS:
            await self._platform.wake(self._platform.clock())
        elif size > before == sealed:
            await self._platform.wake(self._platform.clock() + SEAL_AFTER_S)
        return size

    def _news(self, events: Sequence[Event]) -> list[Event]:
        """What the log lacks of these, and of what was taken before them, in the order in which it was taken."""
        local, ids = self._platform.local, [event.id for event in events]
        news = {event.id: event for event in (*self._outbox.up_to(ids), *events)}
        for bulk in bulks([each] for each in news):
            known = f"SELECT id FROM log_events WHERE id IN (SELECT {columns(1)} FROM json_each(?))"
            for row in local.rows(known, bulk):
                del news[row["id"]]
        return list(news.values())

    def _append(self, size: int, events: Sequence[Event]) -> None:
        """The tree first: what a crash leaves of it without the events' rows is written again with the next event."""
        local, nodes, lines = self._platform.local, dict[tuple[int, int], bytes](), []

        def node(level: int, place: int) -> bytes:
            return nodes[level, place] if (level, place) in nodes else self._node(level, place)

        for position, event in enumerate(events, size):
            line = msgspec.json.encode(event)
            lines.append((position, event.id, line.decode()))
            for level, place, value in grow(position, leaf_hash(line), node):
                nodes[level, place] = value
        for bulk in bulks((level, place, b64(value)) for (level, place), value in nodes.items()):
            local.write(
                f"INSERT OR REPLACE INTO log_nodes (level, place, hash) SELECT {columns(3)} FROM json_each(?)", bulk
            )
        for bulk in bulks(lines):
            local.write(f"INSERT INTO log_events (position, id, line) SELECT {columns(3)} FROM json_each(?)", bulk)

    async def seal(self) -> None:
        """All that is not sealed: segment by segment, each under a head of its own."""
        async with self._sealing:
            while rows := self._unsealed():
                await self._seal(rows)

    def _unsealed(self) -> list[Row]:
        """Of the next segment."""
        rows = self._platform.local.rows(
            "SELECT position, line FROM log_events WHERE position >= ? ORDER BY position LIMIT ?",
            self._head.size if self._head else 0, SEGMENT_EVENTS,
        )  # fmt: skip
        total, count = 0, 0
        for row in rows:
            total += len(row["line"])
            if count and total > SEGMENT_BYTES:
                break
            count += 1
        return rows[:count]

    async def _seal(self, rows: Sequence[Row]) -> None:
        platform, tenant, first = self._platform, self._platform.tenant, rows[0]["position"]
        lines = "".join(row["line"] + "\n" for row in rows).encode()
        head = await self._sign(first + len(rows))
        await platform.blobs.put(_key(tenant, first, "jsonl"), lines)
        await platform.blobs.put(_key(tenant, first, "head"), msgspec.json.encode(head))
        segment = (tenant, first, head.size, hashlib.sha256(lines).hexdigest(), head.at)
        await platform.database.write(
            [
                (
                    "INSERT INTO audit_segments (tenant, first, size, sha256, at) VALUES (?, ?, ?, ?, ?) ON CONFLICT (tenant, first)"
                    " DO UPDATE SET size = excluded.size, sha256 = excluded.sha256, at = excluded.at",
                    segment,
                )
            ]
        )
        platform.local.write(
            "INSERT OR REPLACE INTO log_head (single, head) VALUES (1, ?)", msgspec.json.encode(head).decode()
        )
        platform.local.write("UPDATE log_events SET line = '' WHERE position >= ? AND position < ?", first, head.size)
        self._head = head
        self._pushes.to_all(AuditHead(head))

    async def _sign(self, size: int) -> SignedHead:
        tenant = self._platform.tenant
        root, at = root_at(size, self._node), int(self._platform.clock())
        signed = transcript.audit_head(tenant, size, root, at)
        signature = await issuer.sign(self._platform, signed, labels.AUDIT_HEAD)
        return SignedHead(tenant, size, root, at, signature, self._platform.settings.issuer.certificate.der)

    # -- what others ask ---------------------------------------------------------------------------------------------

    async def append_batch(self, call: Call) -> Reply:
        """From the consumer of the queue."""
        return reply(Appended(await self.append(call.decode(EventBatch).events)))

    async def show_head(self, call: Call) -> Reply:
        return reply(self._current())

    async def show_proof(self, call: Call) -> Reply:
        """?event=: that it is in the log, under the newest head."""
        head = self._current()
        rows = self._platform.local.rows("SELECT position FROM log_events WHERE id = ?", call.query.get("event", ""))
        if not rows or rows[0]["position"] >= head.size:
            raise problem("not-found", "no such event under a signed head; it may follow within a minute", SEAL_AFTER_S)
        position = rows[0]["position"]
        segment = await self._platform.database.first(
            "SELECT first FROM audit_segments WHERE tenant = ? AND first <= ? ORDER BY first DESC LIMIT 1",
            self._platform.tenant, position,
        )  # fmt: skip
        first = segment["first"] if segment else 0
        kept = await self._lines(first)
        if kept is None:
            raise problem("not-found", "the text of this event was deleted by the tenant's retention")
        lines = kept.decode().split("\n")
        line = lines[position - first] if position - first < len(lines) else ""
        return reply(EventProof(line, position, inclusion(position, head.size, self._node), head))

    async def show_consistency(self, call: Call) -> Reply:
        """?first=&second=: sizes that signed heads had."""
        try:
            first, second = int(call.query.get("first", "")), int(call.query.get("second", ""))
        except ValueError:
            raise problem("invalid", "first and second are numbers of events") from None
        if not 1 <= first <= second <= self._current().size:
            raise problem(
                "invalid", "first and second are sizes that the log had: 1 <= first <= second <= its size now"
            )
        return reply(Consistency(first, second, consistency(first, second, self._node)))

    async def show_segment(self, call: Call) -> Reply:
        """The sealed segment that begins at this position. The next begins at its head's size."""
        text = call.parameters["first"]
        first = int(text) if text.isdecimal() and len(text) <= 15 else -1
        if first < 0 or first >= self._current().size:
            raise problem("not-found", f"no sealed segment begins at {text}")
        sealed = msgspec.json.decode(await self._blob(first, "head"), type=SignedHead)
        lines = await self._lines(first) or b""
        rows = self._platform.local.rows(
            "SELECT hash FROM log_nodes WHERE level = 0 AND place >= ? AND place < ? ORDER BY place", first, sealed.size
        )
        return reply(SealedSegment(first, lines, b"".join(unb64(row["hash"]) for row in rows), sealed))

    def _current(self) -> SignedHead:
        if self._head is None:
            raise problem("not-found", "nothing is sealed yet; a head follows an event within a minute", SEAL_AFTER_S)
        return self._head

    async def _blob(self, first: int, kind: str) -> bytes:
        data = await self._platform.blobs.get(_key(self._platform.tenant, first, kind))
        if data is None:
            raise problem("not-found", f"no sealed segment begins at {first}, or it is gone from the fabric's storage")
        return data

    async def _lines(self, first: int) -> bytes | None:
        """Of the segment that begins there; None: they were retired."""
        return await self._platform.blobs.get(_key(self._platform.tenant, first, "jsonl"))

    async def forget_lines(self, first: int) -> None:
        """Of that segment: its leaves and its head stay."""
        await self._platform.blobs.delete(_key(self._platform.tenant, first, "jsonl"))

    def _kept_head(self) -> SignedHead | None:
        rows = self._platform.local.rows("SELECT head FROM log_head")
        return msgspec.json.decode(rows[0]["head"], type=SignedHead) if rows else None

    def _node(self, level: int, place: int) -> bytes:
        [row] = self._platform.local.rows("SELECT hash FROM log_nodes WHERE level = ? AND place = ?", level, place)
        return unb64(row["hash"])


def _key(tenant: str, first: int, kind: str) -> str:
    return f"audit/{tenant}/{first:015}.{kind}"
