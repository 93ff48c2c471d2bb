"""The control plane's Worker: requests go to the tenant's object, events from the queue to the audit, the cron to each tenant."""

from __future__ import annotations

from typing import Any

from kairos.api.problem import ProblemError
from kairos.identity.spiffe import is_name
from kairos_control import app, audit
from kairos_control.adapters.messages import call_of, refusal_of, response_of
from kairos_control.adapters.platform import platform_of
from kairos_control.http import problem_reply
from kairos_control.objects.tenant import Tenant
from kairos_control.problems import problem
from workers import WorkerEntrypoint

__all__ = ["Default", "Tenant"]


class Default(WorkerEntrypoint):  # type: ignore[misc]
    async def fetch(self, request: Any) -> Any:
        path = "/" + request.url.split("?")[0].split("/", 3)[3]
        tenant = app.tenant_of(path)
        if tenant:
            if not is_name(tenant):
                return response_of(problem_reply(problem("not-found", "a tenant is a DNS label"), path))
            return await self.env.TENANT.getByName(tenant).fetch(request)
        try:
            call = await call_of(request)
        except ProblemError as error:
            return refusal_of(request, error)
        try:
            return response_of(await app.answer(platform_of(self.env), call))
        except Exception as error:
            return response_of(app.failure(call, error))

    async def queue(self, batch: Any, env: Any, ctx: Any) -> None:
        messages = list(batch.messages)
        await audit.consume(platform_of(self.env), [message.body for message in messages])
        for message in messages:
            message.ack()

    async def scheduled(self, controller: Any, env: Any, ctx: Any) -> None:
        platform = platform_of(self.env)
        for row in await platform.store.rows("SELECT tenant FROM tenants"):
            await self.env.TENANT.getByName(row["tenant"]).fetch(
                f"http://fabric/internal/sweep/{row['tenant']}",
                method="POST",
                headers={"authorization": f"Bearer {platform.settings.internal_key}"},
            )
