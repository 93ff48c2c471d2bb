"""The key schedule T4: exporter, KEM secret and transcript in, one key per (VNI, direction, epoch) out."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from enum import IntEnum

from kairos.crypto import labels

HASH_BYTES = 48
EXPAND_MAX = 255 * HASH_BYTES  # bytes; the counter of HKDF-Expand is one octet


class Direction(IntEnum):
    TO_GATEWAY = 0
    TO_ENDPOINT = 1


def hkdf_extract(salt: bytes, material: bytes) -> bytes:
    """RFC 5869 §2.2 with SHA-384."""
    return hmac.digest(salt, material, "sha384")


def hkdf_expand(secret: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 §2.3 with SHA-384. size: bytes. Raises ValueError beyond EXPAND_MAX."""
    if not 0 <= size <= EXPAND_MAX:
        raise ValueError(f"HKDF-Expand gives at most {EXPAND_MAX} bytes, not {size}")
    output, block = b"", b""
    for counter in range(1, -(-size // HASH_BYTES) + 1):
        block = hmac.digest(secret, block + info + bytes([counter]), hashlib.sha384)
        output += block
    return output[:size]


@dataclass(frozen=True, slots=True)
class VniKey:
    """What the data plane is given: AES-256 key (32 bytes) and iv (12 bytes). Never printed."""

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EpochSecret:
    """The tunnel secret of one epoch, 48 bytes."""

    epoch: int
    secret: bytes = field(repr=False)

    def vni_key(self, vni: int, direction: Direction) -> VniKey:
        """A key *is* a (peer, VNI, direction, epoch): no other combination derives it."""
        info = labels.VNI_KEY + vni.to_bytes(4, "big") + bytes([direction]) + self.epoch.to_bytes(4, "big")
        material = hkdf_expand(self.secret, info, 44)
        return VniKey(material[:32], material[32:])


def first_epoch(exporter: bytes, kem_secret: bytes, transcript: bytes) -> EpochSecret:
    """Epoch 0. exporter: 48 bytes of the TLS exporter; transcript: digest of the answer (T4)."""
    return _derive(labels.TUNNEL_SALT, exporter + kem_secret, transcript, 0)


def next_epoch(previous: EpochSecret, kem_secret: bytes, transcript: bytes) -> EpochSecret:
    """Rekey: chained, so an attacker needs every KEM secret since the one it knew."""
    return _derive(previous.secret, kem_secret, transcript, previous.epoch + 1)


def _derive(salt: bytes, material: bytes, transcript: bytes, epoch: int) -> EpochSecret:
    secret = hkdf_expand(hkdf_extract(salt, material), labels.TUNNEL_SECRET + transcript, HASH_BYTES)
    return EpochSecret(epoch, secret)
