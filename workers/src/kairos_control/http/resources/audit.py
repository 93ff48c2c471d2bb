"""The audit: events in, and the log, its heads and proofs out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kairos.api.admin import AuditRetention, Page
from kairos.api.operations import Reindexed
from kairos.audit.event import Accepted, Event, EventBatch
from kairos.audit.head import Consistency, EventProof, SealedSegment, SignedHead

from ...problems import problem
from ...store.audit_index import AuditQuery
from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import NEWEST, Window
from ..routing import AT, Caller, Route

_TEXT = Meta(max_length=256)


class SearchQuery(Window):
    """What a search asks for. Empty parameters ask for nothing."""

    kind: Annotated[str, _TEXT] = ""
    """Kinds that begin with this."""
    without: Annotated[str, _TEXT] = ""
    """No kinds that begin with this."""
    device: Annotated[str, _TEXT] = ""
    """Told by this node, done by it or to it."""
    actor: Annotated[str, _TEXT] = ""
    """Who did it."""
    vni: int = -1
    """The number of a VNI; -1: any."""
    since: float = -1
    """Unix seconds of the source's clock."""
    until: float = -1
    """Unix seconds of the source's clock; an event at that time is not found."""
    text: Annotated[str, _TEXT] = ""
    """Anywhere in the event's JSON, in the same case."""


class ProofQuery(msgspec.Struct):
    """Which event."""

    event: Annotated[str, _TEXT] = ""
    """Its id."""
    source: Annotated[str, _TEXT] = ""
    """Who recorded it; needed where several sources have an event with this id."""


class ConsistencyQuery(msgspec.Struct):
    """Sizes that signed heads had."""

    first: Annotated[int, Meta(ge=1)]
    """How many events the older log had."""
    second: Annotated[int, Meta(ge=1)]
    """How many events the newer log had."""


class ReindexQuery(msgspec.Struct):
    """Where to go on."""

    before: Annotated[int, Meta(ge=0)] = NEWEST
    """The `next` of the step before; nothing for the first."""


async def accept_events(tenant: TenantServices, call: Call) -> Reply:
    events = call.decode(EventBatch).events
    await tenant.audit_intake.take(call.node.node, events, len(call.body))
    return reply(Accepted(len(events)), 202)


async def list_events(tenant: TenantServices, call: Call) -> Reply:
    asked = call.decode_query(SearchQuery)
    query = AuditQuery(
        asked.kind,
        asked.without,
        asked.device,
        asked.actor,
        asked.vni if asked.vni >= 0 else None,
        asked.since if asked.since >= 0 else None,
        asked.until if asked.until >= 0 else None,
        asked.text,
    )
    found = await tenant.audit_search.find(query, asked.before, asked.limit)
    return reply(Page([event for _, event in found.events], str(found.next) if found.next else ""))


async def show_retention(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.retention.current())


async def change_retention(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.retention.change(call.decode(AuditRetention).days, call.actor))


async def show_head(tenant: TenantServices, call: Call) -> Reply:
    return reply(tenant.audit_log.current())


async def show_proof(tenant: TenantServices, call: Call) -> Reply:
    asked = call.decode_query(ProofQuery)
    return reply(await tenant.audit_log.prove(asked.event, asked.source))


async def show_consistency(tenant: TenantServices, call: Call) -> Reply:
    asked = call.decode_query(ConsistencyQuery)
    return reply(tenant.audit_log.consistency(asked.first, asked.second))


async def show_segment(tenant: TenantServices, call: Call) -> Reply:
    text = call.parameters["first"]
    if not (text.isascii() and text.isdecimal()) or len(text) > 15:
        raise problem("not-found", f"no sealed segment begins at {text}")
    return reply(await tenant.audit_log.segment(int(text)))


async def reindex(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.index_upkeep.rebuild(call.decode_query(ReindexQuery).before, call.actor))


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/audit",
        Caller.NODE,
        accept_events,
        "A node's audit events",
        body=EventBatch,
        answer=Accepted,
        status=202,
    ),
    Route(
        "GET",
        AT + "/audit",
        Caller.VIEWER,
        list_events,
        "Audit events, newest first",
        query=SearchQuery,
        answer=Page[Event],
    ),
    Route(
        "GET",
        AT + "/audit/retention",
        Caller.VIEWER,
        show_retention,
        "How long events are kept",
        answer=AuditRetention,
    ),
    Route(
        "PUT",
        AT + "/audit/retention",
        Caller.ADMIN,
        change_retention,
        "Say how long events are kept",
        body=AuditRetention,
        answer=AuditRetention,
        serialized=True,
    ),
    Route("GET", AT + "/audit/head", Caller.NODE_OR_ADMIN, show_head, "The newest signed head", answer=SignedHead),
    Route(
        "GET",
        AT + "/audit/proof",
        Caller.VIEWER,
        show_proof,
        "That an event is in the log",
        query=ProofQuery,
        answer=EventProof,
    ),
    Route(
        "GET",
        AT + "/audit/consistency",
        Caller.NODE_OR_ADMIN,
        show_consistency,
        "That the log only grew",
        query=ConsistencyQuery,
        answer=Consistency,
    ),
    Route(
        "GET",
        AT + "/audit/segments/{first}",
        Caller.VIEWER,
        show_segment,
        "The sealed segment that begins at a position",
        answer=SealedSegment,
    ),
    Route(
        "POST",
        AT + "/audit/reindex",
        Caller.ADMIN,
        reindex,
        "Make the index of some segments again, the newest first",
        query=ReindexQuery,
        answer=Reindexed,
    ),
)
