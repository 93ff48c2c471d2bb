"""A certificate authority for tests: real keys, real certificates, no fabric."""

from __future__ import annotations

import os
import time

from kairos.crypto.provider import Provider
from kairos.crypto.suites import Suite
from kairos.identity.certificate import certificate, node_to_be_signed, parse_certificate_untrusted
from kairos.identity.spiffe import SpiffeId
from kairos.identity.transcript import fingerprint
from kairos_node.ca import make_issuer, make_root
from kairos_node.certificates import Trust, trust_untrusted
from kairos_node.tls import Credentials

DOMAIN = "kairos.test"


class Authority:
    """Root and issuer of one suite, made now."""

    def __init__(self, provider: Provider, suite: Suite) -> None:
        self.provider, self.suite = provider, suite
        self.now = int(time.time())
        root_seed, self.issuer_seed = os.urandom(32), os.urandom(32)
        root = make_root(provider, suite, DOMAIN, root_seed, self.now, os.urandom)
        issuer = make_issuer(
            provider, parse_certificate_untrusted(root), root_seed, self.issuer_seed, DOMAIN, self.now, os.urandom
        )
        self.trust: Trust = trust_untrusted(provider, suite, DOMAIN, root, issuer, fingerprint(root), self.now)

    def issue(self, node: str, role: str = "endpoint", tenant: str = "acme", life_s: int = 3600) -> Credentials:
        """Credentials of a node; a negative life has ended already."""
        seed = os.urandom(32)
        name = SpiffeId(DOMAIN, tenant, role, node)
        key = self.provider.signing_key(self.suite, seed)
        start = self.now - 60 + min(0, life_s)
        tbs = node_to_be_signed(
            self.suite, name, key.public_key, self.trust.issuer, os.urandom(16), start, self.now + life_s
        )
        signature = self.provider.signing_key(self.suite, self.issuer_seed).sign(tbs, b"")
        return Credentials(certificate(self.suite, tbs, signature), seed, self.trust)
