"""AES-256-GCM, straight from SP 800-38D, so that each of its steps can be done wrongly: a tag that a faulty implementation would
make, and accept, is a tag that ours must refuse."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

BLOCK = 16
_R = 0xE1 << 120


@dataclass(frozen=True, slots=True)
class Flaw:
    name: str
    """As the self-test of the data plane names it."""
    sentence: str
    """Of SP 800-38D: what the flaw breaks."""


FLAWS = (
    Flaw("no-lengths", "7.1 step 5: S = GHASH_H(A || 0^v || C || 0^u || [len(A)]64 || [len(C)]64)"),
    Flaw("lengths-in-bytes", "6.1: len(X) is the bit length of X"),
    Flaw("no-aad", "7.1 step 5: S = GHASH_H(A || ...)"),
    Flaw("ciphertext-before-aad", "7.1 step 5: A || 0^v stands before C || 0^u"),
    Flaw("no-ciphertext", "7.1 step 5: C || 0^u is hashed"),
    Flaw("plaintext-hashed", "7.1 step 5: C is hashed, not P"),
    Flaw("bare-hash", "7.1 step 6: T = MSB_t(GCTR_K(J0, S))"),
    Flaw("tag-under-second-counter", "7.1 step 6: the initial counter block of the tag is J0, not inc32(J0)"),
    Flaw("counter-from-zero", "7.1 step 2: if len(IV) = 96, J0 = IV || 0^31 || 1"),
    Flaw("hash-key-of-iv", "7.1 step 1: H = CIPH_K(0^128)"),
)


def _encipher(key: bytes, block: bytes) -> bytes:
    return Cipher(AES(key), ECB()).encryptor().update(block)


def _times(x: int, y: int) -> int:
    """6.3: multiplication of blocks."""
    z = 0
    for i in range(127, -1, -1):
        if x >> i & 1:
            z ^= y
        y = (y >> 1) ^ (_R if y & 1 else 0)
    return z


def _ghash(h: bytes, data: bytes) -> bytes:
    y = 0
    for at in range(0, len(data), BLOCK):
        y = _times(y ^ int.from_bytes(data[at : at + BLOCK]), int.from_bytes(h))
    return y.to_bytes(BLOCK)


def _inc32(block: bytes) -> bytes:
    return block[:12] + ((int.from_bytes(block[12:]) + 1) % (1 << 32)).to_bytes(4)


def _gctr(key: bytes, counter: bytes, data: bytes) -> bytes:
    out = bytearray()
    for at in range(0, len(data), BLOCK):
        out += bytes(a ^ b for a, b in zip(data[at : at + BLOCK], _encipher(key, counter), strict=False))
        counter = _inc32(counter)
    return bytes(out)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def seal(key: bytes, iv: bytes, plain: bytes, aad: bytes, flaw: str = "") -> tuple[bytes, bytes]:
    """7.1, GCM-AE: the ciphertext, which no flaw changes, and the tag. iv: 12 bytes."""
    h = _encipher(key, iv + bytes(4) if flaw == "hash-key-of-iv" else bytes(BLOCK))
    j0 = iv + (1).to_bytes(4)
    cipher = _gctr(key, _inc32(j0), plain)
    a, c = _padded(aad), _padded(plain if flaw == "plaintext-hashed" else cipher)
    unit = 1 if flaw == "lengths-in-bytes" else 8
    lengths = (len(aad) * unit).to_bytes(8) + (len(cipher) * unit).to_bytes(8)
    hashed = {
        "no-lengths": a + c,
        "no-aad": c + bytes(8) + lengths[8:],
        "ciphertext-before-aad": c + a + lengths,
        "no-ciphertext": a + lengths,
    }.get(flaw, a + c + lengths)
    s = _ghash(h, hashed)
    if flaw == "bare-hash":
        return cipher, s
    first = {"tag-under-second-counter": _inc32(j0), "counter-from-zero": iv + bytes(4)}.get(flaw, j0)
    return cipher, _gctr(key, first, s)
