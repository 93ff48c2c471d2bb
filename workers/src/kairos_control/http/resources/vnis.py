"""VNIs."""

from __future__ import annotations

from kairos.api.admin import Page, VniCreate, VniRecord

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


async def create(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.vnis.create(call.decode(VniCreate), call.actor), 201)


async def listing(tenant: TenantServices, call: Call) -> Reply:
    view = window(call)
    return view.page(await tenant.vnis.page(view.after, view.fetch), lambda each: each.name)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.vnis.show(call.parameters["name"]))


async def change(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.vnis.change(call.parameters["name"], call.decode(VniCreate), call.actor))


async def delete(tenant: TenantServices, call: Call) -> Reply:
    await tenant.vnis.delete(call.parameters["name"], call.actor)
    return reply(None)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/vnis",
        Caller.OPERATOR,
        create,
        "Create a VNI",
        body=VniCreate,
        answer=VniRecord,
        status=201,
        serialized=True,
    ),
    Route("GET", AT + "/vnis", Caller.VIEWER, listing, "List VNIs", query=Window, answer=Page[VniRecord]),
    Route("GET", AT + "/vnis/{name}", Caller.VIEWER, show, "One VNI", answer=VniRecord),
    Route(
        "PUT",
        AT + "/vnis/{name}",
        Caller.OPERATOR,
        change,
        "Change a VNI",
        body=VniCreate,
        answer=VniRecord,
        serialized=True,
    ),
    Route("DELETE", AT + "/vnis/{name}", Caller.OPERATOR, delete, "Delete a VNI", status=204, serialized=True),
)
