"""Allows that end at a moment: no flow is missed, and none that is over is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Set

from kairos.policy.input import rfc3339
from kairos_node.flow_endings import FlowEndings


def test_what_is_over_takes_no_room_until_its_moment() -> None:
    async def scenario() -> None:
        endings = FlowEndings(lambda flows: None)
        tonight, tomorrow = rfc3339(time.time() + 36_000), rfc3339(time.time() + 90_000)
        for flow in range(1000):
            endings.add(tonight if flow % 2 else tomorrow, flow)
        endings.forget(set(endings.flows()) - {1, 3, 4})
        assert len(endings) == 3
        endings.forget({4})
        assert len(endings) == 2
        endings.close()
        assert len(endings) == 0

    asyncio.run(scenario())


def test_a_moment_that_has_come_asks_about_its_flows_together() -> None:
    async def scenario() -> list[Set[int]]:
        over: list[Set[int]] = []
        came = asyncio.Event()

        def asked(flows: Set[int]) -> None:
            over.append(flows)
            came.set()

        endings = FlowEndings(asked)
        past, later = rfc3339(time.time() - 5), rfc3339(time.time() + 36_000)
        for flow in (1, 2):
            endings.add(past, flow)
        endings.add(later, 3)
        async with asyncio.timeout(60):
            await came.wait()
        assert len(endings) == 1
        endings.close()
        return over

    assert asyncio.run(scenario()) == [{1, 2}]
