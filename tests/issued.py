"""A certificate authority for tests: real keys, real certificates, no fabric."""

from __future__ import annotations

import copy
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
        self.root_seed = os.urandom(32)
        self.root = make_root(provider, suite, DOMAIN, self.root_seed, self.now, os.urandom)
        self._certify_issuer()

    def _certify_issuer(self) -> None:
        root = parse_certificate_untrusted(self.root)
        self.issuer_seed = os.urandom(32)
        issuer = make_issuer(self.provider, root, self.root_seed, self.issuer_seed, DOMAIN, self.now, os.urandom)
        pin = fingerprint(self.root)
        self.trust: Trust = trust_untrusted(self.provider, self.suite, DOMAIN, self.root, issuer, pin, self.now)

    def renewed(self) -> Authority:
        """The same root with a new issuing CA."""
        authority = copy.copy(self)
        authority._certify_issuer()
        return authority

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
