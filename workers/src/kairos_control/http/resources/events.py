"""The events socket of a node: pushes of what has changed."""

from __future__ import annotations

from ...problems import problem
from ...tenant import TenantServices
from ..call import Call, Reply
from ..routing import AT, Caller, Route


async def socket(tenant: TenantServices, call: Call) -> Reply:
    """Only reached without an upgrade: the object accepts the WebSocket before it asks for a reply."""
    raise problem("upgrade-required", "open this as a WebSocket")


SOCKET: Route[TenantServices] = Route("GET", AT + "/events", Caller.NODE, socket, "WebSocket of pushes", status=101)
ROUTES = (SOCKET,)
