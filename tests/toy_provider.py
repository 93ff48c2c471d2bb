"""A crypto provider without the mathematics, for tests of machines in virtual time."""

from __future__ import annotations

import hashlib
import itertools

from kairos.crypto.suites import Suite


class ToySigningKey:
    """A stand-in signature for machine tests: deterministic, key and context bound, without ML-DSA's cost."""

    def __init__(self, seed: bytes) -> None:
        self.public_key = hashlib.sha256(b"public" + seed).digest()

    def sign(self, message: bytes, context: bytes) -> bytes:
        return hashlib.sha256(self.public_key + context + b"|" + message).digest()


class ToyKemKey:
    """A stand-in KEM key: the ciphertext carries what both sides hash."""

    def __init__(self, number: int) -> None:
        self.public_key = hashlib.sha256(b"kem%d" % number).digest()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return hashlib.sha256(self.public_key + ciphertext).digest()


class ToyProvider:
    """The provider face without the mathematics; the real ones are tested in tests/vectors and tests/net."""

    name = "toy"

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def signing_key(self, suite: Suite, seed: bytes) -> ToySigningKey:
        return ToySigningKey(seed)

    def verify(self, suite: Suite, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        return signature == hashlib.sha256(public_key + context + b"|" + message).digest()

    def generate_kem_key(self, suite: Suite) -> ToyKemKey:
        return ToyKemKey(next(self._numbers))

    def encapsulate(self, suite: Suite, public_key: bytes) -> tuple[bytes, bytes]:
        ciphertext = b"c%d" % next(self._numbers)
        return ciphertext, hashlib.sha256(public_key + ciphertext).digest()
