"""The consumers of the queues: samples of nodes, the cron's sweep of each tenant, and messages that a queue has given
up.

A message that cannot be parsed is kept as a dead letter and does not delay the others. After an outage the queue
delivers messages again, after a longer wait each time; those that it gives up arrive here from their dead-letter queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from kairos.api.telemetry import Measured
from kairos.audit.event import Event

from .fabric import FabricServices
from .services import queued_events, telemetry
from .services.double_entry import DoubleEntry

TELEMETRY, SWEEPS = "kairos-telemetry", "kairos-sweeps"
EVENTS = "kairos-events"
"""The queue of audit events of earlier releases. Nothing is added to it; what is left in it is still delivered."""

DEAD = "-dead"
"""The name of a dead-letter queue is that of its queue with this suffix."""

_RETRY_S, _RETRY_MAX_S = 30, 3600
T = TypeVar("T")


class Message(Protocol):
    """One message of a queue (https://developers.cloudflare.com/queues/configuration/javascript-apis/#message)."""

    @property
    def body(self) -> object: ...

    @property
    def attempts(self) -> int:
        """How often it was delivered, this time included."""
        ...

    def ack(self) -> None:
        """It is handled."""
        ...

    def retry(self, delay_s: int) -> None:
        """The queue delivers it again, unless it was acknowledged."""
        ...


SweepObject = Callable[[str], Awaitable[bool]]
"""Asks a tenant's object for its housekeeping. True: all events that it took are in segments of its log."""


class Queues:
    """The consumers of all queues of this Worker."""

    def __init__(self, fabric: FabricServices, sweep_object: SweepObject) -> None:
        self._fabric, self._sweep_object = fabric, sweep_object

    async def consume(self, queue: str, messages: Sequence[Message]) -> None:
        """One batch. Each message is acknowledged or given back when this returns."""
        if queue == SWEEPS:
            for message, sweep in await self._parsed(queue, messages, _Sweep, "a sweep"):
                await self._handle(queue, [message], partial(self._sweep, sweep.tenant))
        elif queue == TELEMETRY:
            samples = await self._parsed(queue, messages, Measured, "a sample")
            measured = [each for _, each in samples]
            await self._handle(
                queue, [each for each, _ in samples], lambda: telemetry.keep(self._fabric.platform, measured)
            )
        elif queue == EVENTS:
            queued = await self._parsed(queue, messages, Event, "an audit event")
            events = [each for _, each in queued]
            await self._handle(
                queue, [each for each, _ in queued], lambda: queued_events.keep(self._fabric.store, events)
            )
        else:
            bodies = [message.body for message in messages]
            letters = self._fabric.dead_letters
            await self._handle(
                queue, messages, partial(letters.keep, queue.removesuffix(DEAD), "delivered too often", bodies)
            )

    async def _parsed(
        self, queue: str, messages: Sequence[Message], type_: type[T], name: str
    ) -> list[tuple[Message, T]]:
        """The messages that can be parsed, each with its value. The others become dead letters."""
        parsed: list[tuple[Message, T]] = []
        for message in messages:
            try:
                parsed.append((message, parse(message.body, type_, name)))
            except ValueError as error:
                keep = partial(self._fabric.dead_letters.keep, queue, str(error), [message.body])
                await self._handle(queue, [message], keep)
        return parsed

    async def _handle(self, queue: str, messages: Sequence[Message], run: Callable[[], Awaitable[None]]) -> None:
        """Acknowledges the messages after `run`; if it fails, the queue delivers them again."""
        if not messages:
            return
        try:
            await run()
        except Exception as error:  # any type: it depends on the binding that is out
            print(f"queue {queue}: {type(error).__name__}: {error}")
            for message in messages:
                message.retry(min(_RETRY_S << min(message.attempts - 1, 10), _RETRY_MAX_S))
        else:
            for message in messages:
                message.ack()

    async def _sweep(self, tenant: str) -> None:
        """One tenant: the housekeeping of its object and, once all its events are in segments, the double-entry
        check. A second sweep then copies the findings into the log."""
        if await self._sweep_object(tenant) and await DoubleEntry(self._fabric.platform, tenant).check():
            await self._sweep_object(tenant)


class _Sweep(msgspec.Struct):
    tenant: str


def parse(body: object, type_: type[T], name: str) -> T:
    """The value that a message holds as JSON text. name: what it is, for the error. Raises ValueError."""
    if not isinstance(body, str):
        raise ValueError(f"not {name}: the message is not text")
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"not {name}: {error}") from None
