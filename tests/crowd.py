"""Many endpoints in one process, without tunnels: each is enrolled, holds its events socket and a session, and records audit events.

    python crowd.py FOLDER COUNT TOKEN

A line `status` is answered by a line of JSON, and so is `renew`, after every session was renewed. At the end of standard input each
endpoint delivers what it has recorded, and the process ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from fabric_host import client_of, default_provider
from kairos.api.problem import ProblemError
from kairos.api.push import ToNode
from kairos.api.session import SessionRequest
from kairos.audit.event import Event
from kairos_node.backoff import Backoff
from kairos_node.enrollment import enroll
from kairos_node.events import EventFeed
from kairos_node.spool import Spool
from kairos_node.state import NodeState

KIND = "crowd.event"
_EVENT_EVERY_S = 20.0
_TRY_AGAIN_S = 0.5
_JOIN_AT_ONCE = 2


class Patience(Backoff):
    """The pauses of a member never become short again: all members together must not keep a fabric that has just started from answering."""

    def reset(self) -> None:
        return


class Member:
    """One endpoint."""

    def __init__(self, state: NodeState, number: int) -> None:
        self._state, self._number = state, number
        self._spool = Spool(state.spool)
        self._posture = {"os": {"name": "Linux"}, "member": number}
        self.taken: list[str] = []
        """Ids of the events that the spool took."""
        self.session = ""
        self.renewals = 0
        self.endings = 0
        """Sessions that ended because they could not be renewed in time."""
        self._expires_at = 0.0
        self._wanted, self._renewed = asyncio.Event(), asyncio.Event()
        self._stop = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._feed.connected

    async def join(self, token: str, turn: asyncio.Semaphore) -> asyncio.Task[None]:
        """Returns its life, which has begun: the others do not wait for each other, and so do not connect all at once."""
        async with turn:
            provider = default_provider()
            self._identity = await enroll(token, self._state, provider, f"member{self._number}", lambda *_: None)
        self._client = client_of(self._identity)
        self._feed = EventFeed(self._client, self._pushed, Patience())
        return asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._client:
            feed = asyncio.create_task(self._feed.run())
            others = [asyncio.create_task(each) for each in (self._record(), self._hold_session())]
            delivery = asyncio.create_task(self._spool.deliver(self._client))
            await self._stop.wait()
            for task in others:
                task.cancel()
            delivery.cancel()
            await asyncio.gather(delivery, *others, return_exceptions=True)
            await self._deliver_the_rest()
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)

    def stop(self) -> None:
        self._stop.set()

    async def renewed(self) -> None:
        """Renews the session now."""
        self._renewed.clear()
        self._wanted.set()
        await self._renewed.wait()

    async def _deliver_the_rest(self) -> None:
        while True:
            try:
                await self._spool.drain(self._client)
            except (ConnectionError, ProblemError):
                await asyncio.sleep(_TRY_AGAIN_S)
            else:
                return

    async def _record(self) -> None:
        while True:
            event = Event(os.urandom(16).hex(), time.time(), "", "", KIND)
            self._spool.record(event)
            self.taken.append(event.id)
            await asyncio.sleep(_EVENT_EVERY_S)

    async def _hold_session(self) -> None:
        backoff = Backoff()
        while True:
            if self.session and time.time() > self._expires_at:
                self.endings += 1
                self.session = ""
            try:
                grant = await self._client.open_session(SessionRequest(self._posture, self.session))
            except (ConnectionError, ProblemError):
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            if self.session:
                self.renewals += 1
                self._renewed.set()
            self.session, self._expires_at = grant.session, grant.expires_at
            self._wanted.clear()
            try:
                await asyncio.wait_for(self._wanted.wait(), grant.renew_at_s)
            except TimeoutError:
                continue

    async def _pushed(self, push: ToNode) -> None:
        return


async def main(folder: Path, count: int, token: str) -> None:
    turn = asyncio.Semaphore(_JOIN_AT_ONCE)
    members = [Member(NodeState(folder / str(number)), number) for number in range(count)]
    running = await asyncio.gather(*(member.join(token, turn) for member in members))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while command := (await reader.readline()).strip():
        if command == b"renew":
            await asyncio.gather(*(member.renewed() for member in members))
        print(json.dumps(status(members)), flush=True)
    for member in members:
        member.stop()
    await asyncio.gather(*running)
    print(json.dumps(status(members)), flush=True)


def status(members: list[Member]) -> dict[str, Any]:
    return {
        "connected": sum(member.connected for member in members),
        "sessions": [member.session for member in members],
        "renewals": sum(member.renewals for member in members),
        "endings": sum(member.endings for member in members),
        "taken": [each for member in members for each in member.taken],
    }


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
