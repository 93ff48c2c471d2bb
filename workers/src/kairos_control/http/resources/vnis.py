"""VNIs."""

from __future__ import annotations

from kairos.api.admin import Page, VniCreate, VniRecord

from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def create(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.vnis.create(call)


async def listing(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.vnis.listing(call)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.vnis.show(call)


async def change(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.vnis.change(call)


async def delete(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.vnis.delete(call)


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
    Route("GET", AT + "/vnis", Caller.VIEWER, listing, "List VNIs", answer=Page),
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
