"""Retention: old events lose their text and keep their position. The text of segments that were sealed longer ago
than the setting says is deleted from R2 and from the index. Leaf hashes and heads stay, so every head, and every
proof of an event that remains, still verifies."""

from __future__ import annotations

from kairos.api.admin import AuditRetention
from kairos.audit.head import RETIRED

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from .journal import Journal
from .segment_files import SegmentFiles

DAYS_MAX = 3650
DAY_S = 86_400
_SEGMENTS_AT_ONCE = 20  # of at most 1,000 events each; the next sweep goes on


class Retention:
    """The retention of one tenant's log."""

    def __init__(self, platform: TenantPlatform, store: Stores, journal: Journal, files: SegmentFiles) -> None:
        self._platform, self._store, self._journal, self._files = platform, store, journal, files

    async def current(self) -> AuditRetention:
        return await self._store.audit_retention.get()

    async def change(self, days: int, actor: str) -> AuditRetention:
        """Raises invalid."""
        if not 0 <= days <= DAYS_MAX:
            raise problem("invalid", f"days: 1 to {DAYS_MAX}, or 0 to keep everything")
        before = await self.current()
        await self._store.audit_retention.set_days(days)
        self._journal.record("audit.retention", actor=actor, subject=f"{days} days", before=before.days, days=days)
        return await self.current()

    async def retire(self) -> None:
        """Records what will be deleted, then deletes it. After a crash in between, the next sweep does both again."""
        kept = await self.current()
        if not kept.days:
            return
        cutoff = int(self._platform.clock()) - kept.days * DAY_S
        segments = await self._store.audit_index.retirable(kept.retired, cutoff, _SEGMENTS_AT_ONCE)
        if not segments:
            return
        size = segments[-1].size
        self._journal.record(
            RETIRED, actor="fabric", subject=f"events 0 to {size - 1}", size=size, before=cutoff, days=kept.days
        )
        await self._journal.flush()
        for each in segments:
            await self._files.delete_lines(each.first)
        await self._store.write(
            [
                *self._store.audit_index.forgetting(segments),
                self._store.audit_retention.retired(size, cutoff),
            ]
        )
