"""Networks behind endpoints: advertised by a subnet router, approved by the operator."""

from __future__ import annotations

from kairos.api.admin import Page, RouteApproval, RouteRecord
from kairos.api.session import Advertisement

from ...store.subnet_routes import key
from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


async def advertise(tenant: TenantServices, call: Call) -> Reply:
    await tenant.subnet_routes.advertise(call.decode(Advertisement), call.node)
    return reply(None)


async def listing(tenant: TenantServices, call: Call) -> Reply:
    view = window(call)
    return view.page(await tenant.subnet_routes.page(view.after, view.fetch), key)


async def decide(tenant: TenantServices, call: Call) -> Reply:
    wanted = call.decode(RouteApproval)
    return reply(await tenant.subnet_routes.decide(call.parameters["name"], wanted, call.actor))


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
    Route(
        "GET",
        AT + "/routes",
        Caller.VIEWER,
        listing,
        "List routes through endpoints",
        query=Window,
        answer=Page[RouteRecord],
    ),
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
