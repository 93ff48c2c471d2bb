"""Keeps the events socket open for as long as the daemon lives (docs/protocol.md §8)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from kairos.api.problem import ProblemError
from kairos.api.push import ToFabric, ToNode
from kairos.errors import BadMessage, Refused
from kairos_node.backoff import Backoff
from kairos_node.fabric import Events, FabricClient

_log = logging.getLogger(__name__)
_STEADY_S = 5.0  # a socket that lived this long was no failure
# With these the fabric says that no patience helps: the daemon ends, and its last line tells why.
_FINAL = frozenset({"revoked", "unknown-device", "certificate-expired"})

Handle = Callable[[ToNode], Awaitable[None]]


class EventFeed:
    """Runs until cancelled. `handle` is called with one push after the other; the first after every connect is the
    Welcome, which says what changed while we were away."""

    def __init__(self, client: FabricClient, handle: Handle, backoff: Backoff | None = None) -> None:
        self._client = client
        self._handle = handle
        self._backoff = backoff or Backoff()
        self._open: Events | None = None
        self.refusal = ""  # code of the problem that the fabric had with our last attempt

    @property
    def connected(self) -> bool:
        return self._open is not None

    async def send(self, message: ToFabric) -> None:
        """Raises ConnectionError when there is no socket: the fabric asks again, or times out."""
        if self._open is None:
            raise ConnectionError("events: not connected")
        await self._open.send(message)

    async def run(self) -> None:
        """Raises Refused when the fabric will not have this node any more."""
        while True:
            try:
                await self._follow()
            except (
                OSError,
                ProblemError,
            ) as error:  # also what the host refuses to a push: the next Welcome repeats it
                self.refusal = error.code if isinstance(error, ProblemError) else ""
                if isinstance(error, ProblemError) and error.code in _FINAL:
                    raise Refused(error.code, str(error)) from None
                wait = self._backoff.next()
                _log.warning("%s; again in %.1f s", error, wait)
                await asyncio.sleep(wait)

    async def _follow(self) -> None:
        async with self._client.events() as events:
            self._open, self.refusal = events, ""
            began = asyncio.get_running_loop().time()
            try:
                while True:
                    push = await self._next(events)
                    if push is not None:
                        await self._handle(push)
            finally:
                self._open = None
                if asyncio.get_running_loop().time() - began > _STEADY_S:
                    self._backoff.reset()

    async def _next(self, events: Events) -> ToNode | None:
        """A push we do not understand is dropped: a newer fabric may send kinds that we do not know."""
        try:
            return await anext(events)
        except BadMessage as error:
            _log.warning("%s", error)
            return None
