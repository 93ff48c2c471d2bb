"""Queue messages that could not be handled, kept for the operator to look at."""

from __future__ import annotations

from collections.abc import Sequence

from kairos.api.operations import DeadLetter

from ..ports import Platform
from ..store.dead_letters import DeadLetterStore


class DeadLetters:
    """The dead letters of all queues."""

    def __init__(self, platform: Platform, store: DeadLetterStore) -> None:
        self._platform, self._store = platform, store

    async def keep(self, queue: str, reason: str, bodies: Sequence[object]) -> None:
        """Messages of `queue`, as they came."""
        texts = [_text(body) for body in bodies]
        await self._store.add(queue, reason, texts, int(self._platform.clock()))
        print(f"dead letters: {len(texts)} of {queue}: {reason}")

    async def page(self, before: int, count: int) -> list[DeadLetter]:
        """The newest first, below number `before`."""
        return await self._store.page(before, count)


def _text(body: object) -> str:
    """The body as text. A lone surrogate, which UTF-8 cannot hold, becomes an escape."""
    text = body if isinstance(body, str) else repr(body)
    return text.encode(errors="backslashreplace").decode()
