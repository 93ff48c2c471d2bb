"""One flipped bit in each byte of what the fabric says in enrollment: a typed error, or nothing that matters changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from issued import DOMAIN, Authority
from kairos.api.enrollment import Enrollment, FabricInfo
from kairos.errors import BadMessage, KairosError
from kairos.identity.join_token import JoinToken, parse_join_token_untrusted
from kairos.identity.signed_request import Proof, parse_proof_untrusted
from kairos.identity.spiffe import parse_spiffe_untrusted
from kairos.identity.transcript import fingerprint
from kairos_node.enrollment import check_fabric_untrusted, check_own_certificate_untrusted
from kairos_node.fabric import _parse, _problem_untrusted
from kairos_node.state import Join

POLICY_KEY = bytes(range(256))


def flips(body: bytes) -> Iterator[bytes]:
    """Every byte once, another bit each time."""
    for place in range(len(body)):
        damaged = bytearray(body)
        damaged[place] ^= 1 << place % 8
        yield bytes(damaged)


@pytest.fixture(scope="session")
def join(authority: Authority) -> Join:
    root = fingerprint(authority.trust.root.der)
    return Join("http://f", DOMAIN, "KR1", "acme", "endpoint", "t1", root, fingerprint(POLICY_KEY), "laptop")


def test_what_the_fabric_says_of_itself(authority: Authority, join: Join) -> None:
    info = FabricInfo("1", "KR1", DOMAIN, "http://r", authority.trust.root.der, authority.trust.issuer.der, POLICY_KEY)
    check_fabric_untrusted(authority.provider, join, info, authority.now)
    pinned = ("suite", "trust_domain", "root_certificate", "issuer_certificate", "policy_key")
    for damaged in flips(msgspec.json.encode(info)):
        try:
            parsed = _parse(damaged, FabricInfo)
            check_fabric_untrusted(authority.provider, join, parsed, authority.now)
        except KairosError:
            continue
        assert all(getattr(parsed, name) == getattr(info, name) for name in pinned)


def test_the_certificate_of_e6(authority: Authority, join: Join) -> None:
    own = authority.issue("ep-a")
    key = authority.provider.signing_key(authority.suite, own.seed).public_key
    enrollment = Enrollment("0" * 32, "issued", node="ep-a", certificate=own.certificate)

    def check(body: bytes) -> Enrollment:
        parsed = _parse(body, Enrollment)
        if parsed.status == "issued":
            check_own_certificate_untrusted(
                authority.provider, own.trust, join, parsed.node, key, parsed.certificate, authority.now
            )
        return parsed

    assert check(msgspec.json.encode(enrollment)) == enrollment
    for damaged in flips(msgspec.json.encode(enrollment)):
        try:
            parsed = check(damaged)
        except KairosError:
            continue
        assert parsed.certificate == enrollment.certificate or parsed.status != "issued"


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (
            parse_join_token_untrusted,
            str(JoinToken("http://f", DOMAIN, "KR1", "acme", "endpoint", "t1", bytes(32), bytes(32), bytes(32))),
        ),
        (parse_proof_untrusted, str(Proof(1_800_000_000, bytes(16), bytes(3309)))),
        (parse_spiffe_untrusted, "spiffe://kairos.test/tenant/acme/device/ep-a"),
    ],
)
def test_texts_end_in_bad_message_only(parse: Callable[[str], Any], text: str) -> None:
    parse(text)
    for damaged in flips(text.encode()):
        try:
            parse(damaged.decode("latin-1"))
        except BadMessage:
            continue


def test_a_damaged_problem_is_still_an_answer() -> None:
    body = b'{"type":"urn:kairos:problem:token-used","title":"used","status":403,"detail":"ask"}'
    for damaged in flips(body):
        assert isinstance(_problem_untrusted(403, "application/problem+json", damaged), Exception)
