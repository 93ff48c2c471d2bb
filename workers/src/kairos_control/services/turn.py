"""A lock for the calls that change the records of a tenant."""

from __future__ import annotations

import asyncio


class Turn:
    """Calls that change records run one at a time, because each awaits D1 between reading and writing."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.ended = 0
        """How many turns have ended. Records that were read before it grew may have changed."""

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.ended += 1
        self._lock.release()
