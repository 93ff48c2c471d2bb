"""Messages on the events WebSocket between a node and its Tenant object: JSON text, told apart by `kind`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kairos.api.bounds import Key, Rule, Signature, Text, Whole
from kairos.api.session import PolicyRecord
from kairos.audit.head import SignedHead
from kairos.errors import UNREADABLE, BadMessage


class AdmissionRequest(msgspec.Struct, tag="admission-request", tag_field="kind"):
    """E2, fabric -> gateway. `input` is the JSON text of the policy input: verdicts are signed over these bytes."""

    id: str
    input: str


class AdmissionVerdict(msgspec.Struct, tag="admission-verdict", tag_field="kind"):
    """E2, gateway -> fabric. signature: context ADMISSION_VERDICT, over transcript.admission_verdict(...)."""

    id: Key
    outcome: Literal["allow", "hold", "deny"]
    rule: Rule
    reason: Text
    signature: Signature


class CertificateNotice(msgspec.Struct, tag="certificate-notice", tag_field="kind"):
    """E7, fabric -> gateway."""

    node: str
    serial: str
    certificate: bytes


class CertificateRefusal(msgspec.Struct, tag="certificate-refusal", tag_field="kind"):
    """Fabric -> gateways, the certificate's own node, and everyone where that is a gateway: not to be believed after `in_s`
    seconds, although it holds until `not_after`."""

    serial: str
    node: str
    in_s: int
    not_after: int


class SessionNotice(msgspec.Struct, tag="session-notice", tag_field="kind"):
    """T1, fabric -> gateways: this session exists until `expires_at`, for these VNIs. Sent again at renewal."""

    session: str
    node: str
    vnis: list[int]
    expires_at: int
    posture: dict[str, Any] = {}
    posture_at: int = 0


class PostureNotice(msgspec.Struct, tag="posture-notice", tag_field="kind"):
    """Fabric -> gateways: what a device says of itself; at: when the fabric got it."""

    node: str
    at: int
    facts: dict[str, Any]


class Revocation(msgspec.Struct, tag="revocation", tag_field="kind"):
    """Fabric -> all nodes of the tenant: the node's certificates up to now are dead."""

    node: str
    reason: str


IsolationState = Literal["isolated", "released"]


class Isolation(msgspec.Struct, tag="isolation", tag_field="kind"):
    """Fabric -> all nodes of the tenant: from now on nothing from or to `node`, or all that policy allows again. Each
    answers with a Receipt when it has done so. id: of this isolation, until its release."""

    id: str
    node: str
    state: IsolationState
    reason: str


class Receipt(msgspec.Struct, tag="receipt", tag_field="kind"):
    """Node -> fabric. signature: context ISOLATION_RECEIPT, over transcript.isolation_receipt(...)."""

    isolation: Key
    state: IsolationState
    at_ms: Whole
    signature: Signature


class NetworkChanged(msgspec.Struct, tag="network-changed", tag_field="kind"):
    """Fabric -> the nodes that see a change of the network: fetch what changed. revision: the newest one."""

    revision: int


class PolicyAnnouncement(msgspec.Struct, tag="policy-announcement", tag_field="kind"):
    """Fabric -> nodes: this policy is in force. Fetch its bundle; the record's signature says whether to believe it."""

    record: PolicyRecord


class AuditHead(msgspec.Struct, tag="audit-head", tag_field="kind"):
    """Fabric -> all nodes: the audit log as it stands now. A node keeps the newest that goes on from the one it held."""

    head: SignedHead
    first: int = 0
    """The size under the head before this one; 0: this is the first, or the fabric is older than this field."""
    proof: list[bytes] = []
    """That the log of `first` events is the beginning of this one, so that a node which holds the head before need not ask."""


class Welcome(msgspec.Struct, tag="welcome", tag_field="kind"):
    """Fabric -> node, first message after the socket opened: what to compare one's own state with."""

    revision: int
    policy_version: int
    now: int
    sessions: list[SessionNotice] = []
    isolations: list[Isolation] = []
    audit_head: SignedHead | None = None
    refused: list[CertificateRefusal] = []
    mark: str = ""
    """Of the revision; empty: unknown."""


ToNode = (
    Welcome
    | AdmissionRequest
    | CertificateNotice
    | CertificateRefusal
    | SessionNotice
    | PostureNotice
    | Revocation
    | Isolation
    | NetworkChanged
    | PolicyAnnouncement
    | AuditHead
)
ToFabric = AdmissionVerdict | Receipt

_to_node: msgspec.json.Decoder[ToNode] = msgspec.json.Decoder(ToNode)
_to_fabric: msgspec.json.Decoder[ToFabric] = msgspec.json.Decoder(ToFabric)


def encode(message: ToNode | ToFabric) -> str:
    """The text of one WebSocket message."""
    return msgspec.json.encode(message).decode()


def parse_to_node_untrusted(text: str | bytes) -> ToNode:
    """Raises BadMessage."""
    try:
        return _to_node.decode(text)
    except UNREADABLE as error:
        raise BadMessage(f"push message: {error}") from None


def parse_to_fabric_untrusted(text: str | bytes) -> ToFabric:
    """Raises BadMessage."""
    try:
        return _to_fabric.decode(text)
    except UNREADABLE as error:
        raise BadMessage(f"push message: {error}") from None
