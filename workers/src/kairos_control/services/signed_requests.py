"""Checks requests that nodes sign (docs/protocol.md §3): the signature, the time stamp, and that the nonce is new."""

from __future__ import annotations

from dataclasses import dataclass

from kairos.constants import CLOCK_SKEW_S
from kairos.crypto import labels
from kairos.errors import BadMessage
from kairos.identity import transcript
from kairos.identity.signed_request import Proof, parse_proof_untrusted

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a signature is over, and the signature."""

    method: str
    """The HTTP method, in upper case."""
    target: str
    """Path and query exactly as they were sent."""
    body: bytes
    """The body exactly as it was sent."""
    proof: str
    """The header that holds time stamp, nonce and signature; empty: it was not sent."""


class SignedRequests:
    """Checks the signed requests of one tenant's nodes."""

    def __init__(self, platform: TenantPlatform, store: Stores) -> None:
        self._platform, self._store = platform, store

    async def check(self, request: SignedRequest, public_key: bytes) -> int:
        """Returns by how many seconds the signer's clock is ahead of ours.

        Raises unauthorized (the proof is missing or malformed), stale-timestamp, bad-signature, replayed.
        """
        now, proof = self._platform.clock(), _proof(request)
        if abs(now - proof.timestamp) > CLOCK_SKEW_S:
            raise problem(
                "stale-timestamp", f"the fabric's clock is {int(now)}, yours said {proof.timestamp}; set your clock"
            )
        signed = transcript.signed_request(request.method, request.target, proof.timestamp, proof.nonce, request.body)
        if not await self._platform.signatures.verify(public_key, signed, proof.signature, labels.REQUEST):
            raise problem("bad-signature", "the request was altered on its way, or signed by another key")
        signer = transcript.fingerprint(public_key).hex()
        if not self._store.nonces.take(signer, proof.nonce.hex(), proof.timestamp, int(now)):
            raise problem("replayed", "sign every request anew")
        return proof.timestamp - int(now)


def _proof(request: SignedRequest) -> Proof:
    try:
        return parse_proof_untrusted(request.proof)
    except BadMessage as error:
        raise problem("unauthorized", str(error)) from None
