"""The members of a VNI."""

from __future__ import annotations

from kairos.api.admin import MemberRecord, MemberWanted, Page

from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def list_members(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.vnis.list_members(call)


async def put_member(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.vnis.put_member(call)


async def remove_member(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.vnis.remove_member(call)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route("GET", AT + "/vnis/{name}/members", Caller.VIEWER, list_members, "List a VNI's members", answer=Page),
    Route(
        "PUT",
        AT + "/vnis/{name}/members/{node}",
        Caller.OPERATOR,
        put_member,
        "Make a node a member, with these addresses",
        body=MemberWanted,
        answer=MemberRecord,
        serialized=True,
    ),
    Route(
        "DELETE",
        AT + "/vnis/{name}/members/{node}",
        Caller.OPERATOR,
        remove_member,
        "Take a node out of a VNI",
        status=204,
        serialized=True,
    ),
)
