"""The two suites. There is no negotiation below them and no classical fallback (docs/protocol.md §2)."""

from __future__ import annotations

from dataclasses import dataclass

from kairos.errors import Refused


@dataclass(frozen=True, slots=True)
class Suite:
    """Algorithms of one fabric, with their sizes in bytes (FIPS 203 table 3, FIPS 204 table 2)."""

    name: str
    tls_group: str
    kem: str
    kem_public_key: int
    kem_ciphertext: int
    signature: str
    signature_oid: str
    signature_public_key: int
    signature_bytes: int
    aead: str = "AES-256-GCM"
    hash: str = "SHA-384"


KR1 = Suite("KR1", "X25519MLKEM768", "ML-KEM-768", 1184, 1088, "ML-DSA-65", "2.16.840.1.101.3.4.3.18", 1952, 3309)
KR5 = Suite("KR5", "SecP384r1MLKEM1024", "ML-KEM-1024", 1568, 1568, "ML-DSA-87", "2.16.840.1.101.3.4.3.19", 2592, 4627)
SUITES = {suite.name: suite for suite in (KR1, KR5)}
SEED_BYTES = 32  # an ML-DSA private key is stored and moved as its seed (FIPS 204 §3.6.3)


def suite_named(name: str) -> Suite:
    """The suite of that name. Raises Refused: an unknown suite is never replaced by another."""
    try:
        return SUITES[name]
    except KeyError:
        raise Refused("unknown-suite", f"suite {name!r} is not one of {', '.join(SUITES)}") from None
