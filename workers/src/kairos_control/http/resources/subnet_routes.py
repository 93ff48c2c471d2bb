"""Networks behind endpoints: offered by a subnet router, approved by the operator."""

from __future__ import annotations

from kairos.api.admin import Page, RouteApproval, RouteRecord
from kairos.api.session import Advertisement

from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def advertise(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.routes.advertise(call)


async def listing(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.routes.listing(call)


async def decide(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.routes.decide(call)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "PUT",
        AT + "/advertisement",
        Caller.NODE,
        advertise,
        "The networks an endpoint offers to lead to",
        body=Advertisement,
        status=204,
        serialized=True,
    ),
    Route("GET", AT + "/routes", Caller.VIEWER, listing, "List routes through endpoints", answer=Page),
    Route(
        "PUT",
        AT + "/vnis/{name}/routes",
        Caller.ADMIN,
        decide,
        "Approve a route through an endpoint, or withdraw it",
        body=RouteApproval,
        answer=RouteRecord,
        serialized=True,
    ),
)
