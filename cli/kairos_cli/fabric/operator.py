"""The operator directory: the fabric's keys on the operator's own machine.

    fabric.toml     suite, trust_domain, url, relay_url, session_life_s, object_sockets
    root.seed       root CA key, offline            root.der      its certificate
    issuer-ID.seed  issuing CA key, for the Worker  issuer.der    its certificate, 90 days; ID is the certificate's
    policy.seed     policy key, offline             policy.pub    its public key
    admin.token     admin credential                internal.key  what the keys between the two Workers are derived from

Beside admin.token and internal.key, admin.previous and internal.previous are what they were before `kairos fabric
rotate`: the fabric accepts both until `kairos fabric rotate --finish`. Seeds and public keys are base64 on one line;
with `kairos fabric init --passphrase` root.seed and policy.seed are sealed (kairos_cli.fabric.sealed_seed).
Mode 0700, files 0600. What `kairos admin create --out` makes for another administrator is such a directory without any
seed: its admin.token is a scoped credential, and the rest is public.
"""

from __future__ import annotations

import base64
import binascii
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from kairos.constants import SESSION_LIFE_S
from kairos.crypto.suites import SEED_BYTES, Suite, suite_named
from kairos.deployment import OBJECT_SOCKETS, OBJECT_SOCKETS_MAX, issuer_id
from kairos.errors import KairosError
from kairos_cli.fabric.sealed_seed import is_sealed, passphrase, unseal

_DEFAULT = "~/.config/kairos/fabric"
_PUBLIC = ("fabric.toml", "root.der", "issuer.der", "policy.pub")
_T = TypeVar("_T")


class OperatorError(KairosError):
    """The operator directory is missing or incomplete."""


@dataclass(frozen=True, slots=True)
class Operator:
    """The directory, loaded."""

    folder: Path
    """The directory itself."""
    suite: Suite
    """The algorithms of the fabric."""
    trust_domain: str
    """The host part of every SPIFFE id."""
    url: str
    """Where the control plane is."""
    relay_url: str
    """Where the relay is."""
    root_certificate: bytes
    """The root CA, DER."""
    issuer_certificate: bytes
    """The issuing CA, DER."""
    policy_key: bytes
    """The raw ML-DSA public key that signs policy bundles."""
    admin_token: str = field(repr=False)
    """The administrator's credential, the root one where the fabric was made."""
    session_life_s: int = SESSION_LIFE_S
    """Seconds that a session lives without a renewal."""
    object_sockets: int = OBJECT_SOCKETS
    """For how many devices one Durable Object holds the events sockets."""

    @classmethod
    def load(cls, folder: Path, credential: str = "") -> Operator:
        """credential: in place of admin.token. Raises OperatorError."""
        try:
            facts = tomllib.loads((folder / "fabric.toml").read_text())
            return cls(
                folder=folder,
                suite=suite_named(facts["suite"]),
                trust_domain=facts["trust_domain"],
                url=facts["url"],
                relay_url=facts["relay_url"],
                root_certificate=(folder / "root.der").read_bytes(),
                issuer_certificate=(folder / "issuer.der").read_bytes(),
                policy_key=_unb64(folder / "policy.pub"),
                session_life_s=facts.get("session_life_s", SESSION_LIFE_S),
                object_sockets=_object_sockets(facts),
                admin_token=credential or (folder / "admin.token").read_text().strip(),
            )
        except FileNotFoundError as error:
            raise OperatorError(
                f"no fabric in {folder} ({Path(error.filename).name} is missing); make one with `kairos fabric init`, "
                "or name its directory with --dir or $KAIROS_FABRIC"
            ) from None
        except (KeyError, ValueError) as error:
            raise OperatorError(f"the operator directory {folder} is damaged: {error}") from None

    @property
    def is_from_before_0_2(self) -> bool:
        """The fabric was made by a release in which both Workers held the internal key itself, and this one was not deployed yet."""
        return (self.folder / "issuer.seed").exists()

    def leave_0_1(self) -> None:
        """To be called when both Workers run this release: none shows the internal key itself any more, so none accepts it. The seed in
        issuer.seed gets the name of its certificate; that of an issuer from before a renewal is deleted."""
        if self.is_from_before_0_2:
            old, named = self.folder / "issuer.seed", self.folder / f"issuer-{issuer_id(self.issuer_certificate)}.seed"
            if named.exists():
                old.unlink()
            else:
                old.rename(named)

    @property
    def issuer_seed(self) -> bytes:
        """The seed of the key in issuer.der. Before 0.2 its file was issuer.seed."""
        name = f"issuer-{issuer_id(self.issuer_certificate)}"
        if not (self.folder / f"{name}.seed").exists() and self.is_from_before_0_2:
            name = "issuer"
        return self._secret(f"{name}.seed", lambda: seed(self.folder, name))

    @property
    def policy_seed(self) -> bytes:
        return self._secret("policy.seed", lambda: seed(self.folder, "policy"))

    @property
    def internal_key(self) -> str:
        return self._secret("internal.key", lambda: (self.folder / "internal.key").read_text().strip())

    def previous(self, name: str) -> str:
        """What `admin.token` or `internal.key` was before it was rotated, while the fabric still accepts that; else
        empty."""
        path = (self.folder / name).with_suffix(".previous")
        return path.read_text().strip() if path.exists() else ""

    def _secret(self, name: str, read: Callable[[], _T]) -> _T:
        """Reads a secret when it is needed, because the directory of a scoped administrator has none of them."""
        try:
            return read()
        except FileNotFoundError:
            raise OperatorError(
                f"this takes {name}, which is only where the fabric was made, not in {self.folder}"
            ) from None
        except ValueError as error:
            raise OperatorError(f"the operator directory {self.folder} is damaged: {error}") from None

    def public_files(self) -> list[tuple[str, bytes]]:
        """What any administrator's directory holds."""
        return [(name, (self.folder / name).read_bytes()) for name in _PUBLIC]

    @property
    def state(self) -> Path:
        """Where the local fabric keeps its state."""
        return self.folder / "state"


def directory(option: str | None) -> Path:
    """--dir, else $KAIROS_FABRIC, else the default."""
    return Path(option or os.environ.get("KAIROS_FABRIC") or _DEFAULT).expanduser()


def seed(folder: Path, name: str) -> bytes:
    """A 32-byte seed of the directory; asks for the passphrase of one that is sealed. Raises ValueError, KairosError."""
    path = folder / f"{name}.seed"
    text = path.read_text()
    value = unseal(text, name, passphrase()) if is_sealed(text) else _unb64(path)
    if len(value) != SEED_BYTES:
        raise ValueError(f"{name}.seed is not {SEED_BYTES} bytes")
    return value


def write_files(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Each file whole or not at all, readable by its owner only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob(".*.partial"):  # by a command that was killed
        left.unlink()
    for name, data in files:
        partial = folder / f".{name}.partial"
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(folder / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def base64_line(data: bytes) -> bytes:
    return base64.b64encode(data) + b"\n"


def _object_sockets(facts: Mapping[str, object]) -> int:
    """Raises ValueError."""
    value = facts.get("object_sockets", OBJECT_SOCKETS)
    if type(value) is not int or not 1 <= value <= OBJECT_SOCKETS_MAX:
        raise ValueError(f"object_sockets: a whole number from 1 to {OBJECT_SOCKETS_MAX}")
    return value


def _unb64(path: Path) -> bytes:
    try:
        return base64.b64decode(path.read_text().strip(), validate=True)
    except binascii.Error:
        raise ValueError(f"{path.name} is not base64") from None
