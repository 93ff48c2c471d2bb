"""The events socket is tried again with growing pauses, until it has once stayed open for a while."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import pytest

from kairos.api.push import NetworkChanged, ToNode
from kairos_node import events
from kairos_node.backoff import Backoff
from kairos_node.events import EventFeed


class Pauses(Backoff):
    """Ends the test at the fifth pause."""

    def __init__(self) -> None:
        super().__init__(0.001, 1.0, lambda: 0.0)
        self.taken: list[float] = []

    def next(self) -> float:
        if len(self.taken) == 5:
            raise asyncio.CancelledError
        self.taken.append(super().next())
        return self.taken[-1]


class Fabric:
    """Opens the socket or does not; one that is open ends at once."""

    def __init__(self, *, opens: bool) -> None:
        self._opens = opens

    @asynccontextmanager
    async def events(self) -> AsyncIterator[Any]:
        if not self._opens:
            raise ConnectionError("no answer in time")
        yield self

    async def __anext__(self) -> NoReturn:
        raise ConnectionError("the socket ended")


async def handle(push: ToNode) -> None:
    return


def pauses(monkeypatch: pytest.MonkeyPatch, *, opens: bool) -> list[float]:
    """With every life of a socket long enough to be no failure."""
    monkeypatch.setattr(events, "_STEADY_S", -1.0)
    taken = Pauses()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(EventFeed(Fabric(opens=opens), handle, taken).run())  # type: ignore[arg-type]
    return taken.taken


def test_an_attempt_that_opened_nothing_is_a_failure_however_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = pauses(monkeypatch, opens=False)
    assert waits == sorted(set(waits))


def test_a_socket_that_stayed_open_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(pauses(monkeypatch, opens=True))) == 1


def test_a_push_that_the_host_cannot_carry_out_is_a_failure_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pushing(Fabric):
        async def __anext__(self) -> Any:
            return NetworkChanged(1)

    async def on_a_full_disk(push: ToNode) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    taken = Pauses()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(EventFeed(Pushing(opens=True), on_a_full_disk, taken).run())  # type: ignore[arg-type]
    assert len(taken.taken) == 5
