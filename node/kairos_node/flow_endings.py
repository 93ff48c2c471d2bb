"""Allows that end by themselves, at a moment that policy named: which flows have to be asked about again, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from datetime import datetime


def seconds_until(moment: str) -> float:
    """moment: RFC 3339. 0 when it is past."""
    return max(0.0, datetime.fromisoformat(moment).timestamp() - time.time())


@dataclass(slots=True)
class _Ending:
    timer: asyncio.TimerHandle
    flows: set[int] = field(default_factory=set)


class FlowEndings:
    """over: called with the flows whose allow ends at this moment.

    There is one timer for each moment. It is cancelled when `forget` has removed the last flow that waits for it: a grant that ends
    tonight allows many flows that last a second."""

    def __init__(self, over: Callable[[Set[int]], None]) -> None:
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._endings: dict[str, _Ending] = {}

    def __len__(self) -> int:
        return sum(len(ending.flows) for ending in self._endings.values())

    def add(self, moment: str, flow: int) -> None:
        """moment: RFC 3339."""
        if moment not in self._endings:
            self._endings[moment] = _Ending(self._loop.call_later(seconds_until(moment), self._come, moment))
        self._endings[moment].flows.add(flow)

    def flows(self) -> Iterator[int]:
        for ending in self._endings.values():
            yield from ending.flows

    def forget(self, gone: Set[int]) -> None:
        """These flows are over; a moment that waits for no other needs no timer."""
        for moment, ending in list(self._endings.items()):
            ending.flows -= gone
            if not ending.flows:
                del self._endings[moment]
                ending.timer.cancel()

    def close(self) -> None:
        self.forget(set(self.flows()))

    def _come(self, moment: str) -> None:
        self._over(self._endings.pop(moment).flows)
