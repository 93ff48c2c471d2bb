"""The policy input: what every decision point is asked about (policies/input.schema.json).

The same document at both ends, so a decision can be replayed anywhere. Every field is always there; what is unknown is null or
empty, for a rule must never be skipped because a name was missing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kairos.api.session import Member, Vni

_PROTOCOLS = {1: "icmp", 58: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}
_NOBODY = {"node": "", "name": "", "role": "client", "tags": [], "groups": [], "owner": ""}


def party(member: Member | None) -> dict[str, Any] | None:
    """A node as policy sees it; None for an address that no node holds."""
    if member is None:
        return None
    return {
        "node": member.node,
        "name": member.name,
        "role": member.role,
        "tags": member.tags,
        "groups": member.groups,
        "owner": member.owner,
    }


def moment(unix: float) -> str:
    """RFC 3339 in UTC, whole seconds: texts of this form compare as the times do."""
    return datetime.fromtimestamp(int(unix), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def flow_input(
    point: str,
    *,
    now: float,
    tenant: str,
    vni: Vni | None,
    device: Member | None,
    peer: Member | None,
    posture: dict[str, Any],
    posture_age_s: float,
    src: tuple[str, int],
    dst: tuple[str, int],
    proto: int,
    icmp_type: int | None,
    direction: str,
    gateway: str,
) -> dict[str, Any]:
    """One connection attempt. point: egress or ingress; now: Unix seconds; device: who begins it, peer: who is asked, None where
    no node holds the address; src, dst: (address, port); proto: IP protocol number; direction: out of this host, or in."""
    name = _PROTOCOLS.get(proto, str(proto))
    return {
        "point": point,
        "now": moment(now),
        "tenant": tenant,
        "vni": {"id": vni.vni, "name": vni.name} if vni else {"id": 0, "name": ""},
        "device": party(device) or _NOBODY,
        "peer": party(peer),
        "posture": posture,
        "posture_age_s": int(posture_age_s),
        "src": {"ip": src[0], "port": src[1]},
        "dst": {"ip": dst[0], "port": dst[1]},
        "proto": name,
        "icmp_type": icmp_type if name == "icmp" else None,
        "direction": direction,
        "gateway": gateway,
    }
