"""What the relay Worker and the fabric's own queues and cron ask of a tenant."""

from __future__ import annotations

from kairos.api.session import Introspected, Introspection
from kairos.audit.event import EventBatch
from kairos.audit.head import Appended
from kairos.constants import BUNDLE_MAX

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..routing import Caller, Route


async def introspect(tenant: TenantServices, call: Call) -> Reply:
    return reply(tenant.sessions.introspect(call.decode(Introspection)))


async def append_batch(tenant: TenantServices, call: Call) -> Reply:
    return await tenant.audit_log.append_batch(call)


async def sweep(tenant: TenantServices, call: Call) -> Reply:
    await tenant.lifecycle.sweep()
    return reply(None)


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
    Route(
        "POST",
        "/internal/audit/{tenant}",
        Caller.INTERNAL,
        append_batch,
        "Events out of the queue, for the log",
        body=EventBatch,
        answer=Appended,
        body_max=BUNDLE_MAX,
    ),
    Route("POST", "/internal/sweep/{tenant}", Caller.INTERNAL, sweep, "Forget what has ended", status=204),
)
