"""The face every crypto provider of a node has. The Worker has its own, asynchronous, over WebCrypto."""

from __future__ import annotations

from typing import Protocol

from kairos.crypto.suites import Suite
from kairos.errors import Refused

CONTEXT_MAX = 255  # bytes (FIPS 204 §5.2)


def require_context(context: bytes) -> None:
    """Raises Refused for a context that ML-DSA cannot carry. Every provider asks, so all of them say the same."""
    if len(context) > CONTEXT_MAX:
        raise Refused("bad-context", f"a context of {len(context)} bytes; at most {CONTEXT_MAX} are possible")


class SigningKey(Protocol):
    """An ML-DSA private key. `public_key` is the raw encoding of FIPS 204. `sign` raises Refused for a context that is
    too long."""

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes, context: bytes) -> bytes: ...


class DecapsulationKey(Protocol):
    """An ephemeral ML-KEM private key. `public_key` is the raw encapsulation key of FIPS 203."""

    @property
    def public_key(self) -> bytes: ...

    def decapsulate(self, ciphertext: bytes) -> bytes: ...


class Provider(Protocol):
    """ML-KEM and ML-DSA of one library. Every method may raise `kairos.errors.Refused` on malformed keys and on contexts
    that are too long."""

    @property
    def name(self) -> str: ...

    def signing_key(self, suite: Suite, seed: bytes) -> SigningKey: ...

    def verify(self, suite: Suite, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool: ...

    def generate_kem_key(self, suite: Suite) -> DecapsulationKey: ...

    def encapsulate(self, suite: Suite, public_key: bytes) -> tuple[bytes, bytes]:
        """(ciphertext, 32-byte shared secret)."""
        ...
