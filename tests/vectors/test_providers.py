"""Both providers against the known answers of PyPI's cryptography-vectors, and against each other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem

from kairos.crypto.provider import Provider
from kairos.crypto.suites import KR1, KR5, Suite
from kairos.errors import Refused
from kairos_node.crypto import PROVIDERS, provider_named
from kairos_node.crypto.liboqs import LiboqsDecapsulationKey, LiboqsProvider, _from_seed
from kairos_node.crypto.pyca import PycaDecapsulationKey

VECTORS = Path(cryptography_vectors.__file__).parent / "asymmetric"
SUITES = [KR1, KR5]
SEED = bytes(range(32))


def answers(path: Path) -> Iterator[dict[str, bytes]]:
    """The records of a NIST .rsp file; hex fields only."""
    record: dict[str, bytes] = {}
    for line in path.read_text().splitlines():
        name, found, value = line.partition("=")
        if found:
            name, value = name.strip(), value.strip()
            if name == "count":
                if record:
                    yield record
                record = {}
            else:
                record[name] = bytes.fromhex(value) if len(value) % 2 == 0 else b""
    if record:
        yield record


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Provider:
    return provider_named(request.param)


@pytest.fixture(params=SUITES, ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    assert isinstance(request.param, Suite)
    return request.param


def test_ml_dsa_known_answers(provider: Provider, suite: Suite) -> None:
    records = list(answers(VECTORS / "MLDSA" / f"kat_MLDSA_{suite.signature[-2:]}_det_pure.rsp"))
    assert len(records) >= 10
    for record in records:
        key = provider.signing_key(suite, record["xi"])
        assert key.public_key == record["pk"]
        signature = record["sm"][: suite.signature_bytes]
        assert provider.verify(suite, key.public_key, record["msg"], signature, record["ctx"])
        assert not provider.verify(suite, key.public_key, record["msg"] + b"x", signature, record["ctx"])


def test_ml_kem_known_answers(suite: Suite) -> None:
    records = list(answers(VECTORS / "MLKEM" / f"kat_MLKEM_{suite.kem.removeprefix('ML-KEM-')}.rsp"))
    assert len(records) >= 10
    private: type[mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey] = (
        mlkem.MLKEM768PrivateKey if suite is KR1 else mlkem.MLKEM1024PrivateKey
    )
    oqs = LiboqsProvider()._oqs
    for record in records:
        seed = record["d"] + record["z"]
        pyca = PycaDecapsulationKey(private.from_seed_bytes(seed))
        liboqs = LiboqsDecapsulationKey(oqs, suite)
        assert liboqs._kem.generate_keypair_seed(seed) == pyca.public_key == record["pk"]
        assert pyca.decapsulate(record["ct"]) == liboqs.decapsulate(record["ct"]) == record["ss"]
        assert pyca.decapsulate(record["ct_n"]) == liboqs.decapsulate(record["ct_n"]) == record["ss_n"]


def test_sizes_are_those_of_the_suite(provider: Provider, suite: Suite) -> None:
    signing, kem = provider.signing_key(suite, SEED), provider.generate_kem_key(suite)
    ciphertext, secret = provider.encapsulate(suite, kem.public_key)
    assert len(signing.public_key) == suite.signature_public_key
    assert len(signing.sign(b"m", b"c")) == suite.signature_bytes
    assert (len(kem.public_key), len(ciphertext), len(secret)) == (suite.kem_public_key, suite.kem_ciphertext, 32)


@pytest.mark.parametrize("other", PROVIDERS)
def test_what_one_provider_makes_the_other_takes(provider: Provider, other: str, suite: Suite) -> None:
    peer = provider_named(other)
    ours, theirs = provider.signing_key(suite, SEED), peer.signing_key(suite, SEED)
    assert ours.public_key == theirs.public_key
    assert peer.verify(suite, ours.public_key, b"message", ours.sign(b"message", b"step"), b"step")
    assert not peer.verify(suite, ours.public_key, b"message", ours.sign(b"message", b"step"), b"another step")
    key = peer.generate_kem_key(suite)
    ciphertext, secret = provider.encapsulate(suite, key.public_key)
    assert key.decapsulate(ciphertext) == secret


def test_a_flipped_bit_never_verifies(provider: Provider, suite: Suite) -> None:
    key = provider.signing_key(suite, SEED)
    signature = bytearray(key.sign(b"message", b"step"))
    for position in range(0, len(signature), 97):
        signature[position] ^= 1
        assert not provider.verify(suite, key.public_key, b"message", bytes(signature), b"step")
        signature[position] ^= 1


def test_malformed_keys_are_refused(provider: Provider, suite: Suite) -> None:
    with pytest.raises(Refused):
        provider.signing_key(suite, b"short")
    with pytest.raises(Refused):
        provider.verify(suite, b"short", b"m", b"s", b"c")
    with pytest.raises(Refused):
        provider.encapsulate(suite, b"short")
    with pytest.raises(Refused):
        provider.generate_kem_key(suite).decapsulate(b"short")


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(Refused, match="not one of"):
        provider_named("openssl")


def test_keys_that_others_make_meanwhile_do_not_come_from_the_seed_that_is_expanded() -> None:
    """liboqs has one source of randomness for the whole process: a switch of it would reach every thread."""
    provider = LiboqsProvider()
    others: list[bytes] = []

    class Slow:
        """A key generation during which other threads use randomness too."""

        def generate_keypair(self) -> bytes:
            for _ in range(2):
                other = Thread(target=lambda: others.append(provider.generate_kem_key(KR1).public_key))
                other.start()
                other.join()
            made: bytes = provider._oqs.Signature(KR1.signature).generate_keypair()
            return made

    assert _from_seed(Slow(), SEED) == provider_named("cryptography").signing_key(KR1, SEED).public_key
    assert len(set(others)) == 2
    assert provider._oqs.Signature(KR1.signature).generate_keypair() != _from_seed(Slow(), SEED)


def test_many_threads_expand_seeds_and_sign_at_once() -> None:
    provider, reference = LiboqsProvider(), provider_named("cryptography")

    def work(number: int) -> bool:
        seed = bytes([number]) * 32
        key = provider.signing_key(KR1, seed)
        signature = key.sign(b"message", b"context")
        right = key.public_key == reference.signing_key(KR1, seed).public_key
        return right and reference.verify(KR1, key.public_key, b"message", signature, b"context")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))
