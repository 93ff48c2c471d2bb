"""What the gateway knows of sessions: pushes early, late, repeated and missing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from kairos.api.push import SessionNotice
from kairos_gateway.sessions import Sessions

NOW = 1_800_000_000


def notice(session: str = "s-1", node: str = "ep-a", life_s: int = 300) -> SessionNotice:
    return SessionNotice(session, node, [7], NOW + life_s)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_a_known_session_of_that_node_is_found() -> None:
    async def story() -> None:
        sessions = Sessions(lambda: NOW)
        sessions.learn(notice())
        found = await sessions.find("s-1", "ep-a")
        assert found is not None
        assert found.expires_at == pytest.approx(asyncio.get_running_loop().time() + 300, abs=1)
        assert await sessions.find("s-1", "ep-thief") is None

    run(story())


def test_a_push_that_hello_overtook_is_waited_for() -> None:
    async def story() -> None:
        sessions = Sessions(lambda: NOW)
        finding = asyncio.create_task(sessions.find("s-1", "ep-a"))
        await asyncio.sleep(0)
        assert not finding.done()
        sessions.learn(notice())
        assert await finding is not None

    run(story())


def test_a_session_that_nobody_announced_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kairos_gateway.sessions._NOTICE_WAIT_S", 0.01)

    async def story() -> None:
        assert await Sessions(lambda: NOW).find("s-1", "ep-a") is None

    run(story())


def test_an_ended_session_counts_no_more() -> None:
    async def story() -> None:
        sessions = Sessions(lambda: NOW)
        sessions.learn(notice(life_s=-1))
        sessions.learn(notice("s-2"))
        assert sessions.of_node("ep-a") is not None
        assert (await sessions.find("s-2", "ep-a")) is not None

    run(story())


def test_the_fabrics_clock_counts_not_ours() -> None:
    """Ours is ten minutes fast: by it every session would have ended."""

    async def story() -> None:
        sessions = Sessions(lambda: NOW + 600)
        sessions.set_time(NOW)
        assert sessions.learn(notice()).expires_at == pytest.approx(asyncio.get_running_loop().time() + 300, abs=1)

    run(story())


def test_a_welcome_ends_what_it_does_not_name() -> None:
    async def story() -> None:
        sessions = Sessions(lambda: NOW)
        sessions.learn(notice("s-1", "ep-a"))
        sessions.learn(notice("s-2", "ep-b"))
        assert sessions.only([notice("s-2", "ep-b"), notice("s-3", "ep-c")]) == {"s-1"}
        assert sessions.of_node("ep-a") is None
        assert sessions.of_node("ep-c") is not None

    run(story())


def test_the_newest_session_of_a_node_speaks_for_it() -> None:
    async def story() -> None:
        sessions = Sessions(lambda: NOW)
        sessions.learn(notice("s-1", life_s=100))
        sessions.learn(notice("s-2", life_s=300))
        found = sessions.of_node("ep-a")
        assert found is not None
        assert found.session == "s-2"

    run(story())
