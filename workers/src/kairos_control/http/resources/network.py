"""The network as the asking node may see it."""

from __future__ import annotations

from kairos.api.session import Network

from ...services import network as view
from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def network(tenant: TenantServices, call: Call) -> Reply:
    return await view.show(tenant.platform, call)


ROUTES: tuple[Route[TenantServices], ...] = (
    Route("GET", AT + "/network", Caller.NODE, network, "The network as this node may see it", answer=Network),
)
