"""The network as the asking node may see it."""

from __future__ import annotations

from kairos.api.session import Network

from ...tenant import TenantServices
from ..call import Call, Reply, reply
from ..routing import AT, Caller, Route


async def show(tenant: TenantServices, call: Call) -> Reply:
    return reply(await tenant.networks.seen_by(call.node))


ROUTES: tuple[Route[TenantServices], ...] = (
    Route("GET", AT + "/network", Caller.NODE, show, "The network as this node may see it", answer=Network),
)
