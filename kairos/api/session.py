"""T1: sessions; and what a node may know of the network."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kairos.api.bounds import (
    Count,
    Facts,
    Few,
    Hash,
    Key,
    Name,
    Prefix,
    Rule,
    Signature,
    Some,
    Text,
    Whole,
)
from kairos.constants import BUNDLE_MAX, REPORTS_MAX, SESSION_LIFE_S, SESSION_RENEW_AT_S

_GATEWAYS_MAX = 10_000  # of one tenant


class SessionRequest(msgspec.Struct, omit_defaults=True):
    """T1, signed. `renews`: id of the session whose life this extends; empty for a new one."""

    posture: Facts = {}
    renews: Key = ""
    gateway: Key = ""


class PostureReport(msgspec.Struct):
    """What a device says of itself, each 30 s and when it changed. The request's signature is the report's."""

    facts: Facts


class Advertisement(msgspec.Struct):
    """What an endpoint offers to lead to, all of it: prefixes by name of the VNI, `{"office": ["192.168.70.0/24"]}`."""

    routes: Annotated[dict[Name, Annotated[list[Prefix], Some]], Some]


class IsolationReport(msgspec.Struct):
    """A gateway's word that the policy in force isolates an endpoint, by `rule`. counts, posture: what the rule was asked
    about, the newest report alone. The request's signature is the report's."""

    node: Key
    rule: Rule
    reason: Text
    policy_version: Whole
    counts: Annotated[dict[Name, Count], Few] = {}
    posture: Annotated[list[Facts], Meta(max_length=REPORTS_MAX)] = []


class GatewayAddress(msgspec.Struct):
    """A gateway this session may use. `relay_url` ends in /v1/relay/<gateway>."""

    gateway: str
    relay_url: str
    priority: int = 100


class SessionGrant(msgspec.Struct):
    """`token` is opaque to its holder: `<tenant>.<32 random bytes in base64url>`, so that the fabric finds the one
    object that knows it. The fabric keeps only its hash."""

    session: str
    token: str
    expires_at: int
    vnis: list[int]
    gateways: list[GatewayAddress]
    policy_version: int
    life_s: int = SESSION_LIFE_S

    @property
    def lives_s(self) -> int:
        """No key lives longer than the protocol allows, whatever the fabric says."""
        return min(self.life_s, SESSION_LIFE_S)

    @property
    def renew_at_s(self) -> float:
        """After so many seconds: the same part of every life, and never at once."""
        return max(1.0, self.lives_s * SESSION_RENEW_AT_S / SESSION_LIFE_S)


class Lease(msgspec.Struct):
    """Addresses of one node in one VNI, as interface addresses: `10.7.0.5/24`, `fd07::5/64`."""

    vni: int
    node: str
    addresses: list[str]


class Vni(msgspec.Struct, omit_defaults=True):
    """A VNI as nodes see it. `routes`: extra prefixes reached through `via` (a node). `crossings`: what it sees of other
    VNIs over interconnects; gateways only, for they are where packets cross."""

    vni: int
    name: str
    prefixes: list[str]
    mtu: int = 1380
    dns_suffix: str = ""
    routes: list[Route] = []
    crossings: list[Crossing] = []


class Route(msgspec.Struct):
    """A prefix outside the VNI that the node `via` leads to."""

    prefix: Prefix
    via: Key


class Crossing(msgspec.Struct):
    """The addresses of `prefix` in VNI `vni`, by the names of `seen` in the VNI this stands in."""

    seen: str
    vni: int
    prefix: str


class Member(msgspec.Struct, omit_defaults=True):
    """A node of a VNI, with what policy needs to know of it. `key`: SHA-256 of its raw public key."""

    node: str
    role: str
    name: str
    serial: str
    key: bytes
    tags: list[str] = []
    groups: list[str] = []
    owner: str = ""


class RankedGateway(msgspec.Struct):
    """priority: lower is preferred; weight: its share of VNIs among gateways of the same priority."""

    node: str
    priority: int
    weight: int


class Network(msgspec.Struct, omit_defaults=True):
    """The network as the asking node may see it: an endpoint its own VNIs, a gateway all of its tenant."""

    revision: int
    """It grows with every change of the tenant's network, seen by this node or not."""
    vnis: list[Vni]
    leases: list[Lease]
    """Of every node in those VNIs."""
    members: list[Member]
    """Every node in those VNIs, and the asking node itself: policy names peers by them."""
    revoked: list[str]
    """Nodes whose certificates are dead. A gateway learns of all; an endpoint of gateways, which are its only peers."""
    gateways: list[RankedGateway] = []
    """All active ones, preferred ones first."""
    mark: str = ""
    """Tells this revision from one of the same number in another history, as after a restored backup. Empty: unknown."""


class NetworkUpdate(msgspec.Struct, omit_defaults=True):
    """Answer to `GET /network?since=REVISION&mark=MARK`: what changed since then, or a page of the whole network.

    Both name things by key, so what a node has already it may get again. A fabric that knows no updates answers with a Network,
    which reads as a whole of one page.
    """

    revision: int
    """The network's, before anything else of this answer was read."""
    mark: str = ""
    """Of that revision."""
    base: int | None = None
    """The revision that this changes; None: it is a page of the whole network, and what it does not name is not there."""
    next: str = ""
    """`after` of the page that follows, with since=0; empty: this is the last page."""
    vnis: list[Vni] = []
    leases: list[Lease] = []
    """Instead of what the node had in that VNI. No addresses: it is no member any more."""
    members: list[Member] = []
    removed_vnis: list[int] = []
    """VNIs that are gone, with all leases in them."""
    removed_members: list[str] = []
    """Nodes that are no member of any VNI that the asking node sees, or not active any more."""
    revoked: list[str] = []
    """Beyond those that were revoked before."""
    gateways: list[RankedGateway] | None = None
    """All of them; None: as before."""


class PolicyRecord(msgspec.Struct):
    """A signed bundle's envelope. `signature`: by the policy key, context POLICY_BUNDLE, over
    transcript.policy_bundle(tenant, version, bundle)."""

    tenant: Name
    version: Whole
    sha384: Hash
    signature: Signature


class PolicyUpload(msgspec.Struct):
    """Operator -> fabric: the envelope and the bundle itself."""

    record: PolicyRecord
    bundle: Annotated[bytes, Meta(max_length=BUNDLE_MAX)]


SOURCE_HEADER = "Kairos-Source"
"""Of an Introspection: the address of who showed the token, for limits by source. Not sent for a renewal on a socket that was let in before."""


class Introspection(msgspec.Struct):
    """Relay -> control, internal: who holds this token?"""

    token: Text
    """The session token that the relay was shown."""
    gateway: Key
    """The gateway at whose relay it was shown."""


class Introspected(msgspec.Struct):
    """Control -> relay, internal."""

    node: str
    tenant: str
    role: str
    session: str
    expires_at: int


class Cut(msgspec.Struct, omit_defaults=True):
    """Control -> relay, internal: at these gateways' relay objects close the sockets of a node or session now and
    refuse them until `until` (Unix seconds)."""

    until: Whole
    gateways: Annotated[list[Key], Meta(max_length=_GATEWAYS_MAX)]
    node: Key = ""
    session: Key = ""
