"""A node's audit by itself, as a process that may be killed or stopped at any moment: the spool that daemons have, and its delivery.

    python event_source.py STATE COUNT

It records COUNT events, then slowly more until STATE/enough is there. Every event that the spool has taken is written down in STATE/taken, by its id, after the spool has: what a test holds the log against.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from fabric_host import client_of, default_provider
from kairos.audit.event import Event
from kairos_node.spool import Spool
from kairos_node.state import NodeState

KIND = "chaos.event"
_PAUSE_S, _SLOW_S = 0.001, 0.25


def enough(state: NodeState) -> Path:
    """Whoever has seen what it wanted makes this file."""
    return state.directory / "enough"


def taken(state: NodeState) -> list[str]:
    """The ids, in the order in which the spool took them. A last line that a kill cut off is none."""
    path = state.directory / "taken"
    return [line for line in path.read_text().split("\n")[:-1] if len(line) == 32] if path.exists() else []


async def run(state: NodeState, count: int) -> None:
    identity, spool = state.identity(default_provider(), time.time()), Spool(state.spool)
    async with client_of(identity) as client:
        delivery = asyncio.create_task(spool.deliver(client))
        with (state.directory / "taken").open("ab", buffering=0) as book:
            left = count - len(taken(state))
            while left > 0 or not enough(state).exists():
                event = Event(os.urandom(16).hex(), time.time(), "", "", KIND)
                spool.record(event)
                book.write(f"{event.id}\n".encode())
                left -= 1
                await asyncio.sleep(_PAUSE_S if left > 0 else _SLOW_S)
        await delivery


if __name__ == "__main__":
    asyncio.run(run(NodeState(Path(sys.argv[1])), int(sys.argv[2])))
