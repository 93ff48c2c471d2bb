"""Posture reports of devices."""

from __future__ import annotations

from kairos.api.admin import PostureRecord
from kairos.api.session import PostureReport

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..routing import AT, Caller, Route


async def report(tenant: TenantServices, call: Call) -> Reply:
    tenant.postures.report(call.node.node, call.decode(PostureReport).facts)
    return reply(None)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return reply(tenant.postures.show(call.parameters["node"]))


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/posture",
        Caller.NODE,
        report,
        "What a device reports of itself",
        body=PostureReport,
        status=204,
    ),
    Route(
        "GET",
        AT + "/devices/{node}/posture",
        Caller.VIEWER,
        show,
        "A device's newest posture report, as policy sees it",
        answer=PostureRecord,
    ),
)
