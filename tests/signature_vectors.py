"""ML-DSA signatures made to be right or wrong in exactly one way, each with the rule of FIPS 204 that decides about it.

Known answers only show that right signatures verify. A verifier may accept all of them and forgeries as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fips204 import GAMMA1, Forger, formatted, pack_hints
from kairos.crypto.suites import Suite

MESSAGE = b"message"
CONTEXT = b"kairos/1 request"


@dataclass(frozen=True, slots=True)
class SignatureVector:
    """One call of verify and what it must say."""

    name: str
    rule: str
    """The sentence of FIPS 204 that makes the signature valid or invalid."""
    valid: bool
    public_key: bytes
    message: bytes
    signature: bytes
    context: bytes


NORM = "Algorithm 8, line 13: return [[ ||z||_inf < gamma1 - beta ]] and [[ c~ = c~' ]]"
HASH = "Algorithm 8, line 12: c~' = H(mu || w1Encode(w1'), lambda/4), and line 13: c~ = c~'"
MESSAGE_RULE = "Algorithm 8, line 7: mu = H(BytesToBits(tr) || M', 64)"
KEY_RULE = "Algorithm 8, line 6: tr = H(pk, 64)"
FORMAT = "Algorithm 3, line 5: M' = BytesToBits(IntegerToBytes(0, 1) || IntegerToBytes(|ctx|, 1) || ctx) || M"
LENGTH = "Section 3.6.2: if the length of the signature is not that of table 2, verification shall return false"
COUNT = "Algorithm 21, line 4: if y[omega + i] < Index or y[omega + i] > omega then return error"
ORDER = "Algorithm 21, line 9: if y[Index - 1] >= y[Index] then return error"
PADDING = "Algorithm 21, lines 16-17: for i from Index to omega - 1: if y[i] != 0 then return error"
HINTS = "Algorithm 40: UseHint(h, r) is r1 + 1 mod m if h = 1 and r0 > 0, and r1 - 1 mod m if h = 1 and r0 <= 0"


def signature_vectors(suite: Suite) -> Iterator[SignatureVector]:
    """All vectors of one parameter set. Deterministic."""
    forger = Forger(suite.signature, bytes(range(32)))
    p, plain = forger.parameters, formatted(MESSAGE, CONTEXT)
    largest = GAMMA1 - p.beta - 1
    still = [[0] * 256] * p.l
    none: list[list[int]] = [[]] * p.k
    some = [[3, 5, 250], [], [7], *none[3:]]

    def vector(
        name: str, rule: str, valid: bool, signature: bytes, message: bytes = MESSAGE, context: bytes = CONTEXT
    ) -> SignatureVector:
        return SignatureVector(name, rule, valid, forger.public_key, message, signature, context)

    right = forger.sign(plain, still, some)
    yield vector("plain", HASH, True, right)
    yield vector("hints where the low part is 0", HINTS, True, forger.sign(plain, still, [[0], *none[1:]]))
    yield vector("longest context", FORMAT, True, forger.sign(formatted(b"", b"c" * 255), still, none), b"", b"c" * 255)
    yield vector("no context", FORMAT, True, forger.sign(formatted(MESSAGE, b""), still, none), context=b"")
    full = [list(range(p.omega)), *none[1:]]
    yield vector("as many hints as are allowed", COUNT, True, forger.sign(plain, still, full))

    for sign in (1, -1):
        for column, at in ((0, 0), (p.l // 2, 100), (p.l - 1, 255)):
            for size, valid in ((largest, True), (largest + 1, False), (GAMMA1 - 1, False)):
                z = [[0] * 256 for _ in range(p.l)]
                z[column][at] = sign * size
                name = f"z[{column}][{at}] is {sign * size}"
                yield vector(name, NORM, valid, forger.sign(plain, z, none))

    size, ends = p.omega + p.k, slice(p.omega, None)
    over = bytearray(pack_hints(p, full))
    over[ends] = bytes([p.omega] * (p.k - 1) + [p.omega + 1])
    yield vector("one hint too many", COUNT, False, forger.sign(plain, still, full, bytes(over)))
    over[ends] = bytes([255] * p.k)
    yield vector("255 hints", COUNT, False, forger.sign(plain, still, full, bytes(over)))
    falling = bytes([3, 5]).ljust(p.omega, b"\0") + bytes([2] + [1] * (p.k - 2) + [2])
    yield vector("hint ends fall", COUNT, False, forger.sign(plain, still, [[3, 5], *none[1:]], falling))
    for name, positions in (("repeated", [3, 5, 5]), ("descending", [5, 3])):
        packed = pack_hints(p, [positions, *none[1:]])
        yield vector(f"hints {name}", ORDER, False, forger.sign(plain, still, [positions, *none[1:]], packed))
    for at in (4, p.omega - 1):
        padded = bytearray(pack_hints(p, some))
        padded[at] = 1
        yield vector(
            f"byte {at} of the hints is not zero", PADDING, False, forger.sign(plain, still, some, bytes(padded))
        )

    def changed(at: int) -> bytes:
        return right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :]

    yield vector("first byte of the hash changed", HASH, False, changed(0))
    yield vector("last byte of the hash changed", HASH, False, changed(p.commitment_bytes - 1))
    yield vector("z changed", HASH, False, changed(p.commitment_bytes))
    yield vector("a hint moved", HASH, False, changed(len(right) - size + 2))
    yield vector("no hints", HASH, False, right[:-size] + bytes(size))
    yield vector("another message", MESSAGE_RULE, False, right, message=MESSAGE + b"\0")
    yield vector("another context", FORMAT, False, right, context=CONTEXT + b"\0")
    yield vector("without its context", FORMAT, False, right, context=b"")
    yield vector("context moved into the message", FORMAT, False, right, message=CONTEXT + MESSAGE, context=b"")
    yield vector("message not formatted", FORMAT, False, forger.sign(MESSAGE, still, none), context=b"")
    digest = b"\x01" + plain[1:]
    yield vector("formatted as a digest (HashML-DSA)", FORMAT, False, forger.sign(digest, still, none))
    for name, signature in (("short", right[:-1]), ("long", right + b"\0"), ("empty", b"")):
        yield vector(f"{name} signature", LENGTH, False, signature)
    stranger = Forger(suite.signature, bytes(32)).public_key
    yield SignatureVector("another public key", KEY_RULE, False, stranger, MESSAGE, right, CONTEXT)
