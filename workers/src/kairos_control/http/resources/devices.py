"""Devices, and enrollments that wait for the operator."""

from __future__ import annotations

from kairos.api.admin import Device, Page, Reason

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


async def listing(tenant: TenantServices, call: Call) -> Reply:
    """Enrollments that wait come first, on the first page."""
    view = window(call)
    devices = await tenant.devices.page(view.after, view.fetch)
    waiting = [] if view.after else await tenant.devices.waiting()
    return view.page(devices, lambda each: each.node, waiting)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.devices.one(call.parameters["node"]))


async def revoke(tenant: TenantServices, call: Call) -> Reply:
    await tenant.devices.revoke(call.parameters["node"], call.actor)
    return reply(None)


async def approve(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.devices.approve(call.parameters["node"], call.actor))


async def deny(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.devices.deny(call.parameters["node"], call.decode(Reason).reason, call.actor))


ROUTES: tuple[Route[TenantServices], ...] = (
    Route("GET", AT + "/devices", Caller.VIEWER, listing, "List devices", query=Window, answer=Page[Device]),
    Route("GET", AT + "/devices/{node}", Caller.VIEWER, show, "One device", answer=Device),
    Route("DELETE", AT + "/devices/{node}", Caller.OPERATOR, revoke, "Revoke a device", status=204, serialized=True),
    Route(
        "POST",
        AT + "/devices/{node}/approve",
        Caller.OPERATOR,
        approve,
        "Let a held device in",
        answer=Device,
        serialized=True,
    ),
    Route(
        "POST",
        AT + "/devices/{node}/deny",
        Caller.OPERATOR,
        deny,
        "Turn a held device away",
        body=Reason,
        answer=Device,
        serialized=True,
    ),
)
