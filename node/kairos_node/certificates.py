"""Whom a certificate names, and whether to believe it (docs/protocol.md §2, T3, E6)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from kairos.audit.head import SignedHead
from kairos.crypto import labels
from kairos.crypto.provider import Provider
from kairos.crypto.suites import Suite
from kairos.errors import Refused
from kairos.identity import transcript
from kairos.identity.certificate import Certificate, parse_certificate_untrusted
from kairos.identity.transcript import fingerprint

_NO_CONTEXT = b""
_ROOT, _ISSUER = 1, 0  # path lengths: how many CAs may follow


@dataclass(frozen=True, slots=True)
class Peer:
    """A node whose certificate was believed. not_after: Unix seconds."""

    node: str
    role: str
    public_key: bytes
    serial: str
    not_after: int


@dataclass(frozen=True, slots=True)
class Trust:
    """What a node pins, and the issuer it was shown. Made by `trust_untrusted`, so the issuer is certified by the root."""

    suite: Suite
    trust_domain: str
    root: Certificate
    issuer: Certificate


def trust_untrusted(
    provider: Provider,
    suite: Suite,
    trust_domain: str,
    root_der: bytes,
    issuer_der: bytes,
    pinned_root: bytes,
    now: float,
) -> Trust:
    """Believes the root for its pinned fingerprint (SHA-256 of the DER), and the issuer for the root's signature.

    Raises Refused (wrong-root, bad-certificate, certificate-expired) or BadMessage.
    """
    if fingerprint(root_der) != pinned_root:
        raise Refused("wrong-root", "the fabric's root certificate is not the one that the join token pinned")
    root, issuer = parse_certificate_untrusted(root_der), parse_certificate_untrusted(issuer_der)
    _check_ca(provider, suite, root, root, _ROOT, now)
    _check_ca(provider, suite, root, issuer, _ISSUER, now)
    return Trust(suite, trust_domain, root, issuer)


def verify_peer_untrusted(
    provider: Provider,
    trust: Trust,
    chain: Sequence[bytes],
    *,
    tenant: str,
    role: str,
    now: float,
    node: str = "",
    revoked: Container[str] = (),
    refused: Container[str] = (),
) -> Peer:
    """The peer that `chain` names, if everything about it is right; `node`: the very one expected, or any.

    chain: DER, the peer's own first, then the issuer it shows: that may be a newer or older one than ours. Root and
    issuer must be valid now as well, also the ones that were valid when they were pinned.
    revoked: nodes; refused: serials.

    Raises Refused (bad-certificate, certificate-expired, certificate-revoked, wrong-peer, revoked) or BadMessage.
    """
    certificate = parse_certificate_untrusted(chain[0])
    _check_time(trust.root, now)
    if certificate.suite is not trust.suite or certificate.is_ca or certificate.spiffe is None:
        raise Refused("bad-certificate", f"the peer's certificate is not a node's of suite {trust.suite.name}")
    _check_signature(provider, _issuer_untrusted(provider, trust, chain[1:], now), certificate)
    _check_time(certificate, now)
    name = certificate.spiffe
    if (name.trust_domain, name.tenant, name.role) != (trust.trust_domain, tenant, role):
        raise Refused("wrong-peer", f"the peer is {name}, not a {role} of tenant {tenant}")
    if node and name.node != node:
        raise Refused("wrong-peer", f"the peer is {name.node}, not {node}")
    if name.node in revoked:
        raise Refused("revoked", f"{name.node} is revoked")
    if certificate.serial in refused:
        raise Refused("certificate-revoked", f"certificate {certificate.serial} of {name.node} is revoked")
    return Peer(name.node, role, certificate.public_key, certificate.serial, certificate.not_after)


def check_audit_head(provider: Provider, root: Certificate, head: SignedHead) -> None:
    """That a key which the root certified for that time signed this head. Raises Refused (bad-certificate,
    certificate-expired, bad-signature) or BadMessage."""
    issuer = parse_certificate_untrusted(head.issuer)
    _check_ca(provider, root.suite, root, issuer, _ISSUER, head.at)
    signed = transcript.audit_head(head.tenant, head.size, head.root, head.at)
    if not provider.verify(root.suite, issuer.public_key, signed, head.signature, labels.AUDIT_HEAD):
        raise Refused("bad-signature", f"the signature of {issuer.subject} on the audit head is wrong")


def _issuer_untrusted(provider: Provider, trust: Trust, shown: Sequence[bytes], now: float) -> Certificate:
    """Our own issuer, or the one that the peer shows if the root certified that too: an operator's `kairos fabric
    renew` reaches each node with its next certificate only."""
    if not shown or shown[0] == trust.issuer.der:
        _check_time(trust.issuer, now)
        return trust.issuer
    issuer = parse_certificate_untrusted(shown[0])
    _check_ca(provider, trust.suite, trust.root, issuer, _ISSUER, now)
    return issuer


def _check_ca(
    provider: Provider, suite: Suite, root: Certificate, ca: Certificate, path_length: int, now: float
) -> None:
    """`ca` is the root itself, or an issuer that it certified: their path lengths tell which of the two."""
    if ca.suite is not suite or ca.path_length != path_length:
        kind = "a root" if path_length == _ROOT else "an issuer"
        raise Refused("bad-certificate", f"{ca.subject} is not the certificate of {kind} of suite {suite.name}")
    _check_signature(provider, root, ca)
    _check_time(ca, now)


def _check_signature(provider: Provider, issuer: Certificate, certificate: Certificate) -> None:
    if certificate.issuer != issuer.subject:
        raise Refused("bad-certificate", f"{certificate.subject} was not issued by {issuer.subject}")
    if not provider.verify(issuer.suite, issuer.public_key, certificate.tbs, certificate.signature, _NO_CONTEXT):
        raise Refused("bad-certificate", f"the signature of {issuer.subject} on {certificate.subject} is wrong")


def _check_time(certificate: Certificate, now: float) -> None:
    if not certificate.valid_at(now):
        raise Refused("certificate-expired", f"the certificate of {certificate.subject} is not valid now")
