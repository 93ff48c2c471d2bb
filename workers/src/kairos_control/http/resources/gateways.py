"""Gateways with their ranks."""

from __future__ import annotations

from kairos.api.admin import GatewayRank, GatewayRecord, Page

from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def listing(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.gateways.listing(call)


async def rank(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.gateways.rank(call)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route("GET", AT + "/gateways", Caller.VIEWER, listing, "List gateways with their ranks", answer=Page),
    Route(
        "PUT",
        AT + "/gateways/{node}",
        Caller.OPERATOR,
        rank,
        "Prefer a gateway, or weigh it",
        body=GatewayRank,
        answer=GatewayRecord,
        serialized=True,
    ),
)
