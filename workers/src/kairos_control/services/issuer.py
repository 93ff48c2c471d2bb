"""Signatures of the issuing CA: certificates, heads of the audit log, and receipts for the relay."""

from __future__ import annotations

from kairos.crypto import labels

from ..ports import Issuer, Platform
from ..problems import problem

_PROOF = b"The seed of the issuer belongs to the key in its certificate."
_RETRY_S = 60


async def sign(platform: Platform, message: bytes, context: bytes) -> bytes:
    """Signs with the issuer's key. Raises issuer-mismatch, at each call, while that key is not the one in its
    certificate."""
    issuer = platform.settings.issuer
    if not issuer.proven:
        await _prove(platform, issuer)
    return await platform.signatures.sign(issuer.seed, message, context)


async def _prove(platform: Platform, issuer: Issuer) -> None:
    """Once an isolate: it keeps the settings as long as it lives."""
    signature = await platform.signatures.sign(issuer.seed, _PROOF, labels.ISSUER_PROOF)
    key = issuer.certificate.public_key
    if not await platform.signatures.verify(key, _PROOF, signature, labels.ISSUER_PROOF):
        raise problem(
            "issuer-mismatch",
            "the fabric's issuing key and certificate are not of one issuer; the operator runs: kairos fabric deploy",
            _RETRY_S,
        )
    issuer.proven = True
