"""Join tokens."""

from __future__ import annotations

from kairos.api.admin import Page, TokenCreate, TokenRecord

from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def create_token(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.registry.create_token(call)


async def list_tokens(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.registry.list_tokens(call)


async def show_token(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.registry.show_token(call)


async def delete_token(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.registry.delete_token(call)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/tokens",
        Caller.OPERATOR,
        create_token,
        "Create a join token",
        body=TokenCreate,
        answer=TokenRecord,
        status=201,
        serialized=True,
    ),
    Route("GET", AT + "/tokens", Caller.VIEWER, list_tokens, "List join tokens", answer=Page),
    Route("GET", AT + "/tokens/{token}", Caller.VIEWER, show_token, "One join token", answer=TokenRecord),
    Route(
        "DELETE",
        AT + "/tokens/{token}",
        Caller.OPERATOR,
        delete_token,
        "Delete a join token",
        status=204,
        serialized=True,
    ),
)
