"""What the control plane needs of its platform. `adapters/` implements these over Cloudflare's bindings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kairos.api.session import Cut
from kairos.constants import SESSION_LIFE_S
from kairos.crypto.suites import Suite
from kairos.identity.certificate import Certificate

Row = Mapping[str, Any]
Statement = tuple[str, tuple[Any, ...]]  # SQL with ? parameters, and their values: str, int, float or None
Clock = Callable[[], float]  # Unix seconds
Entropy = Callable[[int], bytes]
DIRECTORY = "DB"
"""The binding of the database that has the fabric's own records. Those of a tenant are there as well, unless it was placed elsewhere."""


class ConstraintError(Exception):
    """A statement broke a constraint of the schema; nothing of its batch was written."""


class Database(Protocol):
    """The durable records (D1)."""

    async def rows(self, sql: str, *values: Any) -> list[Row]: ...

    async def first(self, sql: str, *values: Any) -> Row | None: ...

    async def write(self, statements: Sequence[Statement]) -> None:
        """All or none of them. Raises ConstraintError."""
        ...

    async def size(self) -> int:
        """Bytes on disk."""
        ...


class Databases(Protocol):
    """The D1 databases of the fabric, by the names of their bindings. All have the same schema."""

    @property
    def directory(self) -> Database:
        """The one that has what is of the whole fabric: the list of tenants, and where the records of each are."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """All of them, DIRECTORY first."""
        ...

    def of(self, name: str) -> Database:
        """Raises KeyError: there is no such binding."""
        ...


class LocalDatabase(Protocol):
    """The SQLite of one Tenant object: synchronous, and durable before any reply leaves the object."""

    def rows(self, sql: str, *values: Any) -> list[Row]: ...

    def write(self, sql: str, *values: Any) -> int:
        """Rows written by one statement."""
        ...

    def transaction(self, change: Callable[[], None]) -> None:
        """Runs `change`. If it raises, nothing that it wrote stays, and the exception goes on."""
        ...


class Cache(Protocol):
    """Eventually consistent (KV): may hold only what is harmless when stale."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, life_s: int) -> None:
        """As well as it can: a refused write is logged and raises nothing."""
        ...


class Blobs(Protocol):
    """Objects by key (R2)."""

    async def put(self, key: str, data: bytes) -> None: ...

    async def get(self, key: str) -> bytes | None: ...

    async def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """`length` bytes of an object, from `start` on."""
        ...

    async def delete(self, key: str) -> None:
        """It may be gone already."""
        ...


class MessageQueue(Protocol):
    """An at-least-once queue, in no order, to a consumer of this Worker (entry.py)."""

    async def send(self, messages: Sequence[Mapping[str, Any]]) -> None: ...

    async def waiting(self) -> int | None:
        """About how many messages are in it; None: this runtime does not say."""
        ...


class Signatures(Protocol):
    """ML-DSA of the fabric's suite (FIPS 204), pure, with context string."""

    async def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool: ...

    async def sign(self, seed: bytes, message: bytes, context: bytes) -> bytes: ...


class Sockets(Protocol):
    """The events WebSockets that nodes of this tenant hold open, at most one a node."""

    def online(self) -> set[str]:
        """The nodes that have one."""
        ...

    def gateways(self) -> list[str]:
        """The gateways that have one."""
        ...

    def is_online(self, node: str) -> bool: ...

    def send(self, node: str, text: str) -> bool:
        """False if the node has no open socket."""
        ...

    def close(self, node: str, code: int, reason: str) -> None: ...


class Relay(Protocol):
    """The relay Worker, through its service binding."""

    async def cut(self, cut: Cut) -> bool:
        """False if it could not be told now."""
        ...


@dataclass(slots=True)
class Issuer:
    """The issuing CA. Certificate and key are one value, so that nothing is signed with the key of another certificate."""

    certificate: Certificate
    seed: bytes = field(repr=False)
    """The ML-DSA private key (FIPS 204 §3.6.3)."""
    proven: bool = False
    """Whether the seed was seen to belong to the certificate's key; services/issuer.py sets it before the first signature."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The fabric's facts, out of the Worker's variables and secrets."""

    suite: Suite
    trust_domain: str
    relay_url: str
    root: Certificate
    issuer: Issuer
    policy_key: bytes
    admin_token_hash: str
    internal_key: str
    session_life_s: int = SESSION_LIFE_S
    previous_admin_token_hash: str = ""
    """Accepted as well while the root credential is rotated; empty otherwise."""
    introspection_keys: tuple[str, ...] = ()
    """What the relay shows: the key in force and, while it is rotated, the previous one."""
    cut_key: str = ""
    """What the control plane shows the relay."""


@dataclass(slots=True)
class Platform:
    """All that both the entrypoint and a Tenant object stand on."""

    settings: Settings
    databases: Databases
    cache: Cache
    blobs: Blobs
    telemetry: MessageQueue
    sweeps: MessageQueue
    signatures: Signatures
    clock: Clock
    entropy: Entropy


@dataclass(slots=True)
class TenantPlatform(Platform):
    """What a Tenant object has beyond that."""

    tenant: str
    local: LocalDatabase
    sockets: Sockets
    relay: Relay
    wake: Callable[
        [float], Awaitable[None]
    ]  # the object's alarm: TenantService.woken at this Unix time, or a little later
