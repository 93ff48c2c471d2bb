"""The gateway's one relay socket."""

from __future__ import annotations

import asyncio

from kairos.api.session import SessionGrant, SessionRequest
from kairos_dataplane.pure.engine import PureEngine
from kairos_gateway.mux import Mux
from kairos_node.relay_link import RelayChannel


class Fabric:
    """Grants sessions at no gateway's relay."""

    def __init__(self) -> None:
        self.asked = 0
        self.asked_twice = asyncio.Event()

    async def open_session(self, request: SessionRequest) -> SessionGrant:
        self.asked += 1
        if self.asked == 2:
            self.asked_twice.set()
        return SessionGrant("s-1", "token", 0, [], [], 0)


def refuse(channel: RelayChannel) -> RelayChannel:
    raise AssertionError(channel)


def test_a_grant_without_a_relay_is_asked_for_again() -> None:
    async def run() -> None:
        fabric = Fabric()
        mux = Mux(fabric, PureEngine(), [], refuse)  # type: ignore[arg-type]
        task = asyncio.ensure_future(mux.run())
        asked = asyncio.ensure_future(fabric.asked_twice.wait())
        await asyncio.wait([task, asked], timeout=10, return_when=asyncio.FIRST_COMPLETED)
        assert asked.done()
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
