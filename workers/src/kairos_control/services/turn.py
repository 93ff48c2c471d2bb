"""Whose turn it is to change the records of a tenant."""

from __future__ import annotations

import asyncio


class Turn:
    """Calls that change records run one at a time, because D1 is awaited between reading and writing."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.ended = 0
        """How many turns are over. If it has grown since something was read, that may have changed."""

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.ended += 1
        self._lock.release()
