"""Events of the data plane, handed on in batches."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

from kairos_dataplane import Event, PathMoved
from kairos_dataplane.engine import PathKind
from kairos_node.dataplane_events import DataplaneEvents, Listeners


class Batch:
    """A data plane with one batch of events."""

    def __init__(self, events: list[Event]) -> None:
        self.event_fd, self._written = os.pipe()
        self._batches = [events]
        os.write(self._written, b"1")

    def events(self) -> list[Event]:
        return self._batches.pop() if self._batches else []

    @contextlib.contextmanager
    def corked(self) -> Iterator[None]:
        yield

    def close(self) -> None:
        os.close(self.event_fd)
        os.close(self._written)


def unexpected(*_: Any) -> None:
    raise AssertionError


def test_an_event_that_fails_loses_none_of_its_batch() -> None:
    async def run() -> None:
        moves = [PathMoved(session, PathKind.RELAY, None, session) for session in range(1, 65)]
        dataplane, heard = Batch([*moves]), []
        done = asyncio.get_running_loop().create_future()

        def moved(event: PathMoved) -> None:
            if event.session % 2:
                raise KeyError(event.session)
            heard.append(event.session)
            if event.session == 64:
                done.set_result(None)

        events = DataplaneEvents(
            dataplane,  # type: ignore[arg-type]
            Listeners((), unexpected, unexpected, moved, unexpected, unexpected),
        )
        await asyncio.wait_for(done, 5)
        events.close()
        dataplane.close()
        assert heard == list(range(2, 65, 2))
        assert events.failures == 32

    asyncio.run(run())
