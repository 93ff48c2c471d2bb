"""What comes out of the queues: samples of nodes, the cron's sweeps of each tenant, and messages that a queue has given up.

A message that cannot be understood is put aside as a dead letter and holds up no other. After an outage the queue delivers the others
again, later each time; those that it gives up come here from their dead-letter queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from .fabric import FabricServices
from .services import queued_events, telemetry
from .services.double_entry import DoubleEntry

TELEMETRY, SWEEPS = "kairos-telemetry", "kairos-sweeps"
EVENTS = "kairos-events"
"""A queue of earlier releases; nothing is added to it."""

DEAD = "-dead"
"""What the name of a dead-letter queue ends with, after that of its queue."""

_RETRY_S, _RETRY_MAX_S = 30, 3600
T = TypeVar("T")


class Message(Protocol):
    """One message of a queue (https://developers.cloudflare.com/queues/configuration/javascript-apis/#message)."""

    @property
    def body(self) -> object: ...

    @property
    def attempts(self) -> int:
        """How often it was delivered, with this time."""
        ...

    def ack(self) -> None:
        """It is handled."""
        ...

    def retry(self, delay_s: int) -> None:
        """The queue delivers it again, unless it was acknowledged."""
        ...


SweepObject = Callable[[str], Awaitable[bool]]
"""Asks a tenant's object for its housekeeping. Whether all events that it took are in the log's segments."""


class Queues:
    """The consumers of all queues of this Worker."""

    def __init__(self, fabric: FabricServices, sweep_object: SweepObject) -> None:
        self._fabric, self._sweep_object = fabric, sweep_object

    async def consume(self, queue: str, messages: Sequence[Message]) -> None:
        """One batch. Each message is acknowledged or given back when this returns."""
        if queue == SWEEPS:
            for message, tenant in await self._understood(queue, messages, _tenant):
                await self._handle(queue, [message], partial(self._sweep, tenant))
        elif queue == TELEMETRY:
            samples = await self._understood(queue, messages, telemetry.parse)
            measured = [each for _, each in samples]
            await self._handle(
                queue, [each for each, _ in samples], lambda: telemetry.keep(self._fabric.platform, measured)
            )
        elif queue == EVENTS:
            queued = await self._understood(queue, messages, queued_events.parse)
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

    async def _understood(
        self, queue: str, messages: Sequence[Message], parse: Callable[[object], T]
    ) -> list[tuple[Message, T]]:
        """The messages that can be understood, and what they say. The others are put aside."""
        understood: list[tuple[Message, T]] = []
        for message in messages:
            try:
                understood.append((message, parse(message.body)))
            except ValueError as error:
                put_aside = partial(self._fabric.dead_letters.keep, queue, str(error), [message.body])
                await self._handle(queue, [message], put_aside)
        return understood

    async def _handle(self, queue: str, messages: Sequence[Message], run: Callable[[], Awaitable[None]]) -> None:
        """Acknowledges the messages once `run` has done with them; if it fails, they come again."""
        if not messages:
            return
        try:
            await run()
        except Exception as error:  # any type: whatever a binding makes of an outage
            print(f"queue {queue}: {type(error).__name__}: {error}")
            for message in messages:
                message.retry(min(_RETRY_S << min(message.attempts - 1, 10), _RETRY_MAX_S))
        else:
            for message in messages:
                message.ack()

    async def _sweep(self, tenant: str) -> None:
        """One tenant's: its object's housekeeping and, once all its events are in the log's segments, the comparison of both ends of its
        flows. What that finds is copied into the log at once."""
        if await self._sweep_object(tenant) and await DoubleEntry(self._fabric.platform, tenant).check():
            await self._sweep_object(tenant)


class _Sweep(msgspec.Struct):
    tenant: str


def _tenant(body: object) -> str:
    """Raises ValueError."""
    if not isinstance(body, str):
        raise ValueError("not a sweep: the message is not text")
    try:
        return msgspec.json.decode(body, type=_Sweep).tenant
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"not a sweep: {error}") from None
