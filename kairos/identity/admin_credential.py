"""What an administrator of the fabric holds: `kra_<id>_<secret>`, 256 random bits under a public id. The fabric keeps its SHA-256."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from kairos.errors import BadMessage

ID_BYTES = 8
SECRET_BYTES = 32
_FORM = re.compile(r"kra_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class AdminCredential:
    """admin: 16 hex digits. secret: 32 bytes."""

    admin: str
    secret: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"kra_{self.admin}_{base64.urlsafe_b64encode(self.secret).decode().rstrip('=')}"


def parse_admin_credential_untrusted(text: str) -> AdminCredential:
    """Raises BadMessage."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise BadMessage("an admin credential is kra_<16 hex digits>_<43 characters>")
    try:
        secret = base64.b64decode(match[2] + "=", altchars=b"-_", validate=True)
    except binascii.Error:
        raise BadMessage("an admin credential's secret is base64url") from None
    return AdminCredential(match[1], secret)
