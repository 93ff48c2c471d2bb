"""What the control plane needs from its platform. `adapters/` and `objects/` implement these over Cloudflare's
bindings; the tests implement them over SQLite files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from kairos.api.session import Cut
from kairos.constants import SESSION_LIFE_S
from kairos.crypto.suites import Suite
from kairos.deployment import OBJECT_SOCKETS
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
    """Eventually consistent (KV). It holds only what is harmless when it is stale."""

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
        """Does nothing if the object does not exist."""
        ...


class MessageQueue(Protocol):
    """An at-least-once queue, in no order, to a consumer of this Worker (entry.py)."""

    async def send(self, messages: Sequence[Mapping[str, Any]]) -> None: ...

    async def waiting(self) -> int | None:
        """About how many messages are in it; None: the runtime cannot tell."""
        ...


class Signatures(Protocol):
    """ML-DSA of the fabric's suite (FIPS 204), pure, with context string."""

    async def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool: ...

    async def sign(self, seed: bytes, message: bytes, context: bytes) -> bytes: ...


class Sockets(Protocol):
    """The events WebSockets that one object holds, at most one for each node."""

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


class Delivery(msgspec.Struct, omit_defaults=True):
    """What an event shard does with the sockets of some nodes: it sends a text or closes them."""

    nodes: list[str] | None = None
    """Whose sockets; None: all that the shard holds."""
    text: str = ""
    """The push to send. Empty: the sockets are closed."""
    code: int = 0
    """The close code."""
    reason: str = ""
    """The close reason."""


class EventShards(Protocol):
    """The event shards of one tenant, by number, as the tenant's object calls them. Each call raises an exception of any type if the
    shard does not answer."""

    async def deliver(self, shard: int, deliveries: Sequence[Delivery]) -> None:
        """All of them, in this order."""
        ...

    async def online(self, shard: int, nodes: Collection[str]) -> set[str]:
        """Those of these nodes that have a socket at the shard."""
        ...


class EventHome(Protocol):
    """The tenant's object as one of its event shards calls it."""

    async def welcome(self, node: str) -> str:
        """The first message for a socket of the node. What is pushed after it was made is delivered to the shard. Raises a ProblemError:
        unavailable, revoked."""
        ...

    async def received(self, node: str, text: str) -> bool:
        """Handles a message of a node. False: it is not one that nodes send. Raises unavailable."""
        ...


class Relay(Protocol):
    """The relay Worker, through its service binding."""

    async def cut(self, cut: Cut) -> bool:
        """False if the relay did not answer."""
        ...


@dataclass(slots=True)
class Issuer:
    """The issuing CA. Certificate and key are one value, so that nothing is signed with the key of another
    certificate."""

    certificate: Certificate
    """The issuing CA's, signed by the root CA."""
    seed: bytes = field(repr=False)
    """The ML-DSA private key (FIPS 204 §3.6.3)."""
    proven: bool = False
    """Whether the seed was checked against the certificate's key; services/issuer.py sets it before the first
    signature."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The fabric's configuration, from the Worker's variables and secrets."""

    suite: Suite
    """The algorithms of this fabric."""
    trust_domain: str
    """The host part of every SPIFFE id."""
    relay_url: str
    """Where nodes reach the relay Worker."""
    root: Certificate
    """The root CA."""
    issuer: Issuer
    """The issuing CA with its key."""
    policy_key: bytes
    """The raw ML-DSA public key that signs policy bundles."""
    admin_token_hash: str
    """SHA-256 of the root credential, in hex."""
    internal_key: str
    """The key of the calls from the entrypoint to a tenant's object: the secret OBJECT_KEY."""
    session_life_s: int = SESSION_LIFE_S
    """Seconds that a session lives without a renewal."""
    previous_admin_token_hash: str = ""
    """Accepted as well while the root credential is rotated; empty otherwise."""
    introspection_keys: tuple[str, ...] = ()
    """The keys that the relay may present: the one in force and, during a rotation, the previous one."""
    cut_key: str = ""
    """The key that the control plane presents to the relay."""
    object_sockets: int = OBJECT_SOCKETS
    """For how many devices one object holds the events sockets."""


@dataclass(slots=True)
class Platform:
    """What both the entrypoint and a Tenant object use."""

    settings: Settings
    """What the operator chose for this fabric."""
    databases: Databases
    """D1."""
    cache: Cache
    """KV."""
    blobs: Blobs
    """R2."""
    telemetry: MessageQueue
    """The queue of samples."""
    sweeps: MessageQueue
    """The queue of tenants that are due for housekeeping."""
    signatures: Signatures
    """ML-DSA."""
    clock: Clock
    """The time now."""
    entropy: Entropy
    """Random bytes."""


@dataclass(slots=True)
class TenantPlatform(Platform):
    """What a Tenant object has besides."""

    tenant: str
    """The tenant's name."""
    local: LocalDatabase
    """The object's SQLite."""
    sockets: Sockets
    """The events sockets that the tenant's object holds itself."""
    event_shards: EventShards
    """The objects that hold the others."""
    relay: Relay
    """The relay Worker."""
    wake: Callable[[float], Awaitable[None]]
    """Sets the object's alarm for this Unix time, unless it is due earlier."""
    background: Callable[[Coroutine[Any, Any, None]], None]
    """Runs work that no call waits for. The object stays in memory until it has ended."""
