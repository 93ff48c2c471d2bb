"""Do the two ends of every flow tell the same? Asked by the cron, of each tenant; `kairos audit reconcile` asks the same question.

In the Worker and not in the tenant's object: it may take seconds, in which nobody could be isolated. It reads the segments of the log,
one at a time, and only after the object has said that all it took is in them: a node is never accused of what is still on its way.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import msgspec

from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW
from kairos.audit.reconciliation import ANY_GATEWAY, MARGIN_S, Discrepancy, reconcile
from kairos.constants import CLOCK_SKEW_S

from ..ports import Platform
from ..store.audit_index import AuditIndexStore
from ..store.devices import DeviceStore
from ..store.fabric_events import FabricEventStore
from ..store.ledger_checks import LedgerCheckStore
from .journal import fitting
from .segment_files import SegmentFiles

STRETCH_S = 300  # as the cron comes
SETTLED_S = 900  # a node that was off line for a while delivers late
STRETCHES_AT_ONCE = 4  # after an outage the next sweep goes on
BEHIND_MAX_S = 86_400  # what was not checked within a day is given up, on record
EVENTS_MAX, BYTES_MAX = 10_000, 16 * 1024 * 1024
_SEGMENTS_AT_ONCE = 50
_FLOWS_TOLD = 20  # in one event
_NODES_TOLD = 50  # of one stretch, each by an event of its own
_TELLERS_NAMED = 5
_NAMED = f'"kind":"{LEDGER_WINDOW}"'.encode()


class TooMuchError(Exception):
    """There are more windows than one check reads."""

    def __init__(self, tellers: Counter[str]) -> None:
        """tellers: how many windows each node told of those that were read."""
        super().__init__("more windows than one check reads")
        self.tellers = dict(tellers.most_common(_TELLERS_NAMED))


class DoubleEntry:
    """The check of one tenant."""

    def __init__(self, platform: Platform, tenant: str) -> None:
        self._platform, self._tenant = platform, tenant
        self._index = AuditIndexStore(platform.database, tenant)
        self._checks = LedgerCheckStore(platform.database, tenant)
        self._devices = DeviceStore(platform.database, tenant)
        self._events = FabricEventStore(platform.database)
        self._files = SegmentFiles(platform.blobs, tenant)

    async def check(self) -> int:
        """All whole stretches that have settled since the last check, the oldest first. What differs becomes an event for each node that
        should have told more. Returns how many events that are."""
        settled = (int(self._platform.clock()) - SETTLED_S) // STRETCH_S * STRETCH_S
        begun = await self._checks.until()
        told, begin = 0, settled - STRETCH_S if begun is None else begun
        if begin < settled - BEHIND_MAX_S:
            reason = f"the fabric could not check for {settled - begin} s"
            told += await self._tell(begin, "", "ledger.unchecked", reason, {"since": begin, "until": settled})
            begin = settled - STRETCH_S
        for since in range(begin, min(settled, begin + STRETCHES_AT_ONCE * STRETCH_S), STRETCH_S):
            told += await self._check(since, since + STRETCH_S)
            await self._checks.set_until(since + STRETCH_S)
        return told

    async def _check(self, since: int, until: int) -> int:
        try:
            events = [event async for event in self._windows(since - MARGIN_S)]
        except TooMuchError as error:
            reason = f"more than {EVENTS_MAX} reports of flows, or {BYTES_MAX >> 20} MiB: use kairos audit reconcile"
            return await self._tell(since, "", "ledger.unchecked", reason, {"tellers": error.tellers})
        by_node: dict[str, list[Discrepancy]] = {}
        for each in reconcile(events, since, until).discrepancies:
            by_node.setdefault(each.node, []).append(each)
        known = {ANY_GATEWAY, *await self._devices.known(by_node)}  # the names of others were made up
        told = sorted(known & by_node.keys(), key=lambda node: (-len(by_node[node]), node))[:_NODES_TOLD]
        for node in told:
            found = by_node.pop(node)
            await self._tell(since, node, "ledger.differs", _reason(found), {
                "since": since, "until": until, "count": len(found),
                "flows": [msgspec.to_builtins(each) for each in found[:_FLOWS_TOLD]],
            })  # fmt: skip
        if by_node:
            tellers = Counter(each.told_by for found in by_node.values() for each in found)
            reason = f"flows of {len(by_node)} more nodes, or names that no node has"
            detail = {"since": since, "until": until, "tellers": dict(tellers.most_common(_TELLERS_NAMED))}
            await self._tell(since, "", "ledger.differs", reason, detail)
        return len(told) + bool(by_node)

    async def _windows(self, since: int) -> AsyncIterator[Event]:
        """Windows of flows that began at `since` or later, out of the segments that may have them. Raises TooMuchError."""
        after, size, tellers = -1, 0, Counter[str]()
        while segments := await self._index.with_windows(since - CLOCK_SKEW_S, after, _SEGMENTS_AT_ONCE):
            for segment in segments:
                after = segment.first
                for line in (await self._files.lines(segment.first) or b"").split(b"\n"):
                    if _NAMED not in line:
                        continue
                    event = msgspec.json.decode(line, type=Event)
                    if event.kind == LEDGER_WINDOW and event.at >= since:
                        tellers[event.source] += 1
                        size += len(line)
                        if tellers.total() > EVENTS_MAX or size > BYTES_MAX:
                            raise TooMuchError(tellers)
                        yield event

    async def _tell(self, since: int, node: str, kind: str, reason: str, detail: dict[str, object]) -> int:
        """Under an id that a second check gives again: the log takes an event of a source once, and this source is the fabric."""
        name = hashlib.sha256(f"{kind} {self._tenant} {since} {node}".encode()).hexdigest()[:32]
        now = self._platform.clock()
        event = Event(name, now, self._tenant, "fabric", kind, "fabric", node, reason=reason, detail=detail)
        await self._events.add(self._tenant, [fitting(event)])
        return 1


def _reason(found: Sequence[Discrepancy]) -> str:
    kinds = ", ".join(sorted({each.kind for each in found}))
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{kinds}: {found[0].flow}, told by {found[0].told_by}{more}"
