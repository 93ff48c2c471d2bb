"""Long work in slices: others get their turns, a second start begins anew afterwards, an error ends one work alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

from kairos_node.slices import Slices

STEPS = 50_000


def counting(done: list[int]) -> Iterator[None]:
    for number in range(STEPS):
        done.append(number)
        yield


async def until(done: list[int], count: int) -> int:
    """Returns how often others got a turn meanwhile."""
    turns = 0
    while len(done) < count:
        await asyncio.sleep(0)
        turns += 1
    return turns


def test_others_get_their_turns_and_what_is_short_is_done_at_once() -> None:
    async def scenario() -> None:
        slices = Slices(asyncio.get_running_loop())
        short: list[int] = []
        slices.start("short", lambda: itertools.islice(counting(short), 5))
        assert short == list(range(5))
        done: list[int] = []
        slices.start("long", lambda: counting(done))
        assert 0 < len(done) < STEPS
        assert await until(done, STEPS) > 2

    asyncio.run(scenario())


def test_what_is_started_during_its_own_work_is_done_once_more() -> None:
    async def scenario() -> None:
        slices = Slices(asyncio.get_running_loop())
        done: list[int] = []
        for _ in range(3):
            slices.start("judge", lambda: counting(done))
        await until(done, 2 * STEPS)
        await asyncio.sleep(0)
        assert len(done) == 2 * STEPS

    asyncio.run(scenario())


def test_an_error_ends_its_own_work_and_no_other() -> None:
    def failing() -> Iterator[None]:
        yield from counting([])
        raise RuntimeError("a defect")

    async def scenario() -> list[str]:
        errors: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(str(context["exception"])))
        slices = Slices(loop)
        slices.start("failing", failing)
        done: list[int] = []
        slices.start("other", lambda: counting(done))
        await until(done, STEPS)
        slices.start("failing", lambda: iter([None]))
        return errors

    assert asyncio.run(scenario()) == ["a defect"]


def test_nothing_goes_on_after_the_close() -> None:
    async def scenario() -> None:
        slices = Slices(asyncio.get_running_loop())
        done: list[int] = []
        slices.start("long", lambda: counting(done))
        slices.close()
        before = len(done)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(done) == before

    asyncio.run(scenario())
