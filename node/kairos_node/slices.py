"""Work on all of a great many flows, in slices between which the event loop does its other work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

_SLICE_S = 0.001
_FIRST_STEPS = 16  # are done at once: many nodes have no more
_DONE = object()


class Slices:
    """Each work is an iterator; from one of its values to the next is a step, which must be short."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._works: dict[str, Iterator[None]] = {}
        self._again: dict[str, Callable[[], Iterator[None]]] = {}
        self._next: asyncio.Handle | None = None

    def start(self, name: str, work: Callable[[], Iterator[None]]) -> None:
        """The first steps are done when this returns. While a work of that name is under way, the new one is begun after it: what
        was done before may be out of date."""
        if name in self._works:
            self._again[name] = work
            return
        self._works[name] = steps = work()
        for _ in range(_FIRST_STEPS):
            if not self._step(name, steps):
                return
        self._go_on()

    def close(self) -> None:
        self._works.clear()
        self._again.clear()
        if self._next is not None:
            self._next.cancel()

    def _step(self, name: str, steps: Iterator[None]) -> bool:
        """False: it was the last."""
        done = True
        try:
            done = next(steps, _DONE) is _DONE
        finally:  # an error ends it as well
            if done:
                del self._works[name]
        if done and name in self._again:
            self.start(name, self._again.pop(name))
        return not done

    def _go_on(self) -> None:
        if self._next is None:
            self._next = self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        self._next = None
        until = self._loop.time() + _SLICE_S
        try:
            while self._works and self._loop.time() < until:
                name, steps = next(iter(self._works.items()))
                self._step(name, steps)
        finally:
            if self._works:
                self._go_on()
