"""The index of a tenant's audit log, in D1: its segments, and a row for each event with the fields that a search can
ask for.

The text of an event is only in its segment in R2. Windows of flows (`ledger.window`), which are most of a log, have no
rows; they are found by their segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW

from ..ports import Database, Statement
from .audit_log import SealedFile
from .bulk import bulks, columns
from .tables import Table

KEY_MAX = 128
"""Characters of a field that the index keeps. A search compares the whole field in the event."""

_LAST = "\U0010ffff"  # after every text that begins with a prefix
_VNI_MAX = (1 << 24) - 1
_NO_FLOOR = 1 << 50  # above every position
_INSERT = (
    "INSERT OR REPLACE INTO audit_index (tenant, position, at, source, kind, actor, subject, vni, segment, start, length)"
    f" SELECT {columns(11)} FROM json_each(?)"
)
_SEGMENT = (
    "INSERT INTO audit_segments (tenant, first, size, sha256, at, in_index, oldest, newest, windows) VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?)"
    " ON CONFLICT (tenant, first) DO UPDATE SET size = excluded.size, sha256 = excluded.sha256, at = excluded.at, in_index = 1,"
    " oldest = excluded.oldest, newest = excluded.newest, windows = excluded.windows"
)


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """What a search asks for. Empty fields ask for nothing."""

    kind: str = ""
    """Kinds that begin with this."""
    without: str = ""
    """No kinds that begin with this."""
    device: str = ""
    """Source, actor or subject."""
    actor: str = ""
    """Who did it."""
    vni: int | None = None
    """The number of a VNI."""
    since: float | None = None
    """Unix seconds of the source's clock."""
    until: float | None = None
    """Unix seconds of the source's clock; an event at that time is not found."""
    text: str = ""
    """Anywhere in the event's JSON."""

    def wants(self, event: Event, line: str) -> bool:
        """Whether the event, whose JSON is `line`, matches."""
        return (
            event.kind.startswith(self.kind)
            and not (self.without and event.kind.startswith(self.without))
            and (not self.device or self.device in (event.source, event.actor, event.subject))
            and self.actor in ("", event.actor)
            and (self.vni is None or event.detail.get("vni") == self.vni)
            and (self.since is None or event.at >= self.since)
            and (self.until is None or event.at < self.until)
            and self.text in line
        )

    @property
    def marks(self) -> tuple[bytes, ...]:
        """Octets that the JSON of every matching event contains. To look for them is cheaper than to decode an
        event."""
        kind = msgspec.json.encode(self.kind)[:-1]  # without the closing quote: it is a prefix
        return (b'"kind":' + kind, self.text.encode())

    @property
    def indexed(self) -> bool:
        """Whether the index can answer it: it asks for a field of the index, and cannot match windows of flows."""
        windows = LEDGER_WINDOW.startswith(self.kind) and not (self.without and LEDGER_WINDOW.startswith(self.without))
        return not windows and bool(self.kind or self.device or self.actor or self.vni is not None)


@dataclass(frozen=True, slots=True)
class IndexedEvent:
    """Where the text of an event is."""

    position: int
    """Its place in the log."""
    segment: int
    """The first position of its segment."""
    start: int
    """Bytes of the segment before it."""
    length: int
    """Its bytes."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment that the index knows of."""

    first: int
    """The position of its first event."""
    size: int
    """How many events the log has up to its end: its events are first to size - 1."""
    at: int
    """When it was sealed, Unix seconds."""
    sha256: str
    """Of its file in R2, in hex."""
    oldest: float | None
    """The earliest `at` of its events; None: it was not looked at."""
    newest: float | None
    """The latest `at` of its events; None: it was not looked at."""
    windows: int | None
    """How many windows of flows it has; None: it was not looked at."""


