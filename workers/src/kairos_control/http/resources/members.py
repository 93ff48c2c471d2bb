"""The members of a VNI."""

from __future__ import annotations

from kairos.api.admin import MemberRecord, MemberWanted, Page

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


async def listing(tenant: TenantServices, call: Call) -> Reply:
    view = window(call)
    records = await tenant.members.page(call.parameters["name"], view.after, view.fetch)
    return view.page(records, lambda each: each.node)


async def put(tenant: TenantServices, call: Call) -> Reply:
    at = call.parameters
    return reply(await tenant.members.put(at["name"], at["node"], call.decode(MemberWanted), call.actor))


async def remove(tenant: TenantServices, call: Call) -> Reply:
    await tenant.members.remove(call.parameters["name"], call.parameters["node"], call.actor)
    return reply(None)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "GET",
        AT + "/vnis/{name}/members",
        Caller.VIEWER,
        listing,
        "List a VNI's members",
        query=Window,
        answer=Page[MemberRecord],
    ),
    Route(
        "PUT",
        AT + "/vnis/{name}/members/{node}",
        Caller.OPERATOR,
        put,
        "Make a node a member, with these addresses",
        body=MemberWanted,
        answer=MemberRecord,
        serialized=True,
    ),
    Route(
        "DELETE",
        AT + "/vnis/{name}/members/{node}",
        Caller.OPERATOR,
        remove,
        "Take a node out of a VNI",
        status=204,
        serialized=True,
    ),
)
