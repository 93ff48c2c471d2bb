"""The face every crypto provider of a node has. The Worker has its own, asynchronous, over WebCrypto."""

from __future__ import annotations

from typing import Protocol

from kairos.crypto.suites import Suite


class SigningKey(Protocol):
    """An ML-DSA private key. `public_key` is the raw encoding of FIPS 204."""

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes, context: bytes) -> bytes: ...


class DecapsulationKey(Protocol):
    """An ephemeral ML-KEM private key. `public_key` is the raw encapsulation key of FIPS 203."""

    @property
    def public_key(self) -> bytes: ...

    def decapsulate(self, ciphertext: bytes) -> bytes: ...


class Provider(Protocol):
    """ML-KEM and ML-DSA of one library. Every method may raise `kairos.errors.Refused` on malformed keys."""

    @property
    def name(self) -> str: ...

    def signing_key(self, suite: Suite, seed: bytes) -> SigningKey: ...

    def verify(self, suite: Suite, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool: ...

    def generate_kem_key(self, suite: Suite) -> DecapsulationKey: ...

    def encapsulate(self, suite: Suite, public_key: bytes) -> tuple[bytes, bytes]:
        """(ciphertext, 32-byte shared secret)."""
        ...
