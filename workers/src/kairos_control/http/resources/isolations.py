"""Isolation: a device cut off everywhere, until it is released."""

from __future__ import annotations

from kairos.api.admin import IsolationRecord, Reason
from kairos.api.session import IsolationReport

from ...problems import problem
from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..routing import AT, Caller, Route


async def report(tenant: TenantServices, call: Call) -> Reply:
    if call.node.role != "gateway":
        raise problem("wrong-role", "only a gateway reports for isolation")
    await tenant.isolations.report(call.node.node, call.decode(IsolationReport))
    return reply(None)


async def isolate(tenant: TenantServices, call: Call) -> Reply:
    reason = call.decode(Reason).reason
    return reply(await tenant.isolations.isolate(call.parameters["node"], reason, call.actor))


async def release(tenant: TenantServices, call: Call) -> Reply:
    reason = call.decode(Reason).reason
    return reply(await tenant.isolations.release(call.parameters["node"], reason, call.actor))


async def show(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.isolations.show(call.parameters["node"]))


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/isolations",
        Caller.NODE,
        report,
        "A gateway reports that policy isolates an endpoint",
        body=IsolationReport,
        status=204,
    ),
    Route(
        "POST",
        AT + "/devices/{node}/isolate",
        Caller.OPERATOR,
        isolate,
        "Cut a device off everywhere, until it is released",
        body=Reason,
        answer=IsolationRecord,
    ),
    Route(
        "POST",
        AT + "/devices/{node}/release",
        Caller.OPERATOR,
        release,
        "End a device's isolation",
        body=Reason,
        answer=IsolationRecord,
    ),
    Route(
        "GET",
        AT + "/devices/{node}/isolation",
        Caller.VIEWER,
        show,
        "A device's isolation, with the receipts of those who enforced it",
        answer=IsolationRecord,
    ),
)
