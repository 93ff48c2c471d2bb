"""Provider `oqs`: ML-KEM and ML-DSA of a real liboqs, through liboqs-python.

liboqs keeps ML-DSA private keys expanded and has no call that makes one from its seed, so the seed is fed to key
generation as its randomness: exactly 32 bytes are asked for, once (FIPS 204 §5.1).

liboqs has one source of randomness for the whole process. It is set once, to `_random_bytes`, which knows by thread whether a seed
is being expanded; it is never switched while other threads sign or make keys.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from kairos.crypto.provider import require_context
from kairos.crypto.suites import SEED_BYTES, Suite
from kairos.errors import Refused

_RandomBytes = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t)


class _Expansion(threading.local):
    """The seed that this thread makes a key of."""

    seed: bytes | None = None
    """None: this thread asks for true randomness."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        """How many bytes liboqs asked for while the seed was expanded, call by call."""


_expansion = _Expansion()


def _give(into: Any, count: int) -> None:
    try:
        seed = _expansion.seed
        if seed is None:
            ctypes.memmove(into, os.urandom(count), count)
        else:
            _expansion.asked.append(count)
            ctypes.memmove(into, seed, min(count, SEED_BYTES))
    except BaseException:  # ctypes would ignore it, and liboqs would go on with bytes that are not random
        os.abort()


_random_bytes = _RandomBytes(_give)


def _load() -> ModuleType:
    """Without a liboqs at hand, importing oqs would try to download and build one: find the library first."""
    home = Path(os.environ.get("OQS_INSTALL_PATH", "/usr/local"))
    if not any((home / folder / "liboqs.so").exists() for folder in ("lib", "lib64")):
        raise Refused(
            "unknown-provider",
            f"provider oqs needs liboqs.so below {home}; set OQS_INSTALL_PATH to where it is installed",
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "liboqs version")  # 0.13 and its later layouts agree for KEM and signature
        try:
            import oqs
        except ImportError:
            raise Refused("unknown-provider", "provider oqs needs liboqs-python: pip install kairos-red[oqs]") from None
    oqs.native().OQS_randombytes_custom_algorithm(_random_bytes)
    loaded: ModuleType = oqs
    return loaded


class LiboqsSigningKey:
    def __init__(self, oqs: ModuleType, suite: Suite, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise Refused("bad-key", f"an ML-DSA seed is {SEED_BYTES} bytes, not {len(seed)}")
        self._signature = oqs.Signature(suite.signature)
        self.public_key: bytes = _from_seed(self._signature, seed)

    def sign(self, message: bytes, context: bytes) -> bytes:
        require_context(context)
        signed: bytes = self._signature.sign_with_ctx_str(message, context)
        return signed


class LiboqsDecapsulationKey:
    def __init__(self, oqs: ModuleType, suite: Suite) -> None:
        self._kem = oqs.KeyEncapsulation(suite.kem)
        self._ciphertext_bytes = suite.kem_ciphertext
        self.public_key: bytes = self._kem.generate_keypair()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        if len(ciphertext) != self._ciphertext_bytes:
            raise Refused("bad-key", f"a ciphertext of {len(ciphertext)} bytes")
        secret: bytes = self._kem.decap_secret(ciphertext)
        return secret


class LiboqsProvider:
    name = "oqs"

    def __init__(self) -> None:
        self._oqs = _load()

    def signing_key(self, suite: Suite, seed: bytes) -> LiboqsSigningKey:
        return LiboqsSigningKey(self._oqs, suite, seed)

    def verify(self, suite: Suite, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        require_context(context)
        if len(public_key) != suite.signature_public_key:
            raise Refused("bad-key", f"{suite.signature} public key of {len(public_key)} bytes")
        if len(signature) != suite.signature_bytes:
            return False
        with self._oqs.Signature(suite.signature) as verifier:
            return bool(verifier.verify_with_ctx_str(message, signature, context, public_key))

    def generate_kem_key(self, suite: Suite) -> LiboqsDecapsulationKey:
        return LiboqsDecapsulationKey(self._oqs, suite)

    def encapsulate(self, suite: Suite, public_key: bytes) -> tuple[bytes, bytes]:
        if len(public_key) != suite.kem_public_key:
            raise Refused("bad-key", f"{suite.kem} public key of {len(public_key)} bytes")
        with self._oqs.KeyEncapsulation(suite.kem) as kem:
            try:
                ciphertext, secret = kem.encap_secret(public_key)
            except RuntimeError as error:
                raise Refused("bad-key", f"{suite.kem} public key: {error}") from None
            return ciphertext, secret


def _from_seed(signature: Any, seed: bytes) -> bytes:
    """Makes `signature` hold the key of `seed`; returns the public key."""
    _expansion.seed = seed
    _expansion.asked.clear()
    try:
        public_key: bytes = signature.generate_keypair()
    finally:
        _expansion.seed = None
    if _expansion.asked != [SEED_BYTES]:
        raise Refused(
            "unknown-provider",
            f"this liboqs asks for {_expansion.asked} random bytes to make a key; use provider cryptography",
        )
    return public_key
