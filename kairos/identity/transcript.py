"""What exactly is signed. Every field is length-prefixed, so no two different inputs give the same bytes."""

from __future__ import annotations

import hashlib


def pack_fields(*fields: bytes) -> bytes:
    """u32 length | bytes, for each field, in order."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def digest(*fields: bytes) -> bytes:
    """SHA-384 over the packed fields, 48 bytes."""
    return hashlib.sha384(pack_fields(*fields)).digest()


def fingerprint(data: bytes) -> bytes:
    """SHA-256 of a DER certificate or raw public key, 32 bytes: what join tokens pin and people compare."""
    return hashlib.sha256(data).digest()


def signed_request(method: str, target: str, timestamp: int, nonce: bytes, body: bytes) -> bytes:
    """What a device signs to speak to the fabric (§3). target: path with query, as sent; timestamp: Unix seconds."""
    return digest(method.encode(), target.encode(), str(timestamp).encode(), nonce, body)


def enrollment(request_body: bytes, challenge_body: bytes) -> bytes:
    """E4: both bodies exactly as they crossed the wire."""
    return digest(b"enrollment", request_body, challenge_body)


def rotation(device: str, old_public_key: bytes, new_public_key: bytes) -> bytes:
    """The new key signs this, the request itself is signed by the old one: both are proven."""
    return digest(b"rotation", device.encode(), old_public_key, new_public_key)


def admission_verdict(request_id: str, input_json: bytes, outcome: str, rule: str, reason: str) -> bytes:
    """E2: a gateway's answer, bound to the very input it judged. outcome: allow, hold or deny."""
    return digest(b"admission", request_id.encode(), input_json, outcome.encode(), rule.encode(), reason.encode())


def tunnel(exporter: bytes, session: str, epoch: int, kem_public_key: bytes, ciphertext: bytes = b"") -> bytes:
    """T4: the offer is signed with an empty ciphertext, the answer with the one it carries."""
    return digest(b"tunnel", exporter, session.encode(), epoch.to_bytes(4, "big"), kem_public_key, ciphertext)


def policy_bundle(tenant: str, version: int, bundle: bytes) -> bytes:
    """What the operator's policy key signs."""
    return digest(b"bundle", tenant.encode(), version.to_bytes(8, "big"), hashlib.sha384(bundle).digest())


def audit_head(tenant: str, size: int, root: bytes, at: int) -> bytes:
    """A tenant's audit log as it stands: how many events, the Merkle root over them, and when (Unix seconds)."""
    return digest(b"audit head", tenant.encode(), size.to_bytes(8, "big"), root, at.to_bytes(8, "big"))


def isolation_receipt(isolation: str, node: str, point: str, state: str, at_ms: int) -> bytes:
    """What an enforcement point signs once a node is isolated, or released, there."""
    return digest(b"receipt", isolation.encode(), node.encode(), point.encode(), state.encode(), str(at_ms).encode())
