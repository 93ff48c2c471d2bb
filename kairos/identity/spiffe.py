"""SPIFFE names of nodes: spiffe://<trust domain>/tenant/<tenant>/<role>/<id>."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from kairos.errors import BadMessage

ROLES = ("endpoint", "gateway")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def is_name(text: str) -> bool:
    """Tenants, VNIs and nodes are DNS labels: lower case, digits, inner hyphens, at most 63."""
    return _NAME.fullmatch(text) is not None


def node_id(role: str, public_key: bytes) -> str:
    """The id of a node from the raw public key it enrolls with: it stays when the key rotates."""
    digest = base64.b32encode(hashlib.sha256(public_key).digest()).decode().lower()
    return f"{'gw' if role == 'gateway' else 'ep'}-{digest[:16]}"


def is_gateway(node: str) -> bool:
    """By a node's id."""
    return node.startswith("gw-")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """One node's name. role is `endpoint` or `gateway`."""

    trust_domain: str
    tenant: str
    role: str
    node: str

    def __str__(self) -> str:
        path = "device" if self.role == "endpoint" else self.role
        return f"spiffe://{self.trust_domain}/tenant/{self.tenant}/{path}/{self.node}"


def parse_spiffe_untrusted(uri: str) -> SpiffeId:
    """Raises BadMessage unless `uri` is exactly the form above."""
    parts = uri.removeprefix("spiffe://").split("/") if uri.startswith("spiffe://") else []
    if len(parts) != 5 or parts[1] != "tenant" or parts[3] not in ("device", "gateway"):
        raise BadMessage("not a KairOS SPIFFE id")
    domain, _, tenant, path, node = parts
    if not (_DOMAIN.fullmatch(domain) and is_name(tenant) and is_name(node)):
        raise BadMessage("not a KairOS SPIFFE id: a name in it is malformed")
    return SpiffeId(domain, tenant, "endpoint" if path == "device" else path, node)
