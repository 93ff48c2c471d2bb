"""E6: certificates of nodes, signed by the issuing CA whose seed is a secret of the Worker."""

from __future__ import annotations

from kairos.constants import CERTIFICATE_LIFE_S, CLOCK_SKEW_S
from kairos.identity.certificate import (
    SERIAL_BYTES,
    Certificate,
    certificate,
    node_to_be_signed,
    parse_certificate_untrusted,
)
from kairos.identity.spiffe import SpiffeId

from .ports import Platform, Statement
from .records import b64

_NO_CONTEXT = b""  # RFC 9881 §3


async def issue(platform: Platform, tenant: str, role: str, node: str, public_key: bytes) -> Certificate:
    """A certificate that starts a clock skew ago and ends in 24 h, or with the issuer."""
    settings = platform.settings
    now = int(platform.clock())
    tbs = node_to_be_signed(
        settings.suite,
        SpiffeId(settings.trust_domain, tenant, role, node),
        public_key,
        settings.issuer,
        platform.entropy(SERIAL_BYTES),
        now - CLOCK_SKEW_S,
        min(now + CERTIFICATE_LIFE_S, settings.issuer.not_after),
    )
    signature = await platform.signatures.sign(settings.issuer_seed, tbs, _NO_CONTEXT)
    return parse_certificate_untrusted(certificate(settings.suite, tbs, signature))


def record_of(tenant: str, node: str, issued: Certificate) -> Statement:
    """The row that remembers it."""
    return (
        "INSERT INTO certificates (serial, tenant, node, der, not_before, not_after) VALUES (?, ?, ?, ?, ?, ?)",
        (issued.serial, tenant, node, b64(issued.der), issued.not_before, issued.not_after),
    )
