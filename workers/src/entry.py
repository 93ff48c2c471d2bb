"""The control plane's Worker: the entrypoint of requests, queues and the cron.

A request for a tenant goes to the tenant's Durable Object. The entrypoint answers the others, writes samples from their
queue to D1, and turns each run of the cron into one queue message for each tenant.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

import msgspec

from kairos.api.operations import Swept
from kairos.api.problem import ProblemError
from kairos_control.adapters.event_shards import SHARD_HEADER, shard_name
from kairos_control.adapters.messages import QueueMessage, call_of, response_of
from kairos_control.adapters.platform import platform_of, require_database
from kairos_control.fabric import FabricServices
from kairos_control.http import app
from kairos_control.http.authentication import limit_source
from kairos_control.http.call import Call, problem_reply
from kairos_control.objects.event_shard import EventShard
from kairos_control.objects.tenant import Tenant
from kairos_control.queues import Queues
from kairos_control.services.rate_limits import Limits
from workers import WorkerEntrypoint

__all__ = ["Default", "EventShard", "Tenant"]

_RETRY_S = 60
_limits = Limits(time.time)
_seen: set[str] = set()  # tenants that existed when this isolate asked; the object checks again


async def _exists(fabric: FabricServices, tenant: str) -> bool:
    """Whether the tenant exists. A call for any other name must not reach an object, because that would create one."""
    if tenant not in _seen and await fabric.store.tenants.exists(tenant):
        _seen.add(tenant)
    return tenant in _seen


class Default(WorkerEntrypoint):  # type: ignore[misc]
    """The Worker's three events: a request, a batch of a queue, and the cron."""

    async def fetch(self, request: Any) -> Any:
        fabric = FabricServices(platform_of(self.env), _limits)
        tenant = app.tenant_of(urlsplit(request.url).path)
        call, read = call_of(request)
        try:
            limit_source(fabric, call)
            await require_database(fabric.platform)
            if tenant and await _exists(fabric, tenant):
                return await self._of_tenant(tenant, request, call)
            return response_of(await (app.answer_stranger if tenant else app.answer)(fabric, call, read))
        except ProblemError as error:
            return response_of(problem_reply(error, call.path))
        except Exception as error:
            return response_of(app.failure(call, error))

    async def _of_tenant(self, tenant: str, request: Any, call: Call) -> Any:
        """The answer of the tenant's object or, for an events socket that belongs elsewhere, that of the event shard. The socket
        does not pass through the tenant's object."""
        answer = await self.env.TENANT.getByName(tenant).fetch(request)
        place = answer.headers.get(SHARD_HEADER) if call.path.endswith("/events") else None
        if not place:
            return answer
        shard, _, node = place.partition("/")
        stub = self.env.EVENT_SHARD.getByName(shard_name(tenant, shard))
        return await stub.fetch(f"http://fabric/{node}", headers={"upgrade": "websocket"})

    async def queue(self, batch: Any, env: Any, ctx: Any) -> None:
        fabric, messages = (
            FabricServices(platform_of(self.env), _limits),
            [QueueMessage(each) for each in batch.messages],
        )
        try:
            await require_database(fabric.platform)
        except ProblemError as error:
            print(f"queue {batch.queue}: {error}")
            for message in messages:
                message.retry(_RETRY_S)
            return
        await Queues(fabric, self._sweep_object).consume(batch.queue, messages)

    async def scheduled(self, controller: Any, env: Any, ctx: Any) -> None:
        """The cron. Each tenant's housekeeping is a queue message of its own: one that fails is retried without
        delaying the others, and no invocation has to work for thousands of tenants."""
        fabric = FabricServices(platform_of(self.env), _limits)
        try:
            await require_database(fabric.platform)
        except ProblemError as error:
            print(f"cron: {error}")
            return
        await fabric.housekeeping.delete_ended()
        await fabric.platform.sweeps.send([{"tenant": tenant} for tenant in await fabric.store.tenants.names()])

    async def _sweep_object(self, tenant: str) -> bool:
        """queues.SweepObject. Raises RuntimeError if a part of the sweep failed."""
        answer = await self.env.TENANT.getByName(tenant).fetch(
            f"http://fabric/internal/sweep/{tenant}",
            method="POST",
            body="{}",  # without a body there is no Content-Length, and the control plane requires one
            headers={"authorization": f"Bearer {platform_of(self.env).settings.internal_key}"},
        )
        text = await answer.text()
        if answer.status != 200:
            raise RuntimeError(f"the object of {tenant} answered {answer.status}")
        return msgspec.json.decode(text, type=Swept).complete
