"""E1-E6 and certificate renewal (docs/protocol.md §4)."""

from __future__ import annotations

from typing import Literal

import msgspec

from kairos.api.bounds import Facts, Hash, Key, Name, PublicKey, Signature

Role = Literal["endpoint", "gateway"]
EnrollmentStatus = Literal["challenged", "held", "issued", "denied"]


class FabricInfo(msgspec.Struct):
    """What anyone may know. Certificates are DER; the policy key is a raw ML-DSA public key."""

    version: str
    suite: str
    trust_domain: str
    relay_url: str
    root_certificate: bytes
    issuer_certificate: bytes
    policy_key: bytes


class EnrollRequest(msgspec.Struct):
    """E1. The HTTP request carries a Kairos-Signature made by the key in `public_key`."""

    suite: Name
    role: Role
    token_id: Key
    token_secret: Hash
    public_key: PublicKey
    hostname: Name
    posture: Facts = {}


class Challenge(msgspec.Struct):
    """E3. Single use, dies at `expires_at`."""

    enrollment: str
    challenge: bytes
    expires_at: int


class ChallengeResponse(msgspec.Struct):
    """E4. signature: ML-DSA, context ENROLL_RESPONSE, over transcript.enrollment(E1 body, E3 body)."""

    signature: Signature


class Enrollment(msgspec.Struct, omit_defaults=True):
    """E5/E6. `certificate` (DER) and `node` are there when status is `issued`; `reason` when held or denied."""

    enrollment: str
    status: EnrollmentStatus
    reason: str = ""
    rule: str = ""
    node: str = ""
    certificate: bytes = b""


class RenewRequest(msgspec.Struct, omit_defaults=True):
    """Renewal under a request signed by the current key. With `new_public_key` the key rotates: `new_key_signature`
    is made by the new key, context ROTATE_KEY, over transcript.rotation(...)."""

    new_public_key: PublicKey = b""
    new_key_signature: Signature = b""


class Certificate(msgspec.Struct):
    """A node certificate in DER and when it ends."""

    node: str
    serial: str
    certificate: bytes
    not_after: int
