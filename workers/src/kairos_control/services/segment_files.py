"""The sealed segments of a tenant's log in R2: for each, its events as lines of JSON, and the head under which it
was sealed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kairos.audit.head import SignedHead

from ..ports import Blobs
from ..store.audit_index import IndexedEvent

_GAP_MAX = 524_288  # bytes that are read and not used rather than asked for in a call of their own


class SegmentFiles:
    """The segments of one tenant's log."""

    def __init__(self, blobs: Blobs, tenant: str) -> None:
        self._blobs, self._tenant = blobs, tenant

    async def put(self, first: int, lines: bytes, head: SignedHead) -> None:
        await self._blobs.put(self._key(first, "jsonl"), lines)
        await self._blobs.put(self._key(first, "head"), msgspec.json.encode(head))

    async def lines(self, first: int) -> bytes | None:
        """The events of the segment that begins there; None: retention has deleted them."""
        return await self._blobs.get(self._key(first, "jsonl"))

    async def head(self, first: int) -> SignedHead | None:
        data = await self._blobs.get(self._key(first, "head"))
        return None if data is None else msgspec.json.decode(data, type=SignedHead)

    async def texts(self, segment: int, events: Sequence[IndexedEvent]) -> list[bytes]:
        """The JSON of events of one segment, whose starts only rise or only fall; empty for one that is not there
        any more."""
        found: dict[int, bytes] = {}
        for stretch in _stretches(sorted(events, key=lambda each: each.start)):
            start, end = stretch[0].start, stretch[-1].start + stretch[-1].length
            data = await self._blobs.get_range(self._key(segment, "jsonl"), start, end - start) or b""
            for each in stretch:
                found[each.position] = data[each.start - start : each.start - start + each.length]
        return [found[each.position] for each in events]

    async def delete_lines(self, first: int) -> None:
        """The leaves and the head of the segment stay."""
        await self._blobs.delete(self._key(first, "jsonl"))

    def _key(self, first: int, kind: str) -> str:
        return f"audit/{self._tenant}/{first:015}.{kind}"


def _stretches(events: Sequence[IndexedEvent]) -> list[list[IndexedEvent]]:
    """Events that are near to each other."""
    stretches: list[list[IndexedEvent]] = []
    for each in events:
        last = stretches[-1][-1] if stretches else None
        if last is not None and each.start - last.start - last.length <= _GAP_MAX:
            stretches[-1].append(each)
        else:
            stretches.append([each])
    return stretches
