"""The control plane's Worker: requests go to the tenant's object, events and samples from their queues to where they are kept, the cron
through a queue to each tenant."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlsplit

from kairos.api.problem import ProblemError
from kairos_control.adapters.messages import call_of, response_of
from kairos_control.adapters.platform import BoundLogs, platform_of, require_database
from kairos_control.adapters.storage import Queue
from kairos_control.fabric import FabricServices
from kairos_control.http import app
from kairos_control.http.call import problem_reply
from kairos_control.objects.tenant import Tenant
from kairos_control.ports import Platform
from kairos_control.services import audit_events, double_entry, telemetry
from kairos_control.services.rate_limits import Limits
from workers import WorkerEntrypoint

__all__ = ["Default", "Tenant"]

_TELEMETRY, _SWEEPS = "kairos-telemetry", "kairos-sweeps"
_limits = Limits(time.time)
_seen: set[str] = set()  # tenants that exist, or did when this isolate asked: their objects know better


async def _exists(fabric: FabricServices, tenant: str) -> bool:
    """Whether there is an object to call: calling one for a made-up name would create it, for good."""
    if tenant not in _seen and await fabric.store.tenants.exists(tenant):
        _seen.add(tenant)
    return tenant in _seen


class Default(WorkerEntrypoint):  # type: ignore[misc]
    async def fetch(self, request: Any) -> Any:
        fabric = FabricServices(platform_of(self.env), _limits)
        tenant = app.tenant_of(urlsplit(request.url).path)
        call, read = call_of(request)
        try:
            await require_database(fabric.platform)
            if tenant and await _exists(fabric, tenant):
                return await self.env.TENANT.getByName(tenant).fetch(request)
            return response_of(await (app.answer_stranger if tenant else app.answer)(fabric, call, read))
        except ProblemError as error:
            return response_of(problem_reply(error, call.path))
        except Exception as error:
            return response_of(app.failure(call, error))

    async def queue(self, batch: Any, env: Any, ctx: Any) -> None:
        messages = list(batch.messages)
        bodies = [message.body for message in messages]
        platform = platform_of(self.env)
        try:
            await require_database(platform)
        except ProblemError as error:
            print(f"queue {batch.queue}: {error}")
            batch.retryAll()
            return
        if batch.queue == _SWEEPS:
            for message in messages:
                await self._sweep(platform, message)
            return
        if batch.queue == _TELEMETRY:
            await telemetry.consume(platform, bodies)
        else:
            await audit_events.consume(platform, BoundLogs(self.env.TENANT, platform.settings.internal_key), bodies)
        for message in messages:
            message.ack()

    async def scheduled(self, controller: Any, env: Any, ctx: Any) -> None:
        """Each tenant's housekeeping is a message of its own: one that fails is tried again and holds up no other, and thousands
        are no single invocation's work."""
        fabric = FabricServices(platform_of(self.env), _limits)
        try:
            await require_database(fabric.platform)
        except ProblemError as error:
            print(f"cron: {error}")
            return
        await fabric.housekeeping.delete_ended()
        await Queue(self.env.SWEEPS).send([{"tenant": tenant} for tenant in await fabric.store.tenants.names()])

    async def _sweep(self, platform: Platform, message: Any) -> None:
        tenant = json.loads(message.body)["tenant"]
        answer = await self.env.TENANT.getByName(tenant).fetch(
            f"http://fabric/internal/sweep/{tenant}",
            method="POST",
            body="{}",  # without one there is no Content-Length, and no body is taken without that
            headers={"authorization": f"Bearer {platform.settings.internal_key}"},
        )
        if answer.status != 204:
            message.retry()
            return
        await double_entry.check(platform, tenant)
        message.ack()
