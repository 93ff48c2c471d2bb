"""The calls between a tenant's object and its event shards. Values travel as JSON text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from kairos.api.problem import Problem, ProblemError

from ..ports import Delivery
from ..problems import problem

SHARD_HEADER = "kairos-event-shard"
"""In the answer of a tenant's object to its entrypoint: SHARD/NODE, where the socket is to be opened."""


class _Welcome(msgspec.Struct, omit_defaults=True):
    text: str = ""
    problem: Problem | None = None


_deliveries = msgspec.json.Decoder(list[Delivery])


def shard_name(tenant: str, shard: int | str) -> str:
    """The name of the shard's Durable Object."""
    return f"{tenant}/{shard}"


def encode_welcome(welcome: str | ProblemError) -> str:
    """An exception would lose its type on the way between objects."""
    answer = _Welcome(problem=welcome.problem) if isinstance(welcome, ProblemError) else _Welcome(welcome)
    return msgspec.json.encode(answer).decode()


def decode_deliveries(text: str) -> list[Delivery]:
    return _deliveries.decode(text)


class BoundEventShards:
    """The port EventShards over the Durable Objects of the shards."""

    def __init__(self, binding: Any, tenant: str) -> None:
        self._binding, self._tenant = binding, tenant

    async def deliver(self, shard: int, deliveries: Sequence[Delivery]) -> None:
        await self._stub(shard).deliver(msgspec.json.encode(deliveries).decode())

    async def online(self, shard: int, nodes: Collection[str]) -> set[str]:
        answer = await self._stub(shard).online(msgspec.json.encode(list(nodes)).decode())
        return set(msgspec.json.decode(str(answer), type=list[str]))

    def _stub(self, shard: int) -> Any:
        """A new one for each call: one whose call has failed is of no use any more."""
        return self._binding.getByName(shard_name(self._tenant, shard))


class BoundEventHome:
    """The port EventHome over the Durable Object of the tenant."""

    def __init__(self, binding: Any, tenant: str, shard: int) -> None:
        self._binding, self._tenant, self._shard = binding, tenant, shard

    async def welcome(self, node: str) -> str:
        try:
            answer = await self._binding.getByName(self._tenant).welcome(node, self._shard)
        except Exception as error:  # any type: it depends on the bridge to JavaScript
            raise _unavailable(error) from None
        welcome = msgspec.json.decode(str(answer), type=_Welcome)
        if welcome.problem is not None:
            refused = welcome.problem
            raise ProblemError(refused.code, refused.status, refused.title, refused.detail, refused.retry_after_s)
        return welcome.text

    async def received(self, node: str, text: str) -> bool:
        try:
            return bool(await self._binding.getByName(self._tenant).received(node, text))
        except Exception as error:  # any type, as above
            raise _unavailable(error) from None


def _unavailable(error: Exception) -> ProblemError:
    print(f"tenant's object: {type(error).__name__}: {error}")
    return problem("unavailable", "the tenant's object did not answer; try again", 1)
