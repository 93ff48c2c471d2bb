"""The policy input: what every decision point is asked about (policies/input.schema.json).

The same document at both ends, so a decision can be replayed anywhere. Every field is there; what is unknown is null or empty,
for a rule must never be skipped because a name was missing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from kairos.api.session import Member

PROTOCOLS = {1: "icmp", 58: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}
UNIT_IN_DOUBT = "?"
UID_IN_DOUBT = 0xFFFFFFFF  # POSIX has no such user
NOBODY = Member("", "client", "", "", b"")


@dataclass(frozen=True, slots=True)
class Application:
    """Who opened a connection on its own host. A fact in doubt never fits an allow and always fits a deny (policies/flow.rego)."""

    path: str
    """Of the executable; empty when it is in doubt."""
    uid: int
    """Owner of the socket; UID_IN_DOUBT when it is in doubt."""
    unit: str
    """Of systemd: `nginx.service`, or `user@1000.service/backup.service` for a unit of a user's own manager. Empty for a process
    of no unit, UNIT_IN_DOUBT when it is in doubt."""
    sha256: str = ""
    """Of the executable, hex; empty when it is in doubt."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where a connection crosses to. source: its address as it is called there; destination: as the source's VNI calls it."""

    vni: int
    vni_name: str
    source: str
    destination: str


def rfc3339(unix: float) -> str:
    """The form of `now`: UTC, to the second."""
    return datetime.fromtimestamp(int(unix), UTC).isoformat().replace("+00:00", "Z")


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


def flow_input(
    point: str,
    *,
    now: str,
    tenant: str,
    vni: int,
    vni_name: str,
    device: Member | None,
    peer: Member | None,
    source: tuple[str, int],
    destination: tuple[str, int],
    protocol: int,
    gateway: str,
    attachment: str = "",
    posture: dict[str, Any] | None = None,
    app: Application | None = None,
    claim_heard: bool = False,
    claimed_app: Application | None = None,
    crossing: Crossing | None = None,
) -> dict[str, Any]:
    """One connection attempt. point: egress, ingress or interconnect; now: RFC 3339, UTC, whole seconds; device: who begins it;
    peer: who is asked; attachment: the node that leads to a source that no node holds, or empty; for ICMP the destination's
    port is the message type; claim_heard, claimed_app: at a gateway, what the endpoint says; crossing: at an interconnect, where vni,
    device and source are of the side that begins, peer and destination of the other."""
    name = PROTOCOLS.get(protocol, str(protocol))
    return {
        "point": point,
        "now": now,
        "week_minute": week_minute(now),
        "tenant": tenant,
        "vni": {"id": vni, "name": vni_name},
        "device": party(device) or party(NOBODY),
        "peer": party(peer),
        "posture": posture or {},
        "app": None if app is None else asdict(app),
        "claims": {"heard": claim_heard, "app": None if claimed_app is None else asdict(claimed_app)},
        "src": {"ip": source[0], "port": source[1]},
        "dst": {"ip": destination[0], "port": destination[1]},
        "proto": name,
        "icmp_type": destination[1] if name == "icmp" else None,
        "direction": "out" if point == "egress" else "in",
        "gateway": gateway,
        "attachment": attachment,
        "interconnect": None if crossing is None else _crossing(crossing),
    }


def _crossing(crossing: Crossing) -> dict[str, Any]:
    return {
        "vni": {"id": crossing.vni, "name": crossing.vni_name},
        "src": crossing.source,
        "dst": crossing.destination,
    }


def session_input(
    *, now: str, tenant: str, device: Member, posture: dict[str, Any], vnis: list[str], gateway: str
) -> dict[str, Any]:
    """T4: an endpoint asks for a tunnel, or to keep it. vnis: the names of those it would be in."""
    return {
        "point": "session",
        "now": now,
        "week_minute": week_minute(now),
        "tenant": tenant,
        "device": party(device),
        "posture": posture,
        "vnis": vnis,
        "gateway": gateway,
    }


def isolation_input(
    *, now: str, tenant: str, device: Member, counts: dict[str, int], reports: list[dict[str, Any]], gateway: str
) -> dict[str, Any]:
    """Does this endpoint's conduct call for its isolation? counts: of the last minute; reports: its posture, newest first."""
    return {
        "point": "isolation",
        "now": now,
        "tenant": tenant,
        "device": party(device),
        "counts": counts,
        "reports": reports,
        "gateway": gateway,
    }


def week_minute(now: str) -> int:
    """Minutes since Monday 00:00 UTC. now: RFC 3339 in UTC."""
    moment = datetime.fromisoformat(now)
    return (moment.weekday() * 24 + moment.hour) * 60 + moment.minute
