"""T1 and T7: a node opens, renews and ends its sessions."""

from __future__ import annotations

from kairos.api.session import SessionGrant, SessionRequest

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..routing import AT, Caller, Route


async def open(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.sessions.open(call.node, call.decode(SessionRequest)), 201)


async def end(tenant: TenantServices, call: Call) -> Reply:
    tenant.sessions.end(call.parameters["session"], call.node.node)
    return reply(None)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route(
        "POST",
        AT + "/sessions",
        Caller.NODE,
        open,
        "T1: open or renew a session",
        body=SessionRequest,
        answer=SessionGrant,
        status=201,
    ),
    Route("DELETE", AT + "/sessions/{session}", Caller.NODE, end, "T7: end a session", status=204),
)