class AuditIndexStore:
    """The index of one tenant."""

    TABLES = (
        Table("audit_segments", ("first",), outlives=True),
        Table("audit_index", ("position",), outlives=True),
    )

    def __init__(self, database: Database, tenant: str) -> None:
        self._database, self._tenant = database, tenant

    async def add(self, file: SealedFile, events: Sequence[tuple[Event, int]]) -> None:
        """Indexes a segment; a second time changes nothing. events: all of the segment in order, each with the bytes
        of its line."""
        times = [event.at for event, _ in events]
        windows = sum(event.kind == LEDGER_WINDOW for event, _ in events)
        segment = (self._tenant, file.first, file.size, file.sha256, file.at, min(times), max(times), windows)
        rows = [(_INSERT, (bulk,)) for bulk in bulks(self._rows(file.first, events))]
        await self._database.write([*rows, (_SEGMENT, segment)])

    def _rows(self, first: int, events: Sequence[tuple[Event, int]]) -> Iterator[list[object]]:
        start = 0
        for position, (event, length) in enumerate(events, first):
            if event.kind != LEDGER_WINDOW:
                keys = (each[:KEY_MAX] for each in (event.source, event.kind, event.actor, event.subject))
                yield [self._tenant, position, event.at, *keys, _vni(event), first, start, length]
            start += length + 1

    async def find(self, query: AuditQuery, low: int, before: int, count: int) -> list[IndexedEvent]:
        """The newest first, from position `low` on and below `before`. Some may not match, so the caller compares
        the events."""
        conditions = [
            ("tenant = ? AND position >= ? AND position < ?", (self._tenant, low, before)),
            *_conditions(query),
        ]
        rows = await self._database.rows(
            "SELECT position, segment, start, length FROM audit_index WHERE"
            f" {' AND '.join(sql for sql, _ in conditions)} ORDER BY position DESC LIMIT ?",
            *(value for _, values in conditions for value in values), count,
        )  # fmt: skip
        return [IndexedEvent(**row) for row in rows]

    async def floor(self) -> int | None:
        """The position from which on the index has every event; None: it has none."""
        row = await self._database.first(
            "SELECT min(first) AS first FROM audit_segments WHERE tenant = ? AND in_index = 1", self._tenant
        )
        return row["first"] if row else None

    async def holding(self, position: int) -> int:
        """The first position of the segment that has this one."""
        row = await self._database.first(
            "SELECT first FROM audit_segments WHERE tenant = ? AND first <= ? ORDER BY first DESC LIMIT 1",
            self._tenant, position,
        )  # fmt: skip
        return int(row["first"]) if row else 0

    async def newest(self, low: int, before: int, count: int) -> list[Segment]:
        """Segments that end above `low` and begin below `before`, the newest first."""
        return await self._segments("size > ? AND first < ? ORDER BY first DESC LIMIT ?", low, before, count)

    async def unindexed(self, low: int, since: int, count: int) -> list[Segment]:
        """The newest segments from `low` on, sealed from `since` on, whose events the index lacks: they are just
        below its floor."""
        floor = await self.floor()
        found = await self._segments(
            "first >= ? AND first < ? ORDER BY first DESC LIMIT ?", low, _NO_FLOOR if floor is None else floor, count
        )
        return [each for each in found if each.at >= since]

    async def with_windows(self, since: int, after: int, count: int) -> list[Segment]:
        """Segments above `after`, sealed from `since` on, that may have windows of flows, oldest first."""
        return await self._segments(
            "at >= ? AND +first > ? AND coalesce(windows, 1) > 0 ORDER BY at, first LIMIT ?", since, after, count
        )

    async def retirable(self, retired: int, before: int, count: int) -> list[Segment]:
        """The oldest segments from position `retired` on that were sealed before this Unix time."""
        found = await self._segments("first >= ? ORDER BY first LIMIT ?", retired, count)
        return [each for each in found if each.at < before]

    async def indexed_before(self, before: int, count: int) -> list[Segment]:
        """The oldest segments that are in the index and were sealed before this Unix time."""
        found = await self._segments("in_index = 1 ORDER BY first LIMIT ?", count)
        return [each for each in found if each.at < before]

    async def _segments(self, condition: str, *values: int) -> list[Segment]:
        rows = await self._database.rows(
            "SELECT first, size, at, sha256, oldest, newest, windows FROM audit_segments"
            f" WHERE tenant = ? AND {condition}",
            self._tenant, *values,
        )  # fmt: skip
        return [Segment(**row) for row in rows]

    def forgetting(self, segments: Sequence[Segment]) -> list[Statement]:
        """The statements that delete what the index says of the events of these segments. The segments stay."""
        return [
            statement
            for each in segments
            for statement in (
                (
                    "DELETE FROM audit_index WHERE tenant = ? AND position >= ? AND position < ?",
                    (self._tenant, each.first, each.size),
                ),
                ("UPDATE audit_segments SET in_index = 0 WHERE tenant = ? AND first = ?", (self._tenant, each.first)),
            )
        ]


def _vni(event: Event) -> int | None:
    vni = event.detail.get("vni")
    return vni if type(vni) is int and 0 <= vni <= _VNI_MAX else None


def _conditions(query: AuditQuery) -> Iterator[Statement]:
    if query.kind:
        yield "kind >= ? AND kind < ?", (query.kind[:KEY_MAX], query.kind[:KEY_MAX] + _LAST)
    if query.without and len(query.without) <= KEY_MAX:
        yield "NOT (kind >= ? AND kind < ?)", (query.without, query.without + _LAST)
    if query.device:
        yield "(source = ? OR actor = ? OR subject = ?)", (query.device[:KEY_MAX],) * 3
    if query.actor:
        yield "actor = ?", (query.actor[:KEY_MAX],)
    if query.vni is not None:
        yield "vni = ?", (query.vni,)
    if query.since is not None:
        yield "at >= ?", (query.since,)
    if query.until is not None:
        yield "at < ?", (query.until,)
