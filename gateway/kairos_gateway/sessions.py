"""T1 as the gateway knows it: which sessions live, told by the fabric's pushes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kairos.api.push import SessionNotice

_log = logging.getLogger(__name__)
_NOTICE_WAIT_S = 5.0  # Hello may overtake the push


@dataclass(frozen=True, slots=True)
class Session:
    """expires_at: the event loop's time."""

    session: str
    node: str
    vnis: frozenset[int]
    expires_at: float


class Sessions:
    """clock: Unix seconds by this host. The fabric's clock may differ; its Welcome tells by how much."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ahead_s = 0.0  # the fabric's clock against ours
        self._loop = asyncio.get_running_loop()
        self._known: dict[str, Session] = {}
        self._awaited: dict[str, list[asyncio.Future[None]]] = {}

    def set_time(self, fabric_now: float) -> None:
        self._ahead_s = fabric_now - self._clock()

    @property
    def fabric_now(self) -> float:
        """The fabric's clock, as far as we know."""
        return self._clock() + self._ahead_s

    def learn(self, notice: SessionNotice) -> Session:
        """A new session, or a longer life for one."""
        left = notice.expires_at - self.fabric_now
        session = Session(notice.session, notice.node, frozenset(notice.vnis), self._loop.time() + left)
        self._known[session.session] = session
        for waiter in self._awaited.pop(session.session, []):
            if not waiter.done():
                waiter.set_result(None)
        self._forget_ended()
        return session

    def only(self, notices: Iterable[SessionNotice]) -> set[str]:
        """These are all that live, says the fabric; the ids of those that are over."""
        alive = {self.learn(notice).session for notice in notices}
        over = set(self._known) - alive
        for session in over:
            del self._known[session]
        return over

    def forget(self, node: str) -> None:
        """None of its sessions counts any more."""
        self._known = {each: session for each, session in self._known.items() if session.node != node}

    def of_node(self, node: str) -> Session | None:
        """Its newest."""
        mine = [session for session in self._known.values() if session.node == node]
        return max(mine, key=lambda session: session.expires_at, default=None)

    async def find(self, session: str, node: str) -> Session | None:
        """The live session of that id and node; waits for a push that is late."""
        if session not in self._known:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._awaited.setdefault(session, []).append(waiter)
            try:
                async with asyncio.timeout(_NOTICE_WAIT_S):
                    await waiter
            except TimeoutError:
                _log.warning("%s came with session %s, of which the fabric said nothing", node, session[:8])
        found = self._known.get(session)
        alive = found is not None and found.node == node and found.expires_at > self._loop.time()
        return found if alive else None

    def _forget_ended(self) -> None:
        now = self._loop.time()
        self._known = {each: session for each, session in self._known.items() if session.expires_at > now}
        self._awaited = {
            each: live
            for each, waiters in self._awaited.items()
            if (live := [waiter for waiter in waiters if not waiter.done()])
        }
