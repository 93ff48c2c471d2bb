"""The audit: events in, and the log, its heads and proofs out."""

from __future__ import annotations

from kairos.api.admin import AuditRetention, Page
from kairos.audit.event import Accepted, EventBatch
from kairos.audit.head import Consistency, EventProof, SealedSegment, SignedHead

from ...services import audit_events
from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def accept_events(tenant: TenantServices, call: Call) -> Reply:
    return await audit_events.accept(tenant.platform, call)


async def list_events(tenant: TenantServices, call: Call) -> Reply:
    return await audit_events.listing(tenant.platform, call)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.retention.show(call)


async def change(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.retention.change(call)


async def show_head(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.audit_log.show_head(call)


async def show_proof(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.audit_log.show_proof(call)


async def show_consistency(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.audit_log.show_consistency(call)


async def show_segment(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.audit_log.show_segment(call)


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
    Route("GET", AT + "/audit", Caller.VIEWER, list_events, "Audit events, newest first", answer=Page),
    Route("GET", AT + "/audit/retention", Caller.VIEWER, show, "How long events are kept", answer=AuditRetention),
    Route(
        "PUT",
        AT + "/audit/retention",
        Caller.ADMIN,
        change,
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
        "?event=ID: that the event is in the log",
        answer=EventProof,
    ),
    Route(
        "GET",
        AT + "/audit/consistency",
        Caller.NODE_OR_ADMIN,
        show_consistency,
        "?first=N&second=M: that the log only grew",
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
)
