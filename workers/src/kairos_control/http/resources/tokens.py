"""Join tokens."""

from __future__ import annotations

from kairos.api.admin import Page, TokenCreate, TokenRecord

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..paging import Window, window
from ..routing import AT, Caller, Route


async def create(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.tokens.create(call.decode(TokenCreate), call.actor), 201)


async def listing(tenant: TenantServices, call: Call) -> Reply:
    view = window(call)
    return view.page(await tenant.tokens.page(view.after, view.fetch), lambda each: each.token_id)


async def show(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.tokens.one(call.parameters["token"]))


async def delete(tenant: TenantServices, call: Call) -> Reply:
    await tenant.tokens.delete(call.parameters["token"], call.actor)
    return reply(None)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/tokens",
        Caller.OPERATOR,
        create,
        "Create a join token",
        body=TokenCreate,
        answer=TokenRecord,
        status=201,
        serialized=True,
    ),
    Route(
        "GET",
        AT + "/tokens",
        Caller.VIEWER,
        listing,
        "List join tokens",
        query=Window,
        answer=Page[TokenRecord],
    ),
    Route("GET", AT + "/tokens/{token}", Caller.VIEWER, show, "One join token", answer=TokenRecord),
    Route(
        "DELETE", AT + "/tokens/{token}", Caller.OPERATOR, delete, "Delete a join token", status=204, serialized=True
    ),
)
