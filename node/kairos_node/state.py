"""What a node keeps on disk: directory 0700, files 0600, every write atomic. A process may be killed at any moment.

A disk that is full or read-only must not end a daemon. What the fabric said, and can say again, is then kept in memory and counts
all the same until the disk takes it (`unwritten`). A seed is never used before it is on disk: there OSError is raised, and what was
there before stays.

join.json       what the join token pinned; written before E1
identity.json   seed, certificate, and the seed of a rotation in flight: one file, so that they change together; sealed where the
                service has a key for that (kairos_node.sealing)
fabric.json     what the fabric said of itself, after it was checked against the pins
network.json, policy.json, bundle-N.tar.gz, revoked.json, isolations.json, refused-certificates.json
                the last of each, for when the fabric is out of reach
audit-head.json the newest head of the audit log that was proven to go on from the one before
audit-conflict.json    a signed head that did not: evidence
spool/          audit events not yet delivered
lock, socket    of the running daemon
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from kairos.api.enrollment import FabricInfo, Role
from kairos.api.push import Isolation
from kairos.api.session import Network, PolicyRecord
from kairos.audit.head import SignedHead
from kairos.crypto.provider import Provider, SigningKey
from kairos.crypto.suites import SEED_BYTES, Suite, suite_named
from kairos.errors import UNREADABLE, BadMessage, Refused
from kairos.identity.certificate import Certificate, parse_certificate_untrusted
from kairos_node.certificates import Trust, trust_untrusted
from kairos_node.sealing import is_sealed, seal, sealing_key, unseal

_IDENTITY = "identity.json"
_UNFINISHED = re.compile(r"\.[a-z0-9-]+(\.[a-z]+)+\.[0-9a-f]{8}")  # as `_write` names it
_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_SAID_BY_FABRIC = (
    "fabric.json", "network.json", "policy.json", "revoked.json", "isolations.json", "refused-certificates.json",
    "audit-head.json", "audit-conflict.json",
)  # fmt: skip


class Join(msgspec.Struct, frozen=True):
    """What the join token said, without its secret. Fingerprints are SHA-256."""

    fabric_url: str
    trust_domain: str
    suite: str
    tenant: str
    role: Role
    token_id: str
    root_fingerprint: bytes
    policy_fingerprint: bytes
    hostname: str


class Keys(msgspec.Struct, frozen=True, omit_defaults=True):
    """seed: of the device key; certificate: DER, empty before E6; next_seed: of the key we are rotating to."""

    seed: bytes
    certificate: bytes = b""
    next_seed: bytes = b""

    def __repr__(self) -> str:
        return f"Keys(certificate={len(self.certificate)} bytes)"


class RefusedCertificate(msgspec.Struct, frozen=True):
    """refused_from, not_after: Unix seconds, the first by our own clock."""

    serial: str
    refused_from: float
    not_after: int


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled node as its daemon uses it."""

    node: str
    join: Join
    suite: Suite
    trust: Trust
    certificate: Certificate
    key: SigningKey
    seed: bytes = field(repr=False)
    policy_key: bytes


