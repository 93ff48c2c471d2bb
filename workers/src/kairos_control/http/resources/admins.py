"""Scoped credentials of administrators: of one tenant, and of the whole fabric."""

from __future__ import annotations

from kairos.api.admin import AdminCreate, AdminRecord, Page

from ...fabric import FabricServices
from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


async def create(services: TenantServices | FabricServices, call: Call) -> Reply:
    assert call.administrator is not None, "the route authenticates an administrator"
    return reply(await services.administrators.create(call.decode(AdminCreate), call.administrator), 201)


async def listing(services: TenantServices | FabricServices, call: Call) -> Reply:
    view = window(call)
    return view.page(await services.administrators.page(view.after, view.fetch), lambda each: each.admin)


async def revoke(services: TenantServices | FabricServices, call: Call) -> Reply:
    await services.administrators.revoke(call.parameters["admin"], call.actor)
    return reply(None)


FABRIC_ROUTES: tuple[Route[FabricServices], ...] = (
    Route(
        "POST",
        "/v1/admins",
        Caller.ROOT,
        create,
        "Make a credential for all tenants",
        body=AdminCreate,
        answer=AdminRecord,
        status=201,
    ),
    Route(
        "GET",
        "/v1/admins",
        Caller.ROOT,
        listing,
        "List credentials for all tenants",
        query=Window,
        answer=Page[AdminRecord],
    ),
    Route("DELETE", "/v1/admins/{admin}", Caller.ROOT, revoke, "Revoke a credential for all tenants", status=204),
)
ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/admins",
        Caller.ADMIN,
        create,
        "Make a credential for this tenant",
        body=AdminCreate,
        answer=AdminRecord,
        status=201,
        serialized=True,
    ),
    Route(
        "GET",
        AT + "/admins",
        Caller.ADMIN,
        listing,
        "List this tenant's credentials",
        query=Window,
        answer=Page[AdminRecord],
    ),
    Route(
        "DELETE",
        AT + "/admins/{admin}",
        Caller.ADMIN,
        revoke,
        "Revoke a credential of this tenant",
        status=204,
        serialized=True,
    ),
)
