"""Both ends of one channel of a real relay: enrolled nodes with real sessions, and the nodes' own relay link.

Where a node has its data plane, a `Queue` stands here: it makes frames of one size and counts what arrives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from fabric_host import TENANT, FabricHost, Gatekeeper, client_of, default_provider
from kairos.api.session import SessionRequest
from kairos_dataplane import Dataplane
from kairos_node.enrollment import enroll
from kairos_node.relay_link import RelayChannel, RelayLink
from kairos_node.state import Identity, NodeState

_STAMP = 8  # a frame begins with the nanosecond in which it left
_SETTLED_S = 0.3  # without an arrival: nothing is under way any more


class Queue:
    """What a relay link asks of a data plane. frame: payload bytes; left: frames still to send."""

    def __init__(self) -> None:
        self.frame = 0
        self.left = 0
        self.frames = self.bytes = 0
        self.last_at = 0.0
        self.waits_ns: list[int] = []

    def add_relay(self, relay: int) -> None: ...

    def remove_relay(self, relay: int) -> None: ...

    def take_relay_into(self, relay: int, into: memoryview) -> int:
        size = min(self.frame, len(into))
        if self.left <= 0 or size < _STAMP:
            return 0
        self.left -= 1
        into[:_STAMP] = time.monotonic_ns().to_bytes(_STAMP, "big")
        return size

    def put_relay(self, relay: int, datagrams: memoryview) -> None:
        now = time.monotonic_ns()
        self.waits_ns.append(now - int.from_bytes(datagrams[:_STAMP], "big"))
        self.frames += 1
        self.bytes += len(datagrams)
        self.last_at = now / 1e9


class End:
    """One node at the relay."""

    def __init__(self) -> None:
        self.queue = Queue()
        self.channel: asyncio.Future[RelayChannel] = asyncio.get_running_loop().create_future()
        self.link: RelayLink | None = None
        self.lost = ""  # why the channel ended by itself

    async def connect(self, url: str, token: str) -> None:
        self.link = await RelayLink.open(url, token, cast(Dataplane, self.queue), self._accept)

    async def send(self, frame: int, frames: int) -> None:
        """Lets so many frames go, as fast as credit and socket take them."""
        self.queue.frame, self.queue.left = frame, frames
        assert self.link is not None
        self.link.datagrams_waiting((await self.channel).relay)

    def stream_received(self, data: bytes) -> None: ...

    def channel_lost(self, code: str, reason: str) -> None:
        self.lost = f"{code}: {reason}"

    def _accept(self, channel: RelayChannel) -> End:
        self.channel.set_result(channel)
        return self


async def settled(queue: Queue) -> None:
    """Returns when nothing arrives there any more."""
    seen = -1
    while seen != queue.frames:
        seen = queue.frames
        await asyncio.sleep(_SETTLED_S)


async def enrolled(host: FabricHost, folder: Path) -> tuple[Identity, Identity]:
    """A gateway and an endpoint of a new tenant."""
    host.tenant(TENANT)
    gateway = await host.first_gateway(TENANT, NodeState(folder / "gateway"), default_provider())
    token = str(host.token(TENANT, "endpoint"))
    with Gatekeeper(gateway, lambda _: ("allow", "")):
        endpoint = await enroll(token, NodeState(folder / "endpoint"), default_provider(), "bench", lambda *_: None)
    return gateway, endpoint


async def granted(identity: Identity) -> tuple[str, str]:
    """URL and token of a new session at the relay."""
    async with client_of(identity) as client:
        grant = await client.open_session(SessionRequest())
    return grant.gateways[0].relay_url, grant.token


@asynccontextmanager
async def joined(gateway: tuple[str, str], endpoint: tuple[str, str]) -> AsyncIterator[tuple[End, End]]:
    """(endpoint, gateway), with an open channel between them. The arguments are URL and token of each."""
    ends = End(), End()
    try:
        await ends[1].connect(*gateway)
        await ends[0].connect(*endpoint)
        await asyncio.gather(*(end.channel for end in ends))
        yield ends
        for end in ends:
            if end.lost:
                raise RuntimeError(f"the relay closed the channel: {end.lost}")
    finally:
        for end in ends:
            if end.link is not None:
                end.link.close()