class NodeState:
    """The state directory of one node."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool = directory / "spool"
        self.socket = directory / "socket"
        self._unwritten: dict[str, bytes] = {}  # by name of the file
        self._unwritten_policy: tuple[PolicyRecord, bytes] | None = None
        self._complained: set[str] = set()

    @property
    def unwritten(self) -> list[str]:
        """Files that the disk did not take, so that a restart would read older ones."""
        return sorted([*self._unwritten, *(["policy.json"] if self._unwritten_policy is not None else [])])

    def create(self) -> None:
        """Makes the directory and closes it to others. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self.spool.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time. Raises Refused (state-busy); the kernel frees the lock of a killed process."""
        self.create()
        handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("state-busy", f"another process uses {self.directory}; stop it first") from None
        else:
            self._remove_unfinished()
            self._seal_identity()
            yield
        finally:
            os.close(handle)

    # -- identity ----------------------------------------------------------------------------------------------------

    @property
    def join(self) -> Join | None:
        return self._load("join.json", Join)

    @property
    def keys(self) -> Keys | None:
        return self._load(_IDENTITY, Keys)

    @property
    def fabric(self) -> FabricInfo | None:
        return self._load("fabric.json", FabricInfo)

    def begin(self, join: Join, seed: bytes) -> None:
        """Before E1: the key must outlive us, or a counted token would be lost with it. What another fabric said is
        forgotten."""
        self.create()
        self._unwritten, self._unwritten_policy = {}, None
        for name in _SAID_BY_FABRIC:
            (self.directory / name).unlink(missing_ok=True)
        self._save(_IDENTITY, Keys(seed))
        self._save("join.json", join)

    def keep_keys(self, keys: Keys) -> None:
        """On disk when this returns. Raises OSError; then the keys before are still there."""
        self._save(_IDENTITY, keys)
        self._unwritten.pop(_IDENTITY, None)

    def keep_certificate(self, info: FabricInfo, keys: Keys) -> None:
        """A new certificate, for a key whose seed is on disk, and what the fabric said of itself."""
        self._cache("fabric.json", info)
        self._cache(_IDENTITY, keys)

    def _seal_identity(self) -> None:
        """Keys from before there was a sealing key."""
        path = self.directory / _IDENTITY
        if sealing_key() is not None and path.exists() and not is_sealed(path.read_bytes()) and self.keys is not None:
            self._save(_IDENTITY, self.keys)

    def keep_fabric(self, info: FabricInfo) -> None:
        self._save("fabric.json", info)

    def identity(self, provider: Provider, now: float) -> Identity:
        """Raises Refused: not-enrolled, or a stored certificate or issuer that no longer holds."""
        join, keys, info = self.join, self.keys, self.fabric
        if join is None or keys is None or info is None or not keys.certificate:
            verb = "gateway" if join is not None and join.role == "gateway" else "agent"
            raise Refused(
                "not-enrolled", f"this node has not enrolled ({self.directory}); run: kairos {verb} enroll TOKEN"
            )
        suite = suite_named(join.suite)
        trust = trust_untrusted(
            provider,
            suite,
            join.trust_domain,
            info.root_certificate,
            info.issuer_certificate,
            join.root_fingerprint,
            now,
        )
        certificate = parse_certificate_untrusted(keys.certificate)
        if certificate.spiffe is None:
            raise Refused("bad-certificate", f"{self.directory}/identity.json holds no node's certificate")
        key = provider.signing_key(suite, keys.seed)
        return Identity(certificate.spiffe.node, join, suite, trust, certificate, key, keys.seed, info.policy_key)

    # -- the last that the fabric said -------------------------------------------------------------------------------

    @property
    def network(self) -> Network | None:
        return self._load("network.json", Network)

    def keep_network(self, network: Network) -> None:
        """A revocation is never forgotten, also when a later answer does not name it."""
        self.revoke(network.revoked)
        self._cache("network.json", network)

    @property
    def policy(self) -> tuple[PolicyRecord, bytes] | None:
        """The last bundle that was believed. Whoever loads it verifies it again."""
        if self._unwritten_policy is not None:
            return self._unwritten_policy
        record = self._load("policy.json", PolicyRecord)
        if record is None or not self._bundle(record.version).exists():
            return None
        return record, self._bundle(record.version).read_bytes()

    def keep_policy(self, record: PolicyRecord, bundle: bytes) -> None:
        """The record names the bundle: killed in between, the pair before is still a pair."""
        self._unwritten_policy = (record, bundle)
        self.write_again()

    def _write_policy(self, record: PolicyRecord, bundle: bytes) -> None:
        kept = self._bundle(record.version)
        self._write(kept.name, bundle)
        self._save("policy.json", record)
        for other in self.directory.glob("bundle-*.tar.gz"):
            if other != kept:
                other.unlink()

    def _bundle(self, version: int) -> Path:
        return self.directory / f"bundle-{version}.tar.gz"

    @property
    def revoked(self) -> frozenset[str]:
        return frozenset(self._load("revoked.json", list[str]) or ())

    def revoke(self, nodes: Iterable[str]) -> None:
        known = self.revoked
        grown = known.union(nodes)
        if grown != known:
            self._cache("revoked.json", sorted(grown))

    @property
    def isolations(self) -> list[Isolation]:
        """Whom to refuse everything, also when we start while the fabric is out of reach."""
        return self._load("isolations.json", list[Isolation]) or []

    def keep_isolations(self, isolations: list[Isolation]) -> None:
        self._cache("isolations.json", isolations)

    @property
    def refused_certificates(self) -> list[RefusedCertificate]:
        return self._load("refused-certificates.json", list[RefusedCertificate]) or []

    def keep_refused_certificates(self, refused: list[RefusedCertificate]) -> None:
        self._cache("refused-certificates.json", refused)

    # -- the audit, as it was shown to us ----------------------------------------------------------------------------

    @property
    def audit_head(self) -> SignedHead | None:
        return self._load("audit-head.json", SignedHead)

    def keep_audit_head(self, head: SignedHead) -> None:
        self._cache("audit-head.json", head)

    @property
    def audit_conflict(self) -> SignedHead | None:
        return self._load("audit-conflict.json", SignedHead)

    def keep_audit_conflict(self, head: SignedHead) -> None:
        self._cache("audit-conflict.json", head)

    # -- files -------------------------------------------------------------------------------------------------------

    def _load(self, name: str, kind: type[_T]) -> _T | None:
        try:
            text = self._unwritten.get(name) or (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None
        if name == _IDENTITY and is_sealed(text):
            text = unseal(text, sealing_key())
        try:
            return msgspec.json.decode(text, type=kind)
        except UNREADABLE as error:
            raise BadMessage(f"{self.directory / name} is damaged ({error}); restore it or enroll anew") from None

    def _save(self, name: str, value: object) -> None:
        self._write(name, _encoded(name, value))

    def _cache(self, name: str, value: object) -> None:
        """On disk when this returns, or in memory until the disk takes it."""
        self._unwritten[name] = _encoded(name, value)
        self.write_again()

    def write_again(self) -> None:
        """Tries what the disk did not take."""
        for name, data in list(self._unwritten.items()):
            with self._tried(name):
                self._write(name, data)
                del self._unwritten[name]
        if self._unwritten_policy is not None:
            with self._tried("policy.json"):
                self._write_policy(*self._unwritten_policy)
                self._unwritten_policy = None

    @contextmanager
    def _tried(self, name: str) -> Iterator[None]:
        try:
            yield
            self._complained.discard(name)
        except OSError as error:
            if name not in self._complained:
                _log.error("%s is not written, it is kept in memory: %s", self.directory / name, error.strerror)
            self._complained.add(name)

    def _remove_unfinished(self) -> None:
        """What a write left that was killed: it may hold a seed."""
        for path in self.directory.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()

    def _write(self, name: str, data: bytes) -> None:
        """All of it or nothing, on disk when this returns."""
        temporary = self.directory / f".{name}.{secrets.token_hex(4)}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.directory / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _encoded(name: str, value: object) -> bytes:
    data = msgspec.json.encode(value)
    key = sealing_key() if name == _IDENTITY else None
    return data if key is None else seal(data, key)


def default_directory(service: str) -> Path:
    """Where the state of `agent` or `gateway` lives when nobody says: the system's place for root, else the user's."""
    if os.geteuid() == 0:
        return Path("/var/lib/kairos") / service
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "kairos" / service


def new_seed() -> bytes:
    """The seed of a new device key, from the kernel."""
    return secrets.token_bytes(SEED_BYTES)
