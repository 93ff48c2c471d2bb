"""Compares what the two ends of each flow recorded, for each tenant, when the cron runs. `kairos audit reconcile` makes
the same comparison.

It runs in the entrypoint and not in the tenant's object, which could isolate nobody for the seconds that it may take.
It reads the segments of the log, one at a time, and only after the object has sealed all events that it took: an event
that is still on its way is never held against a node.
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
from ..store.tenant_database import TenantDatabase
from .journal import fitting
from .segment_files import SegmentFiles

STRETCH_S = 300  # the interval of the cron
SETTLED_S = 900  # a node that was offline delivers its events late
STRETCHES_AT_ONCE = 4  # after an outage the next sweep goes on
BEHIND_MAX_S = 86_400  # what was not checked within a day is skipped, and an event says so
EVENTS_MAX, BYTES_MAX = 10_000, 16 * 1024 * 1024
_SEGMENTS_AT_ONCE = 50
_FLOWS_NAMED = 20  # in one event
_NODES_NAMED = 50  # of one stretch, each by an event of its own
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
        self._home = TenantDatabase(platform.databases, tenant)
        self._index = AuditIndexStore(self._home, tenant)
        self._checks = LedgerCheckStore(platform.databases.directory, tenant)
        self._devices = DeviceStore(self._home, tenant)
        self._events = FabricEventStore(platform.databases.directory)
        self._files = SegmentFiles(platform.blobs, tenant)

    async def check(self) -> int:
        """Checks all whole stretches that have settled since the last check, the oldest first.

        Records an event for each node that should have recorded more, and returns how many events it recorded.
        """
        settled = (int(self._platform.clock()) - SETTLED_S) // STRETCH_S * STRETCH_S
        begun = await self._checks.until()
        recorded, begin = 0, settled - STRETCH_S if begun is None else begun
        if begin < settled - BEHIND_MAX_S:
            reason = f"the fabric could not check for {settled - begin} s"
            recorded += await self._record(begin, "", "ledger.unchecked", reason, {"since": begin, "until": settled})
            begin = settled - STRETCH_S
        for since in range(begin, min(settled, begin + STRETCHES_AT_ONCE * STRETCH_S), STRETCH_S):
            found = await self._check(since, since + STRETCH_S)
            if found is None:
                break
            recorded += found
            await self._checks.set_until(since + STRETCH_S)
        return recorded

    async def _check(self, since: int, until: int) -> int | None:
        """None: the tenant is being moved, so what was read may not be all. The next sweep checks again."""
        placement = await self._home.placement()
        try:
            events = [event async for event in self._windows(since - MARGIN_S)]
        except TooMuchError as error:
            reason = f"more than {EVENTS_MAX} reports of flows, or {BYTES_MAX >> 20} MiB: use kairos audit reconcile"
            return await self._record(since, "", "ledger.unchecked", reason, {"tellers": error.tellers})
        if placement.moving_to or await self._home.changed() != placement:
            return None
        by_node: dict[str, list[Discrepancy]] = {}
        for each in reconcile(events, since, until).discrepancies:
            by_node.setdefault(each.node, []).append(each)
        known = {ANY_GATEWAY, *await self._devices.known(by_node)}  # the names of others were made up
        named = sorted(known & by_node.keys(), key=lambda node: (-len(by_node[node]), node))[:_NODES_NAMED]
        for node in named:
            found = by_node.pop(node)
            await self._record(since, node, "ledger.differs", _reason(found), {
                "since": since, "until": until, "count": len(found),
                "flows": [msgspec.to_builtins(each) for each in found[:_FLOWS_NAMED]],
            })  # fmt: skip
        if by_node:
            tellers = Counter(each.told_by for found in by_node.values() for each in found)
            reason = f"flows of {len(by_node)} more nodes, or names that no node has"
            detail = {"since": since, "until": until, "tellers": dict(tellers.most_common(_TELLERS_NAMED))}
            await self._record(since, "", "ledger.differs", reason, detail)
        return len(named) + bool(by_node)

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

    async def _record(self, since: int, node: str, kind: str, reason: str, detail: dict[str, object]) -> int:
        """The id depends on what is recorded only, so a check that is repeated after a crash records nothing twice."""
        name = hashlib.sha256(f"{kind} {self._tenant} {since} {node}".encode()).hexdigest()[:32]
        now = self._platform.clock()
        event = Event(name, now, self._tenant, "fabric", kind, "fabric", node, reason=reason, detail=detail)
        await self._events.add(self._tenant, [fitting(event)])
        return 1


def _reason(found: Sequence[Discrepancy]) -> str:
    kinds = ", ".join(sorted({each.kind for each in found}))
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{kinds}: {found[0].flow}, told by {found[0].told_by}{more}"
