"""Gateways with their ranks."""

from __future__ import annotations

from kairos.api.admin import GatewayRank, GatewayRecord, Page

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


async def listing(tenant: TenantServices, call: Call) -> Reply:
    view = window(call)
    return view.page(await tenant.gateways.page(view.after, view.fetch), lambda each: each.node)


async def rank(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.gateways.rank(call.parameters["node"], call.decode(GatewayRank), call.actor))


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "GET",
        AT + "/gateways",
        Caller.VIEWER,
        listing,
        "List gateways with their ranks",
        query=Window,
        answer=Page[GatewayRecord],
    ),
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
