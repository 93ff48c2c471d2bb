"""The events sockets of a tenant's nodes, wherever they are (docs/design/0032-event-shards.md).

The tenant's object holds the sockets of gateways, and those of endpoints while the tenant is small. The endpoints of a large
tenant are spread over further objects, its event shards, by a hash of the node id. Other services push to nodes and do not know
where their sockets are.

Each shard has an outbox in memory, so that a shard that is slow or away does not delay the others. When pushes may have been lost
(the shard did not answer, too many waited, the tenant's object was started anew, the number of shards was changed), the shard is
told to close all its sockets. Their nodes connect again, and the welcome tells them everything.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from kairos.identity.spiffe import is_gateway

from ..ports import Delivery, TenantPlatform
from ..store.event_shards import EventShardStore

SHARDS_MAX = 64
"""Of one tenant. A push to all nodes is so many calls at most."""
WAITING_MAX = 4_000_000
"""Characters that wait for one shard: about a hundred pushes that each name all its nodes."""
RECONNECT = 1012
"""The close code "service restart" (https://www.iana.org/assignments/websocket): the node connects again."""
_REASON = "reconnect"
_RETRY_FIRST_S, _RETRY_MAX_S = 0.1, 30.0
_ANSWER_S = 2.0  # how long a listing waits for a shard
_NODE_CHARACTERS = 24  # of a node id in a delivery


@dataclass(slots=True)
class _Outbox:
    """What is to be delivered to one shard."""

    waiting: list[Delivery] = field(default_factory=list)
    """Oldest first."""
    size: int = 0
    """Characters of what waits."""
    reset: bool = False
    """All its sockets are to be closed. This makes up for whatever was to be delivered before."""
    busy: bool = False
    """A task is delivering."""


class EventSockets:
    """Sends to, closes and lists the events sockets of one tenant's nodes."""

    def __init__(self, platform: TenantPlatform, store: EventShardStore) -> None:
        """For an object that was just started: it does not know what the nodes at its shards were told."""
        self._platform, self._store = platform, store
        self._count, self._in_use = store.get()
        self._outboxes: dict[int, _Outbox] = defaultdict(_Outbox)
        self._reset()

    def shard_of(self, node: str) -> int | None:
        """The shard where this node's socket belongs; None: the tenant's own object."""
        if not self._count or is_gateway(node):
            return None
        return zlib.crc32(node.encode()) % self._count

    def spread_for(self, endpoints: int) -> None:
        """Chooses the number of shards for so many endpoints. If it changes, all endpoints connect again."""
        count = shard_count(endpoints, self._count, self._platform.settings.object_sockets)
        if count == self._count:
            return
        self._count, self._in_use = count, max(count, self._in_use)
        self._store.set(self._count, self._in_use)
        for node in self._platform.sockets.online():
            if not is_gateway(node):
                self._platform.sockets.close(node, RECONNECT, _REASON)
        self._reset()

    def send_all(self, text: str) -> None:
        for node in self._platform.sockets.online():
            self._platform.sockets.send(node, text)
        for shard in range(self._count):
            self._deliver(shard, Delivery(text=text))

    def send(self, nodes: Iterable[str], text: str) -> None:
        """To those of these nodes that are connected."""
        here, at_shards = self._by_place(nodes)
        for node in here:
            self._platform.sockets.send(node, text)
        for shard, there in at_shards.items():
            self._deliver(shard, Delivery(there, text))

    def close(self, node: str, code: int, reason: str) -> None:
        """After what was sent to the node before."""
        self._platform.sockets.close(node, code, reason)
        shard = self.shard_of(node)
        if shard is not None:
            self._deliver(shard, Delivery([node], code=code, reason=reason))

    def close_all(self, code: int, reason: str) -> None:
        for node in self._platform.sockets.online():
            self._platform.sockets.close(node, code, reason)
        for shard in range(self._count):
            self._deliver(shard, Delivery(code=code, reason=reason))

    async def online(self, nodes: Collection[str]) -> set[str]:
        """Those of these nodes that are connected. A shard that does not answer soon counts as having none."""
        here, at_shards = self._by_place(nodes)
        found = await asyncio.gather(*(self._online(shard, there) for shard, there in at_shards.items()))
        return set[str]().union(filter(self._platform.sockets.is_online, here), *found)

    async def _online(self, shard: int, nodes: list[str]) -> set[str]:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._platform.event_shards.online(shard, nodes)
        except Exception as error:  # any type: it depends on the bridge to JavaScript
            print(f"event shard {self._platform.tenant}/{shard}: {type(error).__name__}: {error}")
            return set()

    def _by_place(self, nodes: Iterable[str]) -> tuple[list[str], dict[int, list[str]]]:
        """Those that belong to the tenant's own object, and the others by shard."""
        here, at_shards = list[str](), defaultdict[int, list[str]](list)
        for node in nodes:
            shard = self.shard_of(node)
            (here if shard is None else at_shards[shard]).append(node)
        return here, at_shards

    def _deliver(self, shard: int, delivery: Delivery) -> None:
        outbox = self._outboxes[shard]
        if outbox.reset:
            return
        outbox.waiting.append(delivery)
        outbox.size += len(delivery.text) + _NODE_CHARACTERS * len(delivery.nodes or ())
        outbox.reset = outbox.size > WAITING_MAX
        self._start(shard, outbox)

    def _reset(self) -> None:
        for shard in range(self._in_use):
            outbox = self._outboxes[shard]
            outbox.reset = True
            self._start(shard, outbox)

    def _start(self, shard: int, outbox: _Outbox) -> None:
        if not outbox.busy:
            outbox.busy = True
            self._platform.background(self._empty(shard, outbox))

    async def _empty(self, shard: int, outbox: _Outbox) -> None:
        """Delivers what waits for one shard, one call after the other, until nothing does."""
        retry_s = _RETRY_FIRST_S
        while outbox.reset or outbox.waiting:
            deliveries = [Delivery(code=RECONNECT, reason=_REASON)] if outbox.reset else outbox.waiting
            outbox.waiting, outbox.size, outbox.reset = [], 0, False
            try:
                await self._platform.event_shards.deliver(shard, deliveries)
                retry_s = _RETRY_FIRST_S
            except Exception as error:  # any type, as above
                print(f"event shard {self._platform.tenant}/{shard}: {type(error).__name__}: {error}")
                outbox.reset = True
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _RETRY_MAX_S)
        outbox.busy = False
        self._forget_former()

    def _forget_former(self) -> None:
        """Shards above the count have closed their sockets when nothing waits for them."""
        if self._in_use > self._count and not any(outbox.busy for outbox in self._outboxes.values()):
            self._in_use = self._count
            self._store.set(self._count, self._in_use)


def shard_count(endpoints: int, count: int, object_sockets: int) -> int:
    """How many shards a tenant of `count` shards should have. Each change makes all endpoints connect again, so there are twice as
    many as needed when the number grows, and none are taken away before half of an object suffices."""
    if endpoints > max(1, count) * object_sockets:
        return min(2 * -(-endpoints // object_sockets), SHARDS_MAX)
    return 0 if 2 * endpoints <= object_sockets else count
