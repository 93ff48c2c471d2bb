"""Tenants."""

from __future__ import annotations

from kairos.api.admin import Page, Tenant, TenantCreate, TenantMove

from ...fabric import FabricServices
from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


async def create(fabric: FabricServices, call: Call) -> Reply:
    return reply(await fabric.tenants.create(call.decode(TenantCreate), call.actor), 201)


async def listing(fabric: FabricServices, call: Call) -> Reply:
    """An administrator of one tenant sees that one."""
    view, own = window(call), call.administrator.tenant if call.administrator else ""
    return view.page(await fabric.tenants.page(view.after, view.fetch, own), lambda each: each.tenant)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.lifecycle.show())


async def move(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.relocation.begin(call.decode(TenantMove).shard, call.actor))


async def delete(tenant: TenantServices, call: Call) -> Reply:
    await tenant.lifecycle.delete(call.actor)
    return reply(None)


FABRIC_ROUTES: tuple[Route[FabricServices], ...] = (
    Route(
        "POST",
        "/v1/tenants",
        Caller.ROOT,
        create,
        "Create a tenant",
        body=TenantCreate,
        answer=Tenant,
        status=201,
    ),
    Route("GET", "/v1/tenants", Caller.VIEWER, listing, "List tenants", query=Window, answer=Page[Tenant]),
)
ROUTES: tuple[Route[TenantServices], ...] = (
    Route("GET", AT, Caller.VIEWER, show, "One tenant", answer=Tenant),
    Route(
        "POST",
        AT + "/move",
        Caller.ROOT,
        move,
        "Move the tenant's records to another database",
        body=TenantMove,
        answer=Tenant,
    ),
    Route("DELETE", AT, Caller.ROOT, delete, "Delete a tenant and all its records", status=204, serialized=True),
)
