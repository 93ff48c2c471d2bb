"""An event shard: it holds the events sockets of some of a tenant's endpoints, and knows nothing else of the tenant."""

from __future__ import annotations

from collections.abc import Sequence

from kairos.api.problem import ProblemError
from kairos.api.push import parse_to_fabric_untrusted
from kairos.errors import BadMessage

from ..ports import Delivery, EventHome, Sockets
from ..problems import problem
from .rate_limits import MESSAGE, Limits


class EventShard:
    """What one shard does with its sockets. It keeps nothing but them."""

    def __init__(self, sockets: Sockets, home: EventHome, limits: Limits) -> None:
        self._sockets, self._home, self._limits = sockets, home, limits
        # By node whose socket is not open yet: the pushes that came while its welcome was on its way.
        self._opening: dict[str, list[str]] = {}

    async def welcome(self, node: str) -> list[str]:
        """The first messages for a new socket of the node, which has to be opened before anything else is awaited.

        Raises a ProblemError: unavailable, revoked.
        """
        held = self._opening[node] = []
        try:
            welcome = await self._home.welcome(node)
            if self._opening.get(node) is not held:
                raise problem("unavailable", "the socket was closed before it was open; connect again")
            return [welcome, *held]
        finally:
            if self._opening.get(node) is held:
                del self._opening[node]

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Sends to and closes sockets, as the tenant's object says."""
        for each in deliveries:
            nodes = each.nodes if each.nodes is not None else {*self._sockets.online(), *self._opening}
            for node in nodes:
                if not each.text:
                    self._opening.pop(node, None)
                    self._sockets.close(node, each.code, each.reason)
                    continue
                if node in self._opening:
                    self._opening[node].append(each.text)
                self._sockets.send(node, each.text)

    def online(self, nodes: Sequence[str]) -> list[str]:
        return [node for node in nodes if self._sockets.is_online(node)]

    async def received(self, node: str, text: str) -> bool:
        """Passes a message of a node on. False: it is not one that nodes send, or there are too many of them. Raises unavailable."""
        try:
            self._limits.take(MESSAGE, node)
            parse_to_fabric_untrusted(text)
        except (BadMessage, ProblemError):
            return False
        return await self._home.received(node, text)
