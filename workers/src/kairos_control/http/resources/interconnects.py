"""Interconnects: two VNIs joined at the gateways."""

from __future__ import annotations

from kairos.api.admin import InterconnectCreate, InterconnectRecord, Page

from ...store.interconnects import key
from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


async def create(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.interconnects.create(call.decode(InterconnectCreate), call.actor), 201)


async def listing(tenant: TenantServices, call: Call) -> Reply:
    view = window(call)
    return view.page(await tenant.interconnects.page(view.after, view.fetch), key)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.interconnects.show(call.parameters["a"], call.parameters["b"]))


async def delete(tenant: TenantServices, call: Call) -> Reply:
    await tenant.interconnects.delete(call.parameters["a"], call.parameters["b"], call.actor)
    return reply(None)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/interconnects",
        Caller.ADMIN,
        create,
        "Join two VNIs",
        body=InterconnectCreate,
        answer=InterconnectRecord,
        status=201,
        serialized=True,
    ),
    Route(
        "GET",
        AT + "/interconnects",
        Caller.VIEWER,
        listing,
        "List interconnects",
        query=Window,
        answer=Page[InterconnectRecord],
    ),
    Route("GET", AT + "/interconnects/{a}/{b}", Caller.VIEWER, show, "One interconnect", answer=InterconnectRecord),
    Route(
        "DELETE", AT + "/interconnects/{a}/{b}", Caller.ADMIN, delete, "Separate two VNIs", status=204, serialized=True
    ),
)
