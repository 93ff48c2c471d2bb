"""All errors that the control plane answers with (docs/protocol.md §9)."""

from __future__ import annotations

from kairos.api.problem import ProblemError

# code: (HTTP status, title). `detail` is given where the error is raised and says what to do next.
PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed": (400, "The request is malformed"),
    "invalid": (422, "A field of the request is missing or has a wrong value"),
    "length-required": (411, "The request has no Content-Length"),
    "body-too-large": (413, "The request body is too large"),
    "request-timeout": (408, "The request body did not arrive in time"),
    "not-found": (404, "No such resource"),
    "method-not-allowed": (405, "The resource does not know this method"),
    "upgrade-required": (426, "This resource is a WebSocket"),
    "unauthorized": (401, "The request is not authorized"),
    "out-of-scope": (403, "The credential does not reach so far"),
    "unknown-device": (401, "The fabric knows no such device"),
    "bad-signature": (401, "The signature does not verify"),
    "stale-timestamp": (401, "The request was signed too long ago, or in the future"),
    "replayed": (401, "The request was sent before"),
    "certificate-expired": (401, "The certificate of the device has ended"),
    "revoked": (403, "The device is revoked"),
    "key-replaced": (403, "The key was replaced by a newer one"),
    "isolated": (403, "The device is isolated"),
    "wrong-suite": (403, "The fabric uses another suite"),
    "wrong-tenant": (403, "The token belongs to another tenant"),
    "wrong-role": (403, "The role of the device does not allow this"),
    "token-unknown": (403, "The join token is not known"),
    "token-expired": (403, "The join token has expired"),
    "token-used": (403, "The join token is used up"),
    "token-wrong-role": (403, "The join token is for another role"),
    "admission-denied": (403, "Admission was denied"),
    "challenge-expired": (410, "The challenge has expired"),
    "challenge-used": (409, "The challenge was answered before"),
    "session-ended": (410, "The session has ended"),
    "exists": (409, "The name is taken"),
    "in-use": (409, "The resource is in use"),
    "addresses-exhausted": (409, "A prefix has no free address left"),
    "policy-unsigned": (403, "The bundle is not signed by the operator's policy key"),
    "policy-stale": (409, "The bundle is not newer than the one in force"),
    "too-many-requests": (429, "Too many requests"),
    "no-gateway": (503, "The tenant has no gateway yet"),
    "gateway-unavailable": (503, "No gateway answered"),
    "issuer-mismatch": (503, "The issuer's key is not that of its certificate"),
    "moving": (503, "The records of the tenant are being moved"),
    "schema-newer": (503, "The fabric's code is older than its data"),
    "schema-older": (503, "The fabric's database lacks migrations"),
    "unavailable": (503, "A part of the fabric did not answer"),
    "internal": (500, "The fabric failed"),
}


def problem(code: str, detail: str = "", retry_after_s: int | None = None) -> ProblemError:
    """The exception to raise for `code`."""
    status, title = PROBLEMS[code]
    return ProblemError(code, status, title, detail, retry_after_s)
