"""The control plane's Worker: requests go to the tenant's object, samples from their queue to where they are kept, the cron through a
queue to each tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from kairos.api.operations import Swept
from kairos.api.problem import ProblemError
from kairos_control.adapters.messages import call_of, response_of
from kairos_control.adapters.platform import platform_of, require_database
from kairos_control.fabric import FabricServices
from kairos_control.http import app
from kairos_control.http.call import problem_reply
from kairos_control.objects.tenant import Tenant
from kairos_control.services import queued_events, telemetry
from kairos_control.services.double_entry import DoubleEntry
from workers import WorkerEntrypoint

__all__ = ["Default", "Tenant"]

_RETRY_S = 30  # and twice as long each time: what a queue waits after an outage of the database or an object
_RETRY_MAX_S = 3600
_seen: set[str] = set()  # tenants that exist, or did when this isolate asked: their objects know better


async def _exists(fabric: FabricServices, tenant: str) -> bool:
    """Whether there is an object to call: calling one for a made-up name would create it, for good."""
    if tenant not in _seen and await fabric.store.tenants.exists(tenant):
        _seen.add(tenant)
    return tenant in _seen


class Default(WorkerEntrypoint):  # type: ignore[misc]
    async def fetch(self, request: Any) -> Any:
        fabric = FabricServices(platform_of(self.env))
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
        """A message that cannot be understood is put aside as a dead letter and holds up no other; after an outage the queue delivers the
        others again, later each time. One that the queue gives up comes from its dead-letter queue."""
        fabric, messages = FabricServices(platform_of(self.env)), list(batch.messages)
        try:
            await require_database(fabric.platform)
            if batch.queue == "kairos-sweeps":
                for message in messages:
                    await self._sweep(fabric, message)
            elif batch.queue == "kairos-telemetry":
                understood, values = await _understood(fabric, batch.queue, messages, telemetry.parse)
                await telemetry.keep(fabric.platform, values)
                _ack(understood)
            elif batch.queue == "kairos-events":
                understood, values = await _understood(fabric, batch.queue, messages, queued_events.parse)
                await queued_events.keep(fabric.store, values)
                _ack(understood)
            else:
                await fabric.dead_letters.keep(batch.queue, "delivered too often", [each.body for each in messages])
                _ack(messages)
        except Exception as error:  # any type: whatever the bridge makes of an outage
            print(f"queue {batch.queue}: {type(error).__name__}: {error}")
            for message in messages:
                _retry(message)  # not those that were acknowledged

    async def scheduled(self, controller: Any, env: Any, ctx: Any) -> None:
        """Each tenant's housekeeping is a message of its own: one that fails is tried again and holds up no other, and thousands
        are no single invocation's work."""
        fabric = FabricServices(platform_of(self.env))
        try:
            await require_database(fabric.platform)
        except ProblemError as error:
            print(f"cron: {error}")
            return
        await fabric.housekeeping.delete_ended()
        await fabric.platform.sweeps.send([{"tenant": tenant} for tenant in await fabric.store.tenants.names()])

    async def _sweep(self, fabric: FabricServices, message: Any) -> None:
        """One tenant's: its object's housekeeping and, once all its events are in the log's segments, the comparison of both ends of its
        flows. Its findings are then copied at once."""
        try:
            tenant = str(msgspec.json.decode(message.body)["tenant"])
        except (msgspec.MsgspecError, TypeError, KeyError, ValueError) as error:
            await fabric.dead_letters.keep("kairos-sweeps", f"not a sweep: {error}", [message.body])
            message.ack()
            return
        try:
            if await self._sweep_object(fabric, tenant) and await DoubleEntry(fabric.platform, tenant).check():
                await self._sweep_object(fabric, tenant)
        except Exception as error:  # any type: whatever the bridge makes of an outage
            print(f"sweep of {tenant}: {type(error).__name__}: {error}")
            _retry(message)
            return
        message.ack()

    async def _sweep_object(self, fabric: FabricServices, tenant: str) -> bool:
        """Whether all events that the object took are in the log's segments. Raises RuntimeError if a part of the sweep failed."""
        answer = await self.env.TENANT.getByName(tenant).fetch(
            f"http://fabric/internal/sweep/{tenant}",
            method="POST",
            body="{}",  # without one there is no Content-Length, and no body is taken without that
            headers={"authorization": f"Bearer {fabric.platform.settings.internal_key}"},
        )
        text = await answer.text()
        if answer.status != 200:
            raise RuntimeError(f"its object answered {answer.status}")
        return msgspec.json.decode(text, type=Swept).complete


async def _understood(
    fabric: FabricServices, queue: str, messages: Sequence[Any], parse: Any
) -> tuple[list[Any], list[Any]]:
    """The messages that can be understood, and what they say. The others are put aside and acknowledged."""
    understood, values = [], []
    for message in messages:
        try:
            values.append(parse(message.body))
        except ValueError as error:
            await fabric.dead_letters.keep(queue, str(error), [message.body])
            message.ack()
        else:
            understood.append(message)
    return understood, values


def _ack(messages: Sequence[Any]) -> None:
    for message in messages:
        message.ack()


def _retry(message: Any) -> None:
    attempts = int(getattr(message, "attempts", 1))
    message.retry(delaySeconds=min(_RETRY_S << min(attempts - 1, 10), _RETRY_MAX_S))
