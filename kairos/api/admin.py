"""The operator's API: tenants, VNIs, join tokens, devices, audit. Authorization: Bearer <admin token>."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from kairos.api.bounds import Domain, Few, Hash, Key, Many, Name, Prefix, Some, Text, Uses, Whole
from kairos.api.enrollment import Role
from kairos.api.session import PolicyRecord, Route

Item = TypeVar("Item")
AdminRole = Literal["viewer", "operator", "tenant-admin"]
ROLES: tuple[str, ...] = get_args(AdminRole)  # each may do what the ones before it may


class AdminCreate(msgspec.Struct, omit_defaults=True):
    """secret_hash: SHA-256 of the credential's 32 bytes; the fabric never sees those before they are used."""

    name: Name
    role: AdminRole
    secret_hash: Hash
    life_s: Whole = 30 * 86_400


class AdminRecord(msgspec.Struct):
    """tenant: the only one it is for; empty: all of them. created_by: the actor, as the audit names it."""

    admin: str
    name: str
    role: AdminRole
    tenant: str
    created_at: int
    created_by: str
    expires_at: int


class Tenant(msgspec.Struct, omit_defaults=True):
    tenant: str
    created_at: int = 0
    shard: str = "DB"
    """The D1 binding of the database that has its records."""
    moving_to: str = ""
    """The binding of the database to which they are being moved; empty: they are not."""


class TenantCreate(msgspec.Struct, omit_defaults=True):
    """shard: the D1 binding of a database; empty: the one with the fewest tenants."""

    tenant: Name
    shard: Name = ""


class TenantMove(msgspec.Struct):
    """shard: the D1 binding of a database."""

    shard: Name


class VniCreate(msgspec.Struct, omit_defaults=True):
    """`vni` 0 asks for the next free number. Prefixes: at least one, IPv4 or IPv6 networks. A device that one of `selectors`
    names (`tag:<tag>`, `group:<group>`) is a member by itself."""

    name: Name
    prefixes: Annotated[list[Prefix], Few]
    vni: Whole = 0
    mtu: Whole = 1380
    dns_suffix: Domain = ""
    routes: Annotated[list[Route], Many] = []
    selectors: Annotated[list[Key], Some] = []


class VniRecord(msgspec.Struct, omit_defaults=True):
    vni: int
    name: str
    tenant: str
    prefixes: list[str]
    mtu: int
    dns_suffix: str = ""
    routes: list[Route] = []
    created_at: int = 0
    members: int = 0
    selectors: list[str] = []


class PrefixName(msgspec.Struct):
    """`prefix` of VNI `vni` has the name `seen`, of the same length, in the VNI it is joined to."""

    vni: Name
    prefix: Prefix
    seen: Prefix


class InterconnectCreate(msgspec.Struct, omit_defaults=True):
    """Joins VNIs `a` and `b`. A prefix that no map names keeps its own name on the other side."""

    a: Name
    b: Name
    maps: Annotated[list[PrefixName], Some] = []


class InterconnectRecord(msgspec.Struct, omit_defaults=True):
    a: str
    b: str
    maps: list[PrefixName]
    created_at: int = 0


class MemberWanted(msgspec.Struct, omit_defaults=True):
    """Addresses without a prefix length, at most one in each prefix of the VNI; where none is named the fabric picks one."""

    addresses: Annotated[list[Prefix], Few] = []


class MemberRecord(msgspec.Struct):
    """A node of a VNI, and its addresses there (`10.7.0.5/24`)."""

    node: str
    role: Role
    name: str
    addresses: list[str]


class CertificateRecord(msgspec.Struct):
    """A certificate that has not ended. refused_from: Unix seconds from which on nobody believes it; 0: it holds."""

    serial: str
    node: str
    not_before: int
    not_after: int
    refused_from: int = 0
    reason: str = ""


