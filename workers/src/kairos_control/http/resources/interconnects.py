"""Interconnects: two VNIs joined at the gateways."""

from __future__ import annotations

from kairos.api.admin import InterconnectCreate, InterconnectRecord, Page

from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def create(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.interconnects.create(call)


async def listing(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.interconnects.listing(call)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.interconnects.show(call)


async def delete(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.interconnects.delete(call)


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
    Route("GET", AT + "/interconnects", Caller.VIEWER, listing, "List interconnects", answer=Page),
    Route("GET", AT + "/interconnects/{a}/{b}", Caller.VIEWER, show, "One interconnect", answer=InterconnectRecord),
    Route("DELETE", AT + "/interconnects/{a}/{b}", Caller.ADMIN, delete, "Part two VNIs", status=204, serialized=True),
)
