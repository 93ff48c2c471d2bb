"""The EventShard Durable Object: events sockets of some endpoints of a large tenant. Its name is TENANT/NUMBER.

It stores nothing, so it has no schema. Its sockets end when the object gets new code, as those of a Tenant object do.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import msgspec

from kairos.api.problem import ProblemError
from kairos.wire.websocket import close_code_to_answer
from workers import DurableObject

from ..adapters.event_shards import BoundEventHome, decode_deliveries
from ..adapters.messages import response_of
from ..http import app
from ..http.call import Call, problem_reply
from ..services.event_shard import EventShard as Service
from ..services.rate_limits import Limits
from .sockets import BAD_MESSAGE, TRY_AGAIN_LATER, HibernatingSockets, is_readable


class EventShard(DurableObject):  # type: ignore[misc]
    """The Durable Object. Only the entrypoint and the Tenant object of the same Worker can call it."""

    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        tenant, _, number = str(ctx.id.name).partition("/")
        self._call = Call("GET", f"/v1/tenants/{tenant}/events", {})  # as the node has sent it
        self._sockets = HibernatingSockets(ctx)
        self._service = Service(self._sockets, BoundEventHome(env.TENANT, tenant, int(number)), Limits(time.time))

    async def fetch(self, request: Any) -> Any:
        """Opens a socket of the node that the path names. The entrypoint asks for it once the tenant's object has authenticated
        the node."""
        try:
            node = urlsplit(request.url).path.removeprefix("/")
            return self._sockets.open(node, await self._service.welcome(node))
        except ProblemError as error:
            return response_of(problem_reply(error, self._call.path))
        except Exception as error:
            return response_of(app.failure(self._call, error))

    async def deliver(self, deliveries: str) -> None:
        self._service.deliver(decode_deliveries(deliveries))

    async def online(self, nodes: str) -> str:
        return msgspec.json.encode(self._service.online(msgspec.json.decode(nodes, type=list[str]))).decode()

    async def webSocketMessage(self, socket: Any, message: Any) -> None:
        node = self._sockets.node_of(socket)
        try:
            if not is_readable(message) or not await self._service.received(node, message):
                socket.close(BAD_MESSAGE, "bad-message")
        except ProblemError as error:
            socket.close(TRY_AGAIN_LATER, error.code)

    def webSocketClose(self, socket: Any, code: int, reason: str, was_clean: bool) -> None:
        self._sockets.ended(socket)
        socket.close(close_code_to_answer(code), reason)

    def webSocketError(self, socket: Any, error: Any) -> None:
        self._sockets.ended(socket)

    async def alarm(self, info: Any = None) -> None:
        """None is ever set; the runtime asks every object for this handler."""
