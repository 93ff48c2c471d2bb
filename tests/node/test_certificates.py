"""Chains: root -> issuer -> node, each in its place and valid now."""

from __future__ import annotations

import os

import pytest

from issued import DOMAIN, Authority
from kairos.audit.head import SignedHead
from kairos.crypto import labels
from kairos.crypto.suites import KR1
from kairos.errors import Refused
from kairos.identity import transcript
from kairos.identity.certificate import (
    Certificate,
    ca_to_be_signed,
    certificate,
    node_to_be_signed,
    parse_certificate_untrusted,
)
from kairos.identity.spiffe import SpiffeId
from kairos.identity.transcript import fingerprint
from kairos_node.certificates import Peer, check_audit_head, trust_untrusted, verify_peer_untrusted
from kairos_node.crypto import provider_named

PROVIDER = provider_named("cryptography")
YEAR_S = 365 * 86_400


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority(PROVIDER, KR1)


def verified(authority: Authority, chain: list[bytes], now: float) -> Peer:
    return verify_peer_untrusted(PROVIDER, authority.trust, chain, tenant="acme", role="endpoint", now=now)


def ca(authority: Authority, subject: str, seed: bytes, path_length: int) -> Certificate:
    """One that the root certifies."""
    root = authority.trust.root
    key = PROVIDER.signing_key(KR1, seed).public_key
    tbs = ca_to_be_signed(
        KR1, subject, key, root.subject, root.public_key, os.urandom(16), authority.now, authority.now + 60, path_length
    )
    signature = PROVIDER.signing_key(KR1, authority.root_seed).sign(tbs, b"")
    return parse_certificate_untrusted(certificate(KR1, tbs, signature))


def node(authority: Authority, issuer: Certificate, issuer_seed: bytes) -> bytes:
    key = PROVIDER.signing_key(KR1, os.urandom(32)).public_key
    name = SpiffeId(DOMAIN, "acme", "endpoint", "ep-a")
    tbs = node_to_be_signed(KR1, name, key, issuer, os.urandom(16), authority.now, authority.now + 60)
    return certificate(KR1, tbs, PROVIDER.signing_key(KR1, issuer_seed).sign(tbs, b""))


def test_an_issuer_that_was_pinned_may_have_ended_since(authority: Authority) -> None:
    der = authority.issue("ep-a", life_s=20 * YEAR_S).certificate
    issuer, root = authority.trust.issuer, authority.trust.root
    for shown in ([], [issuer.der]):
        assert verified(authority, [der, *shown], issuer.not_after).node == "ep-a"
        with pytest.raises(Refused, match="issuer is not valid now") as refused:
            verified(authority, [der, *shown], issuer.not_after + 1)
        assert refused.value.code == "certificate-expired"
        with pytest.raises(Refused, match="root is not valid now"):
            verified(authority, [der, *shown], root.not_after + 1)
        with pytest.raises(Refused, match="root is not valid now"):
            verified(authority, [der, *shown], root.not_before - 1)


def test_the_root_issues_no_nodes(authority: Authority) -> None:
    root = authority.trust.root
    der = node(authority, root, authority.root_seed)
    with pytest.raises(Refused, match="not the certificate of an issuer"):
        verified(authority, [der, root.der], authority.now)


def test_an_issuer_has_the_path_length_of_an_issuer(authority: Authority) -> None:
    seed = os.urandom(32)
    right, wrong = (ca(authority, "another issuer", seed, path_length) for path_length in (0, 1))
    assert verified(authority, [node(authority, right, seed), right.der], authority.now).node == "ep-a"
    with pytest.raises(Refused, match="another issuer is not"):
        verified(authority, [node(authority, wrong, seed), wrong.der], authority.now)
    pin = fingerprint(authority.root)
    with pytest.raises(Refused, match="another issuer is not"):
        trust_untrusted(PROVIDER, KR1, DOMAIN, authority.root, wrong.der, pin, authority.now)
    with pytest.raises(Refused, match="is not the certificate of a root"):
        trust_untrusted(PROVIDER, KR1, DOMAIN, right.der, right.der, fingerprint(right.der), authority.now)


def test_a_node_is_no_issuer(authority: Authority) -> None:
    middle = authority.issue("ep-a")
    between = parse_certificate_untrusted(middle.certificate)
    with pytest.raises(Refused, match="ep-a is not the certificate of an issuer"):
        verified(authority, [node(authority, between, middle.seed), middle.certificate], authority.now)


def test_audit_heads_are_signed_by_an_issuer(authority: Authority) -> None:
    signed = transcript.audit_head("acme", 1, bytes(48), authority.now)
    for issuer, seed in ((authority.trust.issuer, authority.issuer_seed), (authority.trust.root, authority.root_seed)):
        signature = PROVIDER.signing_key(KR1, seed).sign(signed, labels.AUDIT_HEAD)
        head = SignedHead("acme", 1, bytes(48), authority.now, signature, issuer.der)
        if issuer.path_length == 0:
            check_audit_head(PROVIDER, authority.trust.root, head)
        else:
            with pytest.raises(Refused, match="is not the certificate of an issuer"):
                check_audit_head(PROVIDER, authority.trust.root, head)
