"""WebCrypto verifies by the same rules as the providers of a node."""

from __future__ import annotations

from pathlib import Path

from bare_worker import answer_of
from fabric_host import FabricHost
from kairos.crypto.suites import SUITES
from signature_vectors import signature_vectors

TESTS = Path(__file__).parents[1]
MODULES = [TESTS / name for name in ("signature_probe.py", "signature_vectors.py", "fips204.py")]


def test_a_signature_verifies_if_and_only_if_it_keeps_every_rule(host: FabricHost, tmp_path: Path) -> None:
    said = answer_of(host, tmp_path, "verdicts", MODULES, awaited=True)
    expected = [[vector.name, vector.valid] for suite in SUITES.values() for vector in signature_vectors(suite)]
    assert said == [*expected, ["a context of 256 bytes; at most 255 are possible", "bad-context"]]
