"""Searches a tenant's log, newest first. Events that are not in the index yet are read from the object; older ones
are found by the index where it can answer the query, and otherwise by reading segment after segment. What is read
for one page is bounded, so a page may have fewer events than were asked for although there are more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import msgspec

from kairos.audit.event import Event

from ..store import Stores
from ..store.audit_index import AuditQuery, Segment
from .audit_log import AuditLog
from .segment_files import SegmentFiles

_SCANNED_MAX, _SCANNED_BYTES = 40, 16 << 20  # segments that are read for one page, and bytes after which no more are
_LOOKED_UP_MAX = 40  # segments that events are looked up in for one page: one or more calls of R2 each
_CANDIDATES = 1000  # events whose text is looked at for one page
_AT_ONCE = (
    2  # searches of a tenant; a segment of 4 MiB takes several times that while it is read, and an isolate has 128 MB
)
_WAITING_MAX = 1000  # events that are read in the object for one page


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a search."""

    events: list[tuple[int, Event]]
    """With their positions, the newest first."""
    next: int
    """The `before` of the following page; 0: there is none."""


class AuditSearch:
    """Searches in the log of one tenant."""

    def __init__(self, store: Stores, files: SegmentFiles, log: AuditLog) -> None:
        self._store, self._files, self._log = store, files, log
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def find(self, query: AuditQuery, before: int, count: int) -> Found:
        """At most `count` events below position `before` that the query wants."""
        async with self._places:
            found = await self._find(query, before, count + 1)  # one more tells whether there is a next page
        if len(found.events) <= count:
            return found
        shown = found.events[:count]
        return Found(shown, shown[-1][0])

    async def _find(self, query: AuditQuery, before: int, count: int) -> Found:
        indexed = self._log.indexed
        if before <= indexed:
            return await self._older(query, before, count)
        found = self._waiting(query, indexed, before, count)
        if len(found.events) == count or found.next > indexed:
            return found
        older = await self._older(query, indexed, count - len(found.events))
        return Found(found.events + older.events, older.next)

    def _waiting(self, query: AuditQuery, low: int, before: int, count: int) -> Found:
        lines = self._store.audit_log.newest_lines(low, before, _WAITING_MAX)
        events = _wanted(query, ((position, line.encode()) for position, line in lines), count)
        return Found(events, lines[-1][0] if len(lines) == _WAITING_MAX else low)

    async def _older(self, query: AuditQuery, before: int, count: int) -> Found:
        floor = await self._store.audit_index.floor() if query.indexed else None
        if floor is not None and before > floor:
            return await self._by_index(query, floor, before, count)
        return await self._by_segment(query, before, count)

    async def _by_index(self, query: AuditQuery, floor: int, before: int, count: int) -> Found:
        # The index has no text, so most events that it finds may not match one.
        fetch = max(count, _CANDIDATES) if query.text else count
        rows = await self._store.audit_index.find(query, floor, before, fetch)
        groups = [list(group) for _, group in groupby(rows, key=lambda each: each.segment)]
        events: list[tuple[int, Event]] = []
        for group in groups[:_LOOKED_UP_MAX]:
            texts = await self._files.texts(group[0].segment, group)
            places = (each.position for each in group)
            events += _wanted(query, zip(places, texts, strict=True), count - len(events))
            if len(events) == count:
                return Found(events, events[-1][0])
        if len(groups) > _LOOKED_UP_MAX:
            return Found(events, groups[_LOOKED_UP_MAX - 1][-1].position)
        return Found(events, rows[-1].position if len(rows) == fetch else floor)

    async def _by_segment(self, query: AuditQuery, before: int, count: int) -> Found:
        retired = (await self._store.audit_retention.get()).retired
        segments = await self._store.audit_index.newest(retired, before, _SCANNED_MAX)
        events: list[tuple[int, Event]] = []
        read = 0
        for segment in segments:
            if read > _SCANNED_BYTES:
                return Found(events, segment.size)
            if _may_have(segment, query):
                data = await self._files.lines(segment.first) or b""
                lines, read = data.split(b"\n"), read + len(data)
                below = lines[: max(0, before - segment.first)]
                places = range(segment.first + len(below) - 1, segment.first - 1, -1)
                events += _wanted(query, zip(places, reversed(below), strict=True), count - len(events))
                if len(events) == count:
                    return Found(events, events[-1][0])
        return Found(events, segments[-1].first if len(segments) == _SCANNED_MAX else 0)


def _wanted(query: AuditQuery, lines: Iterable[tuple[int, bytes]], count: int) -> list[tuple[int, Event]]:
    """The first `count` of these events that match. lines: position and JSON of each; empty JSON where retention has
    deleted it."""
    found: list[tuple[int, Event]] = []
    marks = query.marks
    for position, line in lines:
        if len(found) < count and all(mark in line for mark in marks):
            event = msgspec.json.decode(line, type=Event)
            if query.wants(event, line.decode()):
                found.append((position, event))
    return found


def _may_have(segment: Segment, query: AuditQuery) -> bool:
    return not (
        (query.since is not None and segment.newest is not None and segment.newest < query.since)
        or (query.until is not None and segment.oldest is not None and segment.oldest >= query.until)
    )
