"""Audit events: from nodes into the queue, from the queue into the tenant's log and D1, and out again for the operator."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from kairos.audit.event import Accepted, Event, EventBatch

from ..http.call import Call, Reply, reply
from ..http.paging import window
from ..ports import Logs, Platform, Statement
from ..problems import problem
from ..store.bulk import bulks, columns

BATCH_MAX = 500
EVENT_MAX = 16 * 1024
_ID = re.compile("[0-9a-f]{32}")
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,6})?")
_ACTOR, _SUBJECT = "json_extract(body, '$.actor')", "json_extract(body, '$.subject')"  # as migration 0009 indexes them
_INSERT = (
    f"INSERT INTO audit (id, tenant, at, source, kind, body) SELECT {columns(6)} FROM json_each(?) WHERE true"
    " ON CONFLICT (id) DO NOTHING"
)
_LAST = "\U0010ffff"  # behind whatever begins with a prefix


async def accept(platform: Platform, call: Call) -> Reply:
    """A node's events. It speaks for itself only: tenant and source are what it proved to be."""
    batch = call.decode(EventBatch)
    if len(batch.events) > BATCH_MAX:
        raise problem("invalid", f"at most {BATCH_MAX} events at once")
    tenant, node = call.node.tenant, call.node.node
    events = [msgspec.structs.replace(event, tenant=tenant, source=node) for event in batch.events]
    for event in events:
        if not _ID.fullmatch(event.id) or len(msgspec.json.encode(event)) > EVENT_MAX:
            raise problem("invalid", f"an event has an id of 32 hex digits and at most {EVENT_MAX} bytes")
    if events:
        await platform.queue.send([msgspec.to_builtins(event) for event in events])
    return reply(Accepted(len(events)), 202)


async def consume(platform: Platform, logs: Logs, messages: Sequence[object]) -> None:
    """One batch of the queue, each the event's JSON. Delivered twice, it changes nothing the second time: log and rows go by event id."""
    by_tenant: dict[str, list[Event]] = {}
    for message in messages:
        event = (
            msgspec.json.decode(message, type=Event) if isinstance(message, str) else msgspec.convert(message, Event)
        )
        by_tenant.setdefault(event.tenant, []).append(event)
    for tenant, events in by_tenant.items():
        await logs.append(tenant, events)
        await platform.database.write([(_INSERT, (bulk,)) for bulk in bulks(map(_row, events))])


async def listing(platform: Platform, call: Call) -> Reply:
    """Newest first; `after` is the cursor of the page before. The other parameters leave events out."""
    view = window(call)
    conditions = [("tenant = ?", (call.parameters["tenant"],)), ("seq < ?", (view.before,)), *_conditions(call.query)]
    rows = await platform.database.rows(
        f"SELECT seq, body FROM audit WHERE {' AND '.join(sql for sql, _ in conditions)} ORDER BY seq DESC LIMIT ?",
        *(value for _, values in conditions for value in values), view.fetch,
    )  # fmt: skip
    return view.page_of_rows(rows, "seq", lambda row: msgspec.json.decode(row["body"], type=Event))


def _conditions(query: Mapping[str, str]) -> Iterator[Statement]:
    """What a search asks for, in SQL. Raises invalid."""
    if kind := query.get("kind", ""):
        yield "kind >= ? AND kind < ?", (kind, kind + _LAST)
    if without := query.get("without", ""):
        yield "NOT (kind >= ? AND kind < ?)", (without, without + _LAST)
    if device := query.get("device", ""):
        yield f"(source = ? OR {_ACTOR} = ? OR {_SUBJECT} = ?)", (device,) * 3
    if actor := query.get("actor", ""):
        yield f"{_ACTOR} = ?", (actor,)
    if vni := query.get("vni", ""):
        yield "json_extract(body, '$.detail.vni') = ?", (int(_number("vni", vni)),)
    if since := query.get("since", ""):
        yield "at >= ?", (_number("since", since),)
    if until := query.get("until", ""):
        yield "at < ?", (_number("until", until),)
    if text := query.get("text", ""):
        yield "instr(body, ?) > 0", (text,)


def _number(name: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise problem("invalid", f"{name}: a number")
    return float(text)


def _row(event: Event) -> tuple[str, str, float, str, str, str]:
    return event.id, event.tenant, event.at, event.source, event.kind, msgspec.json.encode(event).decode()
