"""Just enough of ML-DSA, straight from FIPS 204, to make signatures that are wrong in exactly one way.

The public key has t1 = 0, so w' = A z - c t1 2^d is A z and does not depend on the challenge. The test can then
choose any z and any hints for a message and compute the commitment hash that fits them: no private key is needed, and
every check of a verifier passes except the one that the choice breaks. Such a key is legal; nobody would use it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

Q = 8_380_417
GAMMA1 = 1 << 19
GAMMA2 = (Q - 1) // 32
Poly = Sequence[int]


@dataclass(frozen=True, slots=True)
class Parameters:
    """FIPS 204 table 1."""

    k: int
    l: int  # noqa: E741  # the standard's name
    beta: int
    omega: int
    commitment_bytes: int
    """Lambda / 4."""


PARAMETERS = {"ML-DSA-65": Parameters(6, 5, 196, 55, 48), "ML-DSA-87": Parameters(8, 7, 120, 75, 64)}


def _bit_reversed(value: int) -> int:
    return int(f"{value:08b}"[::-1], 2)


ZETAS = [pow(1753, _bit_reversed(index), Q) for index in range(256)]


def ntt(poly: Poly) -> list[int]:
    """Algorithm 41."""
    w, m, size = list(poly), 0, 128
    while size:
        for start in range(0, 256, 2 * size):
            m += 1
            for j in range(start, start + size):
                t = ZETAS[m] * w[j + size] % Q
                w[j + size], w[j] = (w[j] - t) % Q, (w[j] + t) % Q
        size //= 2
    return w


def inverse_ntt(poly: Poly) -> list[int]:
    """Algorithm 42."""
    w, m, size = list(poly), 256, 1
    while size < 256:
        for start in range(0, 256, 2 * size):
            m -= 1
            for j in range(start, start + size):
                t = w[j]
                w[j], w[j + size] = (t + w[j + size]) % Q, -ZETAS[m] * (t - w[j + size]) % Q
        size *= 2
    return [value * 8_347_681 % Q for value in w]


def matrix_entry(rho: bytes, row: int, column: int) -> list[int]:
    """Algorithm 30 on the seed of algorithm 32: uniform coefficients, by rejection."""
    stream, entry = hashlib.shake_128(rho + bytes([column, row])).digest(3 * 400), []
    for at in range(0, len(stream), 3):
        value = int.from_bytes(stream[at : at + 3], "little") & 0x7FFFFF
        if value < Q:
            entry.append(value)
    return entry[:256]


def decompose(value: int) -> tuple[int, int]:
    """Algorithm 36: high and low part."""
    low = value % (2 * GAMMA2)
    if low > GAMMA2:
        low -= 2 * GAMMA2
    return (0, low - 1) if value - low == Q - 1 else ((value - low) // (2 * GAMMA2), low)


def use_hint(hint: bool, value: int) -> int:
    """Algorithm 40."""
    high, low = decompose(value)
    return (high + (1 if low > 0 else -1)) % 16 if hint else high


def pack(values: Sequence[int], bits: int) -> bytes:
    """Algorithm 16: little-endian, `bits` each."""
    total = sum(value << (bits * index) for index, value in enumerate(values))
    return total.to_bytes(len(values) * bits // 8, "little")


def pack_hints(parameters: Parameters, hints: Sequence[Sequence[int]]) -> bytes:
    """Algorithm 20: the positions polynomial by polynomial in the order given, then how many there are so far."""
    positions = [position for row in hints for position in row]
    ends = [sum(map(len, hints[: row + 1])) for row in range(parameters.k)]
    return bytes(positions).ljust(parameters.omega, b"\0") + bytes(ends)


class Forger:
    """Signatures under one public key with t1 = 0. Every z is one polynomial for each column of A."""

    def __init__(self, name: str, rho: bytes) -> None:
        self.parameters = PARAMETERS[name]
        p = self.parameters
        self.public_key = rho + bytes(320 * p.k)
        self._matrix = [[matrix_entry(rho, row, column) for column in range(p.l)] for row in range(p.k)]

    def products(self, z: Sequence[Poly]) -> list[list[int]]:
        """A z, which is w' here."""
        transformed = [ntt([value % Q for value in poly]) for poly in z]
        return [
            inverse_ntt([sum(a[i] * v[i] for a, v in zip(row, transformed, strict=True)) % Q for i in range(256)])
            for row in self._matrix
        ]

    def sign(
        self, formatted: bytes, z: Sequence[Poly], hints: Sequence[Sequence[int]], packed_hints: bytes | None = None
    ) -> bytes:
        """A signature with this z over M' (`formatted`), with the commitment hash that fits `hints`, however they are
        packed: algorithm 8 and algorithm 28."""
        commitment = b"".join(
            pack([use_hint(at in row, value) for at, value in enumerate(poly)], 4)
            for row, poly in zip(map(set, hints), self.products(z), strict=True)
        )
        mu = hashlib.shake_256(hashlib.shake_256(self.public_key).digest(64) + formatted).digest(64)
        challenge = hashlib.shake_256(mu + commitment).digest(self.parameters.commitment_bytes)
        packed_z = b"".join(pack([GAMMA1 - value for value in poly], 20) for poly in z)
        return challenge + packed_z + (pack_hints(self.parameters, hints) if packed_hints is None else packed_hints)


def formatted(message: bytes, context: bytes) -> bytes:
    """M' of algorithm 3: the message is signed as such, not its digest."""
    return bytes([0, len(context)]) + context + message
