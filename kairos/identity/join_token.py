"""Join tokens: what a device knows before it says a word (docs/protocol.md §4)."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from kairos.crypto.suites import SUITES
from kairos.errors import BadMessage
from kairos.identity.spiffe import ROLES, is_name

_PREFIX = "kairos-join-1."
_MAX = 4096
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class JoinToken:
    """secret: 32 bytes, one-time; root_fingerprint, policy_fingerprint: SHA-256, 32 bytes each."""

    fabric_url: str
    trust_domain: str
    suite: str
    tenant: str
    role: str
    token_id: str
    secret: bytes
    root_fingerprint: bytes
    policy_fingerprint: bytes

    def __str__(self) -> str:
        fields = {
            "url": self.fabric_url,
            "domain": self.trust_domain,
            "suite": self.suite,
            "tenant": self.tenant,
            "role": self.role,
            "id": self.token_id,
            "secret": _b64(self.secret),
            "root": _b64(self.root_fingerprint),
            "policy": _b64(self.policy_fingerprint),
        }
        return _PREFIX + _b64(json.dumps(fields, separators=(",", ":")).encode())


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def parse_join_token_untrusted(text: str) -> JoinToken:
    """Raises BadMessage, with a hint for the person who pasted it."""
    text = text.strip()
    if not text.startswith(_PREFIX) or len(text) > _MAX:
        raise BadMessage(f"this is not a join token: it must start with {_PREFIX!r}; ask your operator for a new one")
    try:
        fields = json.loads(_unb64(text.removeprefix(_PREFIX)))
        url, domain, suite, tenant, role, token_id = (
            str(fields[key]) for key in ("url", "domain", "suite", "tenant", "role", "id")
        )
        secret, root, policy = (_unb64(str(fields[key])) for key in ("secret", "root", "policy"))
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise BadMessage("this join token is damaged: copy it again, whole") from None
    token = JoinToken(url, domain, suite, tenant, role, token_id, secret, root, policy)
    sizes = (len(token.secret), len(token.root_fingerprint), len(token.policy_fingerprint))
    if sizes != (SECRET_BYTES, 32, 32) or token.role not in ROLES or token.suite not in SUITES:
        raise BadMessage("this join token is damaged: a field has the wrong size or value")
    if not is_name(token.tenant) or not _is_url(token.fabric_url):
        raise BadMessage("this join token is damaged: its tenant or URL is malformed")
    if not all(text.isascii() and text.isprintable() for text in (url, domain, token_id)):
        raise BadMessage("this join token is damaged: a text in it is not ASCII")
    return token


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is no number
        return False
