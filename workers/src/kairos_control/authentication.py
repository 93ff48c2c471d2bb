"""Who is calling (docs/protocol.md §3). A refusal is always the same shape and never says which half was wrong."""

from __future__ import annotations

import hmac

from kairos.api.problem import ProblemError
from kairos.constants import CLOCK_SKEW_S
from kairos.crypto import labels
from kairos.errors import BadMessage
from kairos.identity import transcript
from kairos.identity.signed_request import DEVICE_HEADER, SIGNATURE_HEADER, Proof, parse_proof_untrusted

from .administrators import bearer
from .http import Call
from .ports import Platform, Settings, TenantPlatform
from .problems import problem
from .records import device_of, refuse_isolated, unb64

NONCE_LIFE_S = 2 * CLOCK_SKEW_S
_EVEN_ISOLATED = ("/events", "/audit")  # it hears of its release, and its record is wanted more than ever


def require_internal(settings: Settings, call: Call) -> None:
    """The relay may ask whose a token is, and no more; all else is for the control plane's own calls."""
    introspects = call.path.startswith("/internal/introspect/")
    accepted = settings.introspection_keys if introspects else (settings.internal_key,)
    shown = bearer(call).encode()
    if not any(hmac.compare_digest(shown, key.encode()) for key in accepted):
        raise problem("unauthorized", "only the fabric's own Workers may call this")


async def require_node(platform: TenantPlatform, call: Call) -> str:
    """The active node of this tenant whose signature verifies; sets call.device to its row, and call.ahead_s."""
    node = call.headers.get(DEVICE_HEADER.lower(), "")
    device = await device_of(platform.store, platform.tenant, node)
    if device is None:
        raise unknown_device(platform.tenant, call)
    if device["status"] != "active":
        raise problem("revoked", device["reason"] or "ask your operator")
    if device["not_after"] + CLOCK_SKEW_S < platform.clock():
        raise problem("certificate-expired", "enroll again with a new join token")
    call.ahead_s = await require_signature(platform, call, unb64(device["public_key"]))
    if not call.path.endswith(_EVEN_ISOLATED):
        refuse_isolated(platform.local, node)
    call.device = device
    return node


def unknown_device(tenant: str, call: Call) -> ProblemError:
    node = call.headers.get(DEVICE_HEADER.lower(), "(none was named)")
    return problem("unknown-device", f"tenant {tenant} has no node {node}; enroll first")


async def require_signature(platform: TenantPlatform, call: Call, public_key: bytes) -> int:
    """The request was signed by `public_key`, now, and has not been seen before. How many seconds its clock is ahead."""
    proof = _proof(call)
    now = platform.clock()
    if abs(now - proof.timestamp) > CLOCK_SKEW_S:
        raise problem(
            "stale-timestamp", f"the fabric's clock is {int(now)}, yours said {proof.timestamp}; set your clock"
        )
    if not await _verifies(platform, call, proof, public_key):
        raise problem("bad-signature", "the request was altered on its way, or signed by another key")
    key = f"{transcript.fingerprint(public_key).hex()}:{proof.nonce.hex()}"
    platform.local.write("DELETE FROM nonces WHERE expires_at < ?", int(now))
    if not platform.local.write(
        "INSERT INTO nonces (nonce, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING", key, int(now + NONCE_LIFE_S)
    ):
        raise problem("replayed", "sign every request anew")
    return proof.timestamp - int(now)


def _proof(call: Call) -> Proof:
    try:
        return parse_proof_untrusted(call.headers.get(SIGNATURE_HEADER.lower(), ""))
    except BadMessage as error:
        raise problem("unauthorized", str(error)) from None


async def _verifies(platform: Platform, call: Call, proof: Proof, public_key: bytes) -> bool:
    signed = transcript.signed_request(call.method, call.target, proof.timestamp, proof.nonce, call.body)
    return await platform.signatures.verify(public_key, signed, proof.signature, labels.REQUEST)
