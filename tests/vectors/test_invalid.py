"""What a provider must refuse: signatures and keys that break one rule of FIPS 204 or FIPS 203 each."""

from __future__ import annotations

import hashlib

import pytest

from kairos.crypto.provider import CONTEXT_MAX, Provider
from kairos.crypto.suites import KR1, KR5, Suite
from kairos.errors import Refused
from kairos_node.crypto import PROVIDERS, provider_named, self_test
from kairos_node.crypto.pyca import PycaProvider
from signature_vectors import SignatureVector, signature_vectors

SIGNATURES = [
    pytest.param(suite, vector, id=f"{suite.signature} {vector.name}")
    for suite in (KR1, KR5)
    for vector in signature_vectors(suite)
]
MODULUS = 3329  # FIPS 203's q
SEED = bytes(range(32))


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Provider:
    return provider_named(request.param)


@pytest.fixture(params=(KR1, KR5), ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    assert isinstance(request.param, Suite)
    return request.param


@pytest.mark.parametrize(("suite", "vector"), SIGNATURES)
def test_a_signature_verifies_if_and_only_if_it_keeps_every_rule(
    provider: Provider, suite: Suite, vector: SignatureVector
) -> None:
    said = provider.verify(suite, vector.public_key, vector.message, vector.signature, vector.context)
    assert said is vector.valid, vector.rule


def test_the_vectors_are_those_of_the_day_they_were_made() -> None:
    """They are made anew for each run, so a slip in the maker would change what the suite shows."""
    made = hashlib.sha256()
    for parameters in SIGNATURES:
        vector = parameters.values[1]
        assert isinstance(vector, SignatureVector)
        made.update(vector.public_key + vector.message + vector.signature + vector.context + bytes([vector.valid]))
    assert made.hexdigest() == "0d77d33b688878310777c1d5ba805ef13c8c5f09ceb3bd0aae82489bf2daa8b6"


@pytest.mark.parametrize("change", [-1, 1])
def test_a_public_key_has_the_length_of_its_set(provider: Provider, suite: Suite, change: int) -> None:
    """FIPS 204 §3.6.2 and the type check of FIPS 203 §7.2."""
    key = provider.signing_key(suite, SEED)
    with pytest.raises(Refused, match="public key"):
        provider.verify(suite, resized(key.public_key, change), b"m", key.sign(b"m", b"c"), b"c")
    with pytest.raises(Refused, match="public key"):
        provider.encapsulate(suite, resized(provider.generate_kem_key(suite).public_key, change))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_ciphertext_has_the_length_of_its_set(provider: Provider, suite: Suite, change: int) -> None:
    """The type check of FIPS 203 §7.3."""
    key = provider.generate_kem_key(suite)
    ciphertext, _ = provider.encapsulate(suite, key.public_key)
    with pytest.raises(Refused):
        key.decapsulate(resized(ciphertext, change))


@pytest.mark.parametrize("value", [MODULUS, MODULUS + 1, 4095])
@pytest.mark.parametrize("place", ["first", "last"])
def test_an_encapsulation_key_with_a_coefficient_out_of_range_is_refused(
    provider: Provider, suite: Suite, value: int, place: str
) -> None:
    """The modulus check of FIPS 203 §7.2: ByteEncode12(ByteDecode12(ek)) must be ek."""
    at = 0 if place == "first" else (suite.kem_public_key - 32) // 3 * 2 - 1
    with pytest.raises(Refused, match="public key"):
        provider.encapsulate(suite, with_coefficient(suite, at, value))
    provider.encapsulate(suite, with_coefficient(suite, at, MODULUS - 1))


def test_a_changed_ciphertext_gives_another_secret_and_no_error(provider: Provider, suite: Suite) -> None:
    """FIPS 203, algorithm 18, line 10: implicit rejection."""
    key = provider.generate_kem_key(suite)
    ciphertext, secret = provider.encapsulate(suite, key.public_key)
    for at in (0, len(ciphertext) // 2, len(ciphertext) - 1):
        changed = ciphertext[:at] + bytes([ciphertext[at] ^ 1]) + ciphertext[at + 1 :]
        assert key.decapsulate(changed) == key.decapsulate(changed) != secret


@pytest.mark.parametrize("size", [CONTEXT_MAX + 1, 70_000])
def test_a_context_that_is_too_long_is_refused_alike(provider: Provider, suite: Suite, size: int) -> None:
    """FIPS 204, algorithms 2 and 3, line 1."""
    key = provider.signing_key(suite, SEED)
    with pytest.raises(Refused, match="a context of") as signing:
        key.sign(b"m", b"c" * size)
    with pytest.raises(Refused, match="a context of") as verifying:
        provider.verify(suite, key.public_key, b"m", bytes(suite.signature_bytes), b"c" * size)
    assert signing.value.code == verifying.value.code == "bad-context"
    longest = b"c" * CONTEXT_MAX
    assert provider.verify(suite, key.public_key, b"m", key.sign(b"m", longest), longest)


# -- the self-test with which a provider starts ------------------------------------------------------------------------


class Lax(PycaProvider):
    """A verifier that leaves one check out, as the AVX2 code of liboqs 0.13 does."""

    def verify(self, suite: Suite, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        return len(signature) == suite.signature_bytes


class Strict(PycaProvider):
    """A verifier that refuses what is right."""

    def verify(self, suite: Suite, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        return False


class Unreduced(PycaProvider):
    """A KEM without the modulus check."""

    def encapsulate(self, suite: Suite, public_key: bytes) -> tuple[bytes, bytes]:
        return b"", b""


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (Lax, "accepts an invalid ML-DSA-65 signature"),
        (Strict, "refuses a valid ML-DSA-65 signature"),
        (Unreduced, "takes an invalid ML-KEM-768 key"),
    ],
)
def test_a_broken_provider_does_not_start(broken: type[PycaProvider], why: str) -> None:
    with pytest.raises(Refused, match=f"{why}.*configure another provider") as refused:
        self_test.check(broken())
    assert refused.value.code == "broken-provider"


def test_the_self_test_has_the_vectors_that_its_rule_makes() -> None:
    from fips204 import GAMMA1, Forger, formatted

    for each in self_test.VECTORS:
        forger = Forger(each.suite.signature, bytes(32))
        p = forger.parameters
        assert each.beta == p.beta
        for packed, valid in ((p.beta + 1, True), (p.beta, False)):
            signature = forger.sign(
                formatted(self_test.MESSAGE, b""), [[GAMMA1 - packed] * 256] * p.l, [[] for _ in range(p.k)]
            )
            assert self_test.signature(each, valid) == signature
        assert self_test.public_key(each.suite) == forger.public_key


def resized(data: bytes, change: int) -> bytes:
    return data + b"\0" if change > 0 else data[:change]


def with_coefficient(suite: Suite, at: int, value: int) -> bytes:
    """An encapsulation key whose coefficients are 0 but for one."""
    packed = (value << 12 * at).to_bytes(suite.kem_public_key - 32, "little")
    return packed + bytes(range(32))
