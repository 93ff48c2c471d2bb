"""Devices, and enrollments that wait for the operator."""

from __future__ import annotations

from kairos.api.admin import Device, Page, Reason

from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def list_devices(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.registry.list_devices(call)


async def show_device(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.registry.show_device(call)


async def revoke(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.registry.revoke(call)


async def approve(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.registry.approve(call)


async def deny(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.registry.deny(call)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route("GET", AT + "/devices", Caller.VIEWER, list_devices, "List devices", answer=Page),
    Route("GET", AT + "/devices/{node}", Caller.VIEWER, show_device, "One device", answer=Device),
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
