"""What a provider must show before it is used: that it accepts a valid signature and refuses an invalid one.

A signature library may be right about every known answer and still accept forgeries: the AVX2 verifier of liboqs 0.13
does not check the norm of z (FIPS 204, Algorithm 8, line 13). The library of a host is not ours to choose, so the
check is made where it is used, once for each process (about 2 ms).

The public key is all zeros (t1 = 0), for which anybody can compute a signature with any z. Every coefficient of z is the
largest that is allowed, gamma1 - beta - 1, in the valid signature, and one more in the invalid one. There are no hints.
tests/vectors/test_invalid.py makes both anew from the standard's algorithms.
"""

from __future__ import annotations

from dataclasses import dataclass

from kairos.crypto.provider import Provider
from kairos.crypto.suites import KR1, KR5, Suite
from kairos.errors import Refused

MESSAGE = b"kairos/1 self-test"


@dataclass(frozen=True, slots=True)
class Vector:
    """A pair of signatures over MESSAGE with the empty context."""

    suite: Suite
    beta: int
    """FIPS 204 table 1: tau * eta."""
    valid: bytes
    """Commitment hash (c~) of the signature that must verify."""
    invalid: bytes
    """Commitment hash of the signature that must not verify. It is right for its z, so only the norm is wrong."""


VECTORS = (
    Vector(
        KR1,
        196,
        bytes.fromhex(
            "b27de1c599a1c1588c49a90119d1c0c9e52d4c75737853c5ce5399ce94f8dda3b03b7fa632a6ba0a371cb930e0f7869e"
        ),
        bytes.fromhex(
            "54d205e7fc6efd95aa11e57c06b2ea72dba17570b808c561b13d7979c9ff82d4b7939071a54b2f384fc610663670b7de"
        ),
    ),
    Vector(
        KR5,
        120,
        bytes.fromhex(
            "7f73ea71c3f0b8d493918d0753093f8c7aa8d00495d6d34c84a77eef56ba90b9"
            "3b5b4bd09cabbf5741b1978b2e05a85bee3eafdefbf123d07fce73b7f9e7e892"
        ),
        bytes.fromhex(
            "dd4043ea9bb6e8ae14d29bd24510117af44cd5823f77d6a36672e971018479b7"
            "19ceb5f4787daeac87fa421e238d803394f96c57a4f78030fad41b8b51b18eaf"
        ),
    ),
)


def check(provider: Provider) -> None:
    """Raises Refused (`broken-provider`) for one that gets any of it wrong."""
    for vector in VECTORS:
        suite = vector.suite
        for valid, wrong in ((True, "refuses a valid"), (False, "accepts an invalid")):
            if provider.verify(suite, public_key(suite), MESSAGE, signature(vector, valid), b"") is not valid:
                raise _broken(provider, f"{wrong} {suite.signature} signature (FIPS 204, Algorithm 8)")
        if _encapsulates_to_an_invalid_key(provider, suite):
            raise _broken(provider, f"takes an invalid {suite.kem} key (FIPS 203 §7.2, modulus check)")
        key = provider.generate_kem_key(suite)
        ciphertext, secret = provider.encapsulate(suite, key.public_key)
        if key.decapsulate(ciphertext) != secret:
            raise _broken(provider, f"does not agree with itself on a {suite.kem} secret")


def public_key(suite: Suite) -> bytes:
    return bytes(suite.signature_public_key)


def signature(vector: Vector, valid: bool) -> bytes:
    """A coefficient c of z is packed as gamma1 - c, in 20 bits, little-endian (FIPS 204, Algorithm 17)."""
    packed = vector.beta + 1 if valid else vector.beta
    challenge = vector.valid if valid else vector.invalid
    pair = (packed | packed << 20).to_bytes(5, "little")
    z = pair * ((vector.suite.signature_bytes - len(challenge)) // 640 * 128)
    return (challenge + z).ljust(vector.suite.signature_bytes, b"\0")


def _encapsulates_to_an_invalid_key(provider: Provider, suite: Suite) -> bool:
    """The key's coefficients are all 4095; the largest that is allowed is 3328."""
    try:
        provider.encapsulate(suite, b"\xff" * suite.kem_public_key)
    except Refused:
        return False
    return True


def _broken(provider: Provider, what: str) -> Refused:
    return Refused(
        "broken-provider",
        f"crypto provider {provider.name} {what}: its library must not be used; update it or configure another provider",
    )
