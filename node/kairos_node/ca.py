"""The operator's certificate authority: a root that stays offline, and the issuing CA that it certifies for the fabric."""

from __future__ import annotations

from collections.abc import Callable

from kairos.crypto.provider import Provider, SigningKey
from kairos.crypto.suites import Suite
from kairos.identity.certificate import (
    SERIAL_BYTES,
    Certificate,
    ca_to_be_signed,
    certificate,
    parse_certificate_untrusted,
)

ROOT_LIFE_S = 10 * 365 * 86_400
ISSUER_LIFE_S = 90 * 86_400
_BACKDATE_S = 300  # a node's clock may be behind ours
_NO_CONTEXT = b""  # RFC 9881 §3

Entropy = Callable[[int], bytes]


def make_root(provider: Provider, suite: Suite, trust_domain: str, seed: bytes, now: int, entropy: Entropy) -> bytes:
    """A self-signed root in DER."""
    key = provider.signing_key(suite, seed)
    name = f"{trust_domain} root"
    tbs = ca_to_be_signed(
        suite,
        name,
        key.public_key,
        name,
        key.public_key,
        entropy(SERIAL_BYTES),
        now - _BACKDATE_S,
        now + ROOT_LIFE_S,
        1,
    )
    return _signed(suite, tbs, key)


def make_issuer(
    provider: Provider,
    root: Certificate,
    root_seed: bytes,
    issuer_seed: bytes,
    trust_domain: str,
    now: int,
    entropy: Entropy,
) -> bytes:
    """The issuing CA's certificate in DER, signed by the root."""
    suite = root.suite
    key = provider.signing_key(suite, issuer_seed)
    tbs = ca_to_be_signed(
        suite, f"{trust_domain} issuer", key.public_key, root.subject, root.public_key, entropy(SERIAL_BYTES),
        now - _BACKDATE_S, min(now + ISSUER_LIFE_S, root.not_after), 0,
    )  # fmt: skip
    return _signed(suite, tbs, provider.signing_key(suite, root_seed))


def _signed(suite: Suite, tbs: bytes, key: SigningKey) -> bytes:
    der = certificate(suite, tbs, key.sign(tbs, _NO_CONTEXT))
    parse_certificate_untrusted(der)
    return der
