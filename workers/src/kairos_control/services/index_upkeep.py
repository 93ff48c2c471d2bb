"""Maintains the index of a tenant's log: deletes old entries, and indexes segments in R2 that are missing or to be
indexed again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from kairos.api.operations import Reindexed
from kairos.audit.event import Event

from ..ports import TenantPlatform
from ..store import Stores
from ..store.audit_index import Segment
from ..store.audit_log import SealedFile
from .journal import Journal
from .segment_files import SegmentFiles

KEPT_S = 90 * 86_400
"""Events that were sealed earlier are found by reading their segments."""
SEGMENTS_AT_ONCE = 4


class IndexUpkeep:
    """Maintains the index of one tenant's log."""

    def __init__(self, platform: TenantPlatform, store: Stores, files: SegmentFiles, journal: Journal) -> None:
        self._platform, self._store, self._files, self._journal = platform, store, files, journal
        self._indexing = asyncio.Lock()

    async def sweep(self) -> None:
        """Deletes old entries and adds missing ones, a few segments at a time."""
        index, kept_since = self._store.audit_index, int(self._platform.clock()) - KEPT_S
        old = await index.indexed_before(kept_since, SEGMENTS_AT_ONCE)
        if old:
            await self._store.write(index.forgetting(old))
        retired = (await self._store.audit_retention.get()).retired
        await self._index(await index.unindexed(retired, kept_since, SEGMENTS_AT_ONCE))

    async def rebuild(self, before: int, actor: str) -> Reindexed:
        """Indexes the newest segments that begin below position `before` again, whatever the index has for them now."""
        kept_since = int(self._platform.clock()) - KEPT_S
        retired = (await self._store.audit_retention.get()).retired
        segments = await self._store.audit_index.newest(retired, before, SEGMENTS_AT_ONCE)
        recent = [each for each in segments if each.at >= kept_since]
        await self._index(recent)
        if recent:
            place = f"events {recent[-1].first} to {recent[0].size - 1}"
            self._journal.record("audit.reindexed", actor=actor, subject=place)
        more = len(recent) == SEGMENTS_AT_ONCE and recent[-1].first > retired
        return Reindexed(len(recent), recent[-1].first if more else 0)

    async def _index(self, segments: Sequence[Segment]) -> None:
        for each in segments:
            async with self._indexing:  # at most one segment is in memory
                await self._index_one(each)

    async def _index_one(self, segment: Segment) -> None:
        lines = (await self._files.lines(segment.first) or b"").splitlines()
        if len(lines) == segment.size - segment.first:
            events = [(msgspec.json.decode(line, type=Event), len(line)) for line in lines]
            await self._store.audit_index.add(
                SealedFile(segment.first, segment.size, segment.sha256, segment.at), events
            )
