"""The Tenant Durable Object: one tenant's sessions, nonces and enrollments in its SQLite, its nodes' events sockets,
and the one place where the tenant's records change."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from kairos.api.problem import ProblemError
from kairos.wire.websocket import close_code_to_answer
from workers import DurableObject, Response

from ..adapters.event_shards import SHARD_HEADER, BoundEventShards, encode_welcome
from ..adapters.messages import call_of, response_of
from ..adapters.platform import BoundRelay, platform_of, require_database
from ..adapters.storage import ObjectDatabase
from ..http import app, refusals
from ..http.authentication import authenticate
from ..http.call import Call, problem_reply
from ..http.resources.events import SOCKET
from ..ports import TenantPlatform
from ..store import object_schema
from ..tenant import TenantServices
from .sockets import BAD_MESSAGE, TRY_AGAIN_LATER, HibernatingSockets, is_readable


class Tenant(DurableObject):  # type: ignore[misc]
    """The Durable Object. It hands requests to `http`, and its alarm and its sockets to the services."""

    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self._local = ObjectDatabase(ctx.storage)
        self._sockets = HibernatingSockets(ctx)
        self._service: TenantServices | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself holds a task only weakly

    async def fetch(self, request: Any) -> Any:
        call, read = call_of(request)
        try:
            service = await self._checked_service(app.tenant_of(call.path))
            if call.path.endswith("/events") and call.headers.get("upgrade", "").lower() == "websocket":
                return await self._open_events(service, call)
            return response_of(await app.answer_tenant(service, call, read))
        except ProblemError as error:
            return response_of(problem_reply(error, call.path))
        except Exception as error:
            return response_of(app.failure(call, error))

    async def alarm(self, info: Any = None) -> None:
        try:
            service = await self._checked_service(self._name())
        except ProblemError as error:
            print(f"alarm: {error}")  # the next sweep does this work once the schema fits the code
            return
        await service.lifecycle.alarm()

    async def _wake(self, at: float) -> None:
        """Sets the alarm, unless an earlier one is set: an object has one."""
        set_for = await self.ctx.storage.getAlarm()
        if set_for is None or int(at * 1000) < int(set_for):
            await self.ctx.storage.setAlarm(int(at * 1000))

    def webSocketMessage(self, socket: Any, message: Any) -> None:
        node = self._sockets.node_of(socket)
        try:
            service = self._service_for(self._name())
        except ProblemError as error:
            socket.close(TRY_AGAIN_LATER, error.code)
            return
        if not is_readable(message) or not service.node_events.received(node, message):
            socket.close(BAD_MESSAGE, "bad-message")

    def webSocketClose(self, socket: Any, code: int, reason: str, was_clean: bool) -> None:
        self._sockets.ended(socket)
        socket.close(close_code_to_answer(code), reason)

    def webSocketError(self, socket: Any, error: Any) -> None:
        self._sockets.ended(socket)

    async def _open_events(self, service: TenantServices, call: Call) -> Any:
        try:
            service.limits.take_source(call.source)
            await authenticate(service, SOCKET, call)
            node = call.node.node
            await service.journal.flush()  # before the welcome: from there to the open socket nothing awaits
            shard = service.event_sockets.shard_of(node)
            if shard is not None:
                return Response(None, status=204, headers={SHARD_HEADER: f"{shard}/{node}"})
            welcome = await service.node_events.welcome(node)
        except ProblemError as error:
            refusals.record(service, call, error)
            await service.journal.flush()
            return response_of(problem_reply(error, call.path))
        return self._sockets.open(node, [welcome])

    async def welcome(self, node: str, shard: int) -> str:
        """Called by an event shard that is about to open a socket of the node, which this object has authenticated."""
        try:
            service = await self._checked_service(self._name())
            return encode_welcome(await service.node_events.welcome(node, shard))
        except ProblemError as error:
            return encode_welcome(error)

    async def received(self, node: str, text: str) -> bool:
        """Called by an event shard with a message of a node."""
        service = await self._checked_service(self._name())
        return service.node_events.received(node, text)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """The runtime keeps the object in memory while a call or timer of it is pending
        (https://developers.cloudflare.com/changelog/post/2026-10-01-pending-io-keep-alive/)."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _checked_service(self, name: str) -> TenantServices:
        """Raises a ProblemError while a schema does not fit the code."""
        await require_database(platform_of(self.env))
        return self._service_for(name)

    def _service_for(self, name: str) -> TenantServices:
        """Raises a ProblemError if the object's schema is newer than the code; then it has written nothing."""
        if self._service is None:
            base = platform_of(self.env)
            object_schema.migrate(self._local)
            self.ctx.storage.kv.put("tenant", name)
            self._service = TenantServices(
                TenantPlatform(
                    **{field: getattr(base, field) for field in base.__slots__},
                    tenant=name,
                    local=self._local,
                    sockets=self._sockets,
                    event_shards=BoundEventShards(self.env.EVENT_SHARD, name),
                    relay=BoundRelay(self.env.RELAY, base.settings.cut_key),
                    wake=self._wake,
                    background=self._in_background,
                )
            )
        return self._service

    def _name(self) -> str:
        """The tenant's name. It is stored because after an eviction a message on a socket may come before any call
        that names the tenant."""
        return str(self.ctx.storage.kv.get("tenant"))
