"""Proof of possession on an HTTP request: two headers, one signature (docs/protocol.md §3)."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from kairos.errors import BadMessage

DEVICE_HEADER = "Kairos-Device"
SIGNATURE_HEADER = "Kairos-Signature"
NONCE_BYTES = 16
_FORM = re.compile(r"ts=([0-9]{1,12});nonce=([A-Za-z0-9_-]{22});sig=([A-Za-z0-9_-]{100,8192})")


@dataclass(frozen=True, slots=True)
class Proof:
    """timestamp: Unix seconds by the signer's clock; nonce: 16 bytes, never used twice; signature: raw ML-DSA."""

    timestamp: int
    nonce: bytes
    signature: bytes

    def __str__(self) -> str:
        nonce, signature = (base64.urlsafe_b64encode(x).rstrip(b"=").decode() for x in (self.nonce, self.signature))
        return f"ts={self.timestamp};nonce={nonce};sig={signature}"


def parse_proof_untrusted(header: str) -> Proof:
    """Raises BadMessage unless the header is exactly `ts=<seconds>;nonce=<b64url>;sig=<b64url>`."""
    match = _FORM.fullmatch(header)
    if match is None:
        raise BadMessage(f"the {SIGNATURE_HEADER} header is malformed")
    try:
        nonce, signature = (base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) for text in match.group(2, 3))
    except (binascii.Error, ValueError):
        raise BadMessage(f"the {SIGNATURE_HEADER} header is not base64url") from None
    return Proof(int(match[1]), nonce, signature)
