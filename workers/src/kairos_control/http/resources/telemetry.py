"""How the nodes are doing."""

from __future__ import annotations

from kairos.api.admin import Page
from kairos.api.telemetry import Sample

from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def take(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.telemetry.take(call)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.telemetry.show(call)


async def history(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.telemetry.history(call)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route("POST", AT + "/telemetry", Caller.NODE, take, "How a node is doing", body=Sample, status=204),
    Route("GET", AT + "/telemetry", Caller.VIEWER, show, "How the nodes are doing: the newest of each", answer=Page),
    Route(
        "GET",
        AT + "/telemetry/history",
        Caller.VIEWER,
        history,
        "How the nodes were doing, by minute for a day or by hour for a month",
        answer=Page,
    ),
)
