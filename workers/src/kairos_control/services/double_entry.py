"""Do the two ends of every flow tell the same? Asked by the cron, of each tenant; `kairos audit reconcile` asks the same question.

In the Worker and not in the tenant's object: it may take seconds, in which nobody could be isolated. Without a memory of its own:
a stretch of time that is checked twice gives the same event ids, and the log takes an event once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW
from kairos.audit.reconciliation import MARGIN_S, Discrepancy, reconcile

from ..ports import Platform

STRETCH_S = 300  # as the cron comes
SETTLED_S = 900  # a node that was off line for a while delivers late
EVENTS_MAX = 10_000
_FLOWS_TOLD = 20  # in one event, which has at most 16 KiB


async def check(platform: Platform, tenant: str) -> None:
    """The newest whole stretch that has settled. What differs becomes an event for each node that should have told more."""
    until = (int(platform.clock()) - SETTLED_S) // STRETCH_S * STRETCH_S
    since = until - STRETCH_S
    rows = await platform.database.rows(
        "SELECT body FROM audit WHERE tenant = ? AND kind = ? AND at >= ? ORDER BY at LIMIT ?",
        tenant, LEDGER_WINDOW, since - MARGIN_S, EVENTS_MAX + 1,
    )  # fmt: skip
    if not rows:
        return
    if len(rows) > EVENTS_MAX:
        reason = f"more than {EVENTS_MAX} reports of flows: use kairos audit reconcile"
        await _tell(platform, tenant, since, "", "ledger.unchecked", reason, {})
        return
    events = [msgspec.json.decode(row["body"], type=Event) for row in rows]
    by_node: dict[str, list[Discrepancy]] = {}
    for each in reconcile(events, since, until).discrepancies:
        by_node.setdefault(each.node, []).append(each)
    for node, found in by_node.items():
        await _tell(platform, tenant, since, node, "ledger.differs", _reason(found), {
            "since": since, "until": until, "count": len(found),
            "flows": [msgspec.to_builtins(each) for each in found[:_FLOWS_TOLD]],
        })  # fmt: skip


def _reason(found: Sequence[Discrepancy]) -> str:
    kinds = ", ".join(sorted({each.kind for each in found}))
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{kinds}: {found[0].flow}, told by {found[0].told_by}{more}"


async def _tell(
    platform: Platform, tenant: str, since: int, node: str, kind: str, reason: str, detail: dict[str, object]
) -> None:
    name = hashlib.sha256(f"{kind} {tenant} {since} {node}".encode()).hexdigest()[:32]
    event = Event(name, platform.clock(), tenant, "fabric", kind, "fabric", node, reason=reason, detail=detail)
    await platform.queue.send([msgspec.to_builtins(event)])
