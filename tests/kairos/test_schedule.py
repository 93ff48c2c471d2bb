"""The key schedule against RFC 5869 built a second way, and its separation properties."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from kairos.crypto.schedule import EXPAND_MAX, Direction, first_epoch, hkdf_expand, hkdf_extract, next_epoch


def reference_expand(secret: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 §2.3, written down as its formula reads: T(n) = HMAC(PRK, T(n-1) | info | n)."""
    blocks = [b""]
    while sum(map(len, blocks)) < size:
        blocks.append(hmac.new(secret, blocks[-1] + info + bytes([len(blocks)]), hashlib.sha384).digest())
    return b"".join(blocks)[:size]


def test_hkdf_equals_the_formula() -> None:
    secret = hkdf_extract(b"salt", b"material")
    assert secret == hmac.new(b"salt", b"material", hashlib.sha384).digest()
    for size in (0, 1, 44, 48, 49, 96, 200, EXPAND_MAX):
        assert hkdf_expand(secret, b"info", size) == reference_expand(secret, b"info", size)
    for size in (-1, EXPAND_MAX + 1):
        with pytest.raises(ValueError, match="at most 12240 bytes"):
            hkdf_expand(secret, b"info", size)


def test_schedule_matches_the_protocol_page() -> None:
    exporter, kem, digest = b"e" * 48, b"k" * 32, b"t" * 48
    first = first_epoch(exporter, kem, digest)
    extracted = hmac.new(b"kairos/1 tunnel secret", exporter + kem, hashlib.sha384).digest()
    assert first.secret == reference_expand(extracted, b"kairos/1 epoch secret" + digest, 48)
    second = next_epoch(first, kem, digest)
    extracted = hmac.new(first.secret, kem, hashlib.sha384).digest()
    assert second.secret == reference_expand(extracted, b"kairos/1 epoch secret" + digest, 48)
    info = b"kairos/1 vni key" + bytes([0, 0, 0, 7, 1, 0, 0, 0, 1])
    material = reference_expand(second.secret, info, 44)
    key = second.vni_key(7, Direction.TO_ENDPOINT)
    assert (key.key, key.iv) == (material[:32], material[32:])


def test_no_two_uses_share_a_key() -> None:
    epoch0 = first_epoch(b"e" * 48, b"k" * 32, b"t" * 48)
    epochs = [epoch0, next_epoch(epoch0, b"k" * 32, b"t" * 48)]
    keys = {e.vni_key(vni, direction).key for e in epochs for vni in (1, 2, 256) for direction in Direction}
    assert len(keys) == 12


def test_secrets_are_not_printed() -> None:
    secret = first_epoch(b"e" * 48, b"k" * 32, b"t" * 48)
    assert "secret" not in repr(secret)
    assert "iv" not in repr(secret.vni_key(1, Direction.TO_GATEWAY))
