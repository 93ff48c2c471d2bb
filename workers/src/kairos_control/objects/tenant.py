"""The Tenant Durable Object: one tenant's sessions, nonces and enrollments in its SQLite, its nodes' events sockets, and the one
place where the tenant's records change."""

from __future__ import annotations

from typing import Any

import js
from pyodide.ffi import to_js

from kairos.api.problem import ProblemError
from kairos.wire.websocket import close_code_to_answer
from workers import DurableObject, Response

from .. import app, tenant
from ..adapters.messages import call_of, refusal_of, response_of
from ..adapters.platform import BoundRelay, platform_of
from ..adapters.storage import ObjectStore
from ..http import Call, problem_reply
from ..ports import TenantPlatform
from ..tenant import TenantService

_REPLACED = 4001
_BAD_MESSAGE = 4002
_EVENT_MAX = 64 * 1024


class HibernatingSockets:
    """ctx.getWebSockets by tag: it survives the object's eviction, our memory does not."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx

    def online(self) -> set[str]:
        return {str(self._ctx.getTags(socket)[0]) for socket in self._ctx.getWebSockets() if _is_open(socket)}

    def send(self, node: str, text: str) -> bool:
        sockets = [socket for socket in self._ctx.getWebSockets(node) if _is_open(socket)]
        for socket in sockets:
            socket.send(text)
        return bool(sockets)

    def close(self, node: str, code: int, reason: str) -> None:
        for socket in self._ctx.getWebSockets(node):
            socket.close(code, reason)


def _is_open(socket: Any) -> bool:
    """One that we closed stays listed until its peer has answered, and sending on it raises."""
    return bool(socket.readyState == js.WebSocket.OPEN)


class Tenant(DurableObject):  # type: ignore[misc]
    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self._local = ObjectStore(ctx.storage.sql)
        for statement in tenant.SCHEMA:
            self._local.write(statement)
        self._sockets = HibernatingSockets(ctx)
        self._service: TenantService | None = None

    async def fetch(self, request: Any) -> Any:
        try:
            call = await call_of(request)
        except ProblemError as error:
            return refusal_of(request, error)
        service = self._service_for(app.tenant_of(call.path))
        try:
            if call.path.endswith("/events") and call.headers.get("upgrade", "").lower() == "websocket":
                return await self._open_events(service, call)
            return response_of(await app.answer_tenant(service, call))
        except Exception as error:
            return response_of(app.failure(call, error))

    async def alarm(self, info: Any = None) -> None:
        await self._known().woken()

    async def _wake(self, at: float) -> None:
        await self.ctx.storage.setAlarm(int(at * 1000))

    def webSocketMessage(self, socket: Any, message: Any) -> None:
        node = str(self.ctx.getTags(socket)[0])
        if not isinstance(message, str) or len(message) > _EVENT_MAX or not self._known().received(node, message):
            socket.close(_BAD_MESSAGE, "bad-message")

    def webSocketClose(self, socket: Any, code: int, reason: str, was_clean: bool) -> None:
        socket.close(close_code_to_answer(code), reason)

    def webSocketError(self, socket: Any, error: Any) -> None:
        """The connection broke. The runtime lists the socket no more, and nothing else is kept of it."""

    async def _open_events(self, service: TenantService, call: Call) -> Any:
        try:
            await service.authenticate(tenant.EVENTS, call)
        except ProblemError as error:
            return response_of(problem_reply(error, call.path))
        assert call.device is not None
        node = call.device["node"]
        self._sockets.close(node, _REPLACED, "replaced")  # one a node: the newest
        client, server = js.WebSocketPair.new().object_values()
        self.ctx.acceptWebSocket(server, to_js([node]))
        server.send(await service.welcome(node))
        return Response(None, status=101, web_socket=client)

    def _service_for(self, name: str) -> TenantService:
        if self._service is None:
            base = platform_of(self.env)
            self.ctx.storage.kv.put("tenant", name)
            self._service = TenantService(
                TenantPlatform(
                    **{field: getattr(base, field) for field in base.__slots__},
                    tenant=name,
                    local=self._local,
                    sockets=self._sockets,
                    relay=BoundRelay(self.env.RELAY, base.settings.internal_key),
                    wake=self._wake,
                )
            )
        return self._service

    def _known(self) -> TenantService:
        """After an eviction a socket may speak before any call has named the tenant: it was written down."""
        return self._service or self._service_for(str(self.ctx.storage.kv.get("tenant")))