class RouteApproval(msgspec.Struct):
    """The operator's word on a prefix behind an endpoint; approved false withdraws it."""

    prefix: Prefix
    node: Key
    approved: bool


class RouteRecord(msgspec.Struct):
    """A prefix behind an endpoint. It is in force while the endpoint advertises it and the operator has approved it."""

    vni: str
    prefix: str
    node: str
    name: str
    advertised: bool
    approved: bool


class TokenCreate(msgspec.Struct, omit_defaults=True):
    """A node that joins with this token gets `tags` and a lease in each of `vnis` (names). The fabric stores only
    `secret_hash` (SHA-256): the secret is made and kept by the operator's command."""

    role: Role
    secret_hash: Hash
    uses: Uses = 1
    life_s: Whole = 3600
    vnis: Annotated[list[Name], Some] = []
    tags: Annotated[list[Name], Few] = []
    groups: Annotated[list[Name], Few] = []
    owner: Text = ""
    label: Text = ""


class TokenRecord(msgspec.Struct, omit_defaults=True):
    token_id: str
    tenant: str
    role: Role
    uses: int
    used: int
    expires_at: int
    vnis: list[str] = []
    tags: list[str] = []
    groups: list[str] = []
    owner: str = ""
    label: str = ""


class Device(msgspec.Struct, omit_defaults=True):
    """status: held, active, isolated, denied, revoked. `enrollment` is there while held."""

    node: str
    tenant: str
    role: Role
    name: str
    status: str
    key_fingerprint: bytes
    enrolled_at: int = 0
    serial: str = ""
    certificate_not_after: int = 0
    addresses: list[str] = []
    vnis: list[int] = []
    tags: list[str] = []
    groups: list[str] = []
    owner: str = ""
    online: bool = False
    reason: str = ""
    enrollment: str = ""


class GatewayRank(msgspec.Struct):
    """priority: lower is preferred, the others stand by; weight: the share of VNIs among gateways of one priority."""

    priority: Annotated[int, Meta(ge=0, le=65535)]
    weight: Annotated[int, Meta(ge=1, le=65535)]


class GatewayRecord(msgspec.Struct):
    node: str
    name: str
    priority: int
    weight: int
    online: bool


class PolicyVersion(msgspec.Struct):
    """One policy of a tenant's history, with all that its signature is over but the bundle."""

    record: PolicyRecord
    created_at: int


class PostureRecord(msgspec.Struct):
    """The newest report of a device; at: when the fabric got it, Unix seconds; late: policy takes it for none."""

    node: str
    at: int
    late: bool
    facts: dict[str, Any]


class IsolationReceipt(msgspec.Struct, omit_defaults=True):
    """point: a node, or `relay`; certificate: DER, of the key that signed: a node's present one, or for the relay that of the issuer
    at the time of the receipt."""

    point: str
    at_ms: int
    signature: bytes
    certificate: bytes = b""


class IsolationRecord(msgspec.Struct, omit_defaults=True):
    """state: isolated or released; expected: the points of which a receipt is due; receipts: of this state; issuers: earlier issuing
    certificates (DER) that have not ended, since a node shows one of theirs until its next renewal."""

    id: str
    node: str
    state: str
    reason: str
    at: int
    expected: list[str]
    receipts: list[IsolationReceipt] = []
    issuers: list[bytes] = []


class AuditRetention(msgspec.Struct, omit_defaults=True):
    """days: so long events keep their text; 0: for ever. retired: how many events, from the first on, are left as their leaf
    hashes; before: all of them were sealed before this Unix time. Only days can be set."""

    days: Whole = 0
    retired: Whole = 0
    before: Whole = 0


class Page(msgspec.Struct, Generic[Item]):
    """One page of a listing."""

    items: list[Item]
    next: str = ""
    """The cursor of the following page; empty on the last."""


class Reason(msgspec.Struct, omit_defaults=True):
    """Why a device was denied: it is told."""

    reason: Text = "denied by the operator"
