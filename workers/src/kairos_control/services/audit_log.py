"""A tenant's tamper-evident log, in its object: events in one order, a Merkle tree over them, segments sealed under
signed heads.

An event is in the log, and has its position, when its row is written: rows and tree grow in one transaction, before the
call is answered. Sealing writes the events to R2 before it stores the head and shows it to anyone, so a head never
covers events that are not stored. After a crash in between, the next sealing writes the segment again, with more
events. The index in D1 follows; the object keeps the text of its events until the index has them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import msgspec

from kairos.api.push import AuditHead
from kairos.audit.event import Event
from kairos.audit.head import Consistency, EventProof, SealedSegment, SignedHead
from kairos.audit.merkle import consistency, grow, inclusion, leaf_hash, root_at
from kairos.crypto import labels
from kairos.identity import transcript

from ..ports import Statement, TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.audit_log import LogEntry, SealedFile, key_of
from . import issuer
from .pushes import Pushes
from .segment_files import SegmentFiles

SEAL_AFTER_S = 20  # a head must follow an event within a minute, even if the alarm is late
SEGMENT_EVENTS = 1000
SEGMENT_BYTES = 4 * 1024 * 1024
SEGMENTS_AT_ONCE = 8  # bounds the work of one alarm; the next one continues
_ADOPT_AT_ONCE = 500


class AuditLog:
    """The log of one tenant."""

    def __init__(self, platform: TenantPlatform, store: Stores, files: SegmentFiles, pushes: Pushes) -> None:
        self._platform, self._store, self._log = platform, store, store.audit_log
        self._files, self._pushes = files, pushes
        self._sealing = asyncio.Lock()
        self._head = self._log.head()
        self._adopt()

    @property
    def head(self) -> SignedHead | None:
        """The newest that was signed; None before the first."""
        return self._head

    @property
    def sealed(self) -> int:
        """How many events are under a signed head."""
        return self._head.size if self._head else 0

    @property
    def indexed(self) -> int:
        """How many events, from the first on, R2 and the index have; the object has the text of the others."""
        waiting = self._log.unindexed()
        return waiting.first if waiting else self.sealed

    @property
    def waiting(self) -> int:
        """How many events are not in R2 and in the index yet."""
        return self._log.size - self.indexed

    # -- growing -----------------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[Event]) -> None:
        """Adds the events that the log does not have yet, in their order. They are durable when this returns."""
        before = self._log.size
        self._log.transaction(lambda: self._append(events))
        size, now = self._log.size, self._platform.clock()
        if size - self.sealed >= SEGMENT_EVENTS:
            await self._platform.wake(now)
        elif size > before == self.sealed:
            await self._platform.wake(now + SEAL_AFTER_S)

    async def write(self, change: Sequence[Statement], events: Sequence[Event]) -> None:
        """Writes a change in D1 together with its events, then appends the events.

        If the object dies in between, fabric_inbox.py copies them from D1 later; the log takes an event once.
        """
        adding = self._store.fabric_events.adding
        await self._store.write([*change, *(adding(self._platform.tenant, event) for event in events)])
        await self.append(events)

    async def write_directory(self, change: Sequence[Statement], events: Sequence[Event]) -> None:
        """As `write`, for a change of the directory."""
        adding = self._store.fabric_events.adding
        await self._store.write_directory([*change, *(adding(self._platform.tenant, event) for event in events)])
        await self.append(events)

    def _append(self, events: Sequence[Event]) -> None:
        news: dict[str, Event] = {}
        for event in events:
            news.setdefault(key_of(event), event)
        for key in self._log.known(events):
            del news[key]
        nodes, entries = dict[tuple[int, int], bytes](), []

        def node(level: int, place: int) -> bytes:
            return nodes[level, place] if (level, place) in nodes else self._log.node(level, place)

        for position, (key, event) in enumerate(news.items(), self._log.size):
            line = msgspec.json.encode(event)
            entries.append(LogEntry(position, key, line.decode()))
            for level, place, value in grow(position, leaf_hash(line), node):
                nodes[level, place] = value
        self._log.add(entries, nodes)

    def _adopt(self) -> None:
        """Appends the events that an earlier release left in its outbox. That release sent them to the log through a
        queue."""

        def change() -> None:
            self._append(events)
            self._log.clear_outbox(len(events))

        while events := self._log.outbox(_ADOPT_AT_ONCE):
            self._log.transaction(change)

    # -- sealing and indexing ------------------------------------------------------------------------------------------

    async def seal(self) -> bool:
        """Seals and indexes a bounded number of segments, each under a head of its own. True: nothing is left.

        A failure of R2 does not stop the indexing of earlier segments, and a failure of D1 does not stop sealing.
        """
        async with self._sealing:
            try:
                await self._seal_segments()
            finally:
                await self._index_segments()
        return self.waiting == 0

    async def _seal_segments(self) -> None:
        for _ in range(SEGMENTS_AT_ONCE):
            first = self.sealed
            lines = self._log.lines(first, SEGMENT_EVENTS, SEGMENT_BYTES)
            if not lines:
                return
            data = "".join(line + "\n" for line in lines).encode()
            head = await self._sign(first + len(lines))
            await self._files.put(first, data, head)
            self._log.seal(SealedFile(first, head.size, hashlib.sha256(data).hexdigest(), head.at), head)
            self._head = head
            proof = consistency(first, head.size, self._log.node) if first else []
            self._pushes.to_all(AuditHead(head, first, proof))

    async def _index_segments(self) -> None:
        for _ in range(SEGMENTS_AT_ONCE):
            file = self._log.unindexed()
            if file is None:
                return
            lines = self._log.lines(file.first, file.size - file.first, 2 * SEGMENT_BYTES)
            events = [(msgspec.json.decode(line, type=Event), len(line.encode())) for line in lines]
            await self._store.audit_index.add(file, events)
            self._log.indexed(file)

    async def _sign(self, size: int) -> SignedHead:
        tenant = self._platform.tenant
        root, at = root_at(size, self._log.node), int(self._platform.clock())
        signed = transcript.audit_head(tenant, size, root, at)
        signature = await issuer.sign(self._platform, signed, labels.AUDIT_HEAD)
        return SignedHead(tenant, size, root, at, signature, self._platform.settings.issuer.certificate.der)

    # -- what others ask ---------------------------------------------------------------------------------------------

    def current(self) -> SignedHead:
        """The newest head. Raises not-found before the first."""
        if self._head is None:
            raise problem("not-found", "nothing is sealed yet; a head follows an event within a minute", SEAL_AFTER_S)
        return self._head

    async def prove(self, event: str, source: str = "") -> EventProof:
        """Proves that an event is in the log, under the newest head. Raises not-found; invalid if several sources
        have this id."""
        head = self.current()
        places = [each for each, by in self._log.positions(event) if source in ("", by) and each < head.size]
        if not places:
            raise problem("not-found", "no such event under a signed head; it may follow within a minute", SEAL_AFTER_S)
        if len(places) > 1:
            raise problem("invalid", "source: several sources have an event with this id; name one")
        [position] = places
        line = await self._line(position)
        if not line:
            raise problem("not-found", "the text of this event was deleted by the tenant's retention")
        return EventProof(line, position, inclusion(position, head.size, self._log.node), head)

    async def _line(self, position: int) -> str:
        """The text of an event; empty: retention has deleted it."""
        [(_, line)] = self._log.newest_lines(position, position + 1, 1)
        if line:
            return line
        first = await self._store.audit_index.holding(position)
        lines = (await self._files.lines(first) or b"").split(b"\n")
        return lines[position - first].decode() if position - first < len(lines) else ""

    def consistency(self, first: int, second: int) -> Consistency:
        """Proves that the log of `first` events is the beginning of the log of `second`. Raises invalid, not-found."""
        if not 1 <= first <= second <= self.current().size:
            raise problem(
                "invalid", "first and second are sizes that the log had: 1 <= first <= second <= its size now"
            )
        return Consistency(first, second, consistency(first, second, self._log.node))

    async def segment(self, first: int) -> SealedSegment:
        """The sealed segment that begins at this position. The next begins at its head's size. Raises not-found."""
        if first >= self.current().size:
            raise problem("not-found", f"no sealed segment begins at {first}")
        sealed = await self._files.head(first)
        if sealed is None:
            raise problem("not-found", f"no sealed segment begins at {first}, or it is gone from the fabric's storage")
        lines = await self._files.lines(first) or b""
        return SealedSegment(first, lines, self._log.leaves(first, sealed.size), sealed)
