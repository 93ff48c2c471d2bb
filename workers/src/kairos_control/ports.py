"""What the control plane needs of its platform. `adapters/` implements these over Cloudflare's bindings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kairos.api.session import Cut

Row = Mapping[str, Any]
Statement = tuple[str, tuple[Any, ...]]  # SQL with ? parameters, and their values: str, int, float or None


class ConstraintError(Exception):
    """A statement broke a constraint of the schema; nothing of its batch was written."""


class Store(Protocol):
    """The durable records (D1)."""

    async def rows(self, sql: str, *values: Any) -> list[Row]: ...

    async def first(self, sql: str, *values: Any) -> Row | None: ...

    async def write(self, statements: Sequence[Statement]) -> None:
        """All or none of them. Raises ConstraintError."""
        ...


class LocalStore(Protocol):
    """The SQLite of one Tenant object: synchronous, and durable before any reply leaves the object."""

    def rows(self, sql: str, *values: Any) -> list[Row]: ...

    def write(self, sql: str, *values: Any) -> int:
        """Rows written by one statement, or raises ConstraintError."""
        ...


class Cache(Protocol):
    """Eventually consistent (KV): may hold only what is harmless when stale."""

    async def get(self, key: str) -> str | None: ...

    async def put(self, key: str, value: str, life_s: int) -> None: ...


class Blobs(Protocol):
    """Objects by key (R2)."""

    async def put(self, key: str, data: bytes) -> None: ...

    async def get(self, key: str) -> bytes | None: ...


class EventQueue(Protocol):
    """At-least-once queue to the audit consumer. One message is JSON of at most 128 KB."""

    async def send(self, messages: Sequence[Mapping[str, Any]]) -> None: ...


class Clock(Protocol):
    def __call__(self) -> float:
        """Unix seconds."""
        ...


class Entropy(Protocol):
    def __call__(self, count: int) -> bytes: ...


class Signatures(Protocol):
    """ML-DSA of the fabric's suite (FIPS 204), pure, with context string."""

    async def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool: ...

    async def sign(self, seed: bytes, message: bytes, context: bytes) -> bytes: ...


class Sockets(Protocol):
    """The events WebSockets that nodes of this tenant hold open."""

    def online(self) -> set[str]: ...

    def send(self, node: str, text: str) -> bool:
        """False if the node has no open socket."""
        ...

    def close(self, node: str, code: int, reason: str) -> None: ...


class Relay(Protocol):
    """The relay Worker, through its service binding."""

    async def cut(self, cut: Cut) -> bool:
        """False if it could not be told now."""
        ...


class Alarm(Protocol):
    async def at_latest(self, when: float) -> None:
        """Wake the object at `when` (Unix seconds) or earlier."""
        ...
