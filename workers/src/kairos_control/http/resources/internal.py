"""What the relay Worker and the fabric's own cron ask of a tenant."""

from __future__ import annotations

from kairos.api.operations import Swept
from kairos.api.session import Introspected, Introspection

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..routing import Caller, Route


async def introspect(tenant: TenantServices, call: Call) -> Reply:
    return reply(tenant.sessions.introspect(call.decode(Introspection)))


async def sweep(tenant: TenantServices, call: Call) -> Reply:
    return reply(Swept(await tenant.lifecycle.sweep()))


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        "/internal/introspect/{tenant}",
        Caller.INTERNAL,
        introspect,
        "T2: whose session token is this?",
        body=Introspection,
        answer=Introspected,
    ),
    Route("POST", "/internal/sweep/{tenant}", Caller.INTERNAL, sweep, "Delete what has ended", answer=Swept),
)
