"""The world of `kairos demo vni`: two tenants and their VNIs, who is in which, what policy says, and, written down once more by
hand, who may therefore reach whom.

    acme    office  10.7.0.0/24  alice bob      the same prefix twice at one gateway; an interconnect joins the two,
            lab     10.7.0.0/24  alice carol    1:1 under other names
            plant   10.8.0.0/24  dave           with an uplink to the floor's network, where the printer has no agent
    globex  store   10.8.0.0/24  alice erin     the prefix of plant, at a gateway of its own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kairos_cli.demo.hosts import FLOOR

ACME, GLOBEX = "acme", "globex"
PORT = 7000  # where every place answers, by TCP and UDP
FLOOR_NETWORKS = ("192.168.70.0/24", "fd70::/64")
PRINTER6 = "fd70::10"


@dataclass(frozen=True)
class Vni:
    """prefixes: IPv4 and IPv6, each without its last number; seen: the same as the other side of an interconnect calls it."""

    tenant: str
    name: str
    prefixes: tuple[str, str]
    seen: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Node:
    """A daemon. name: of its state; members: its last number in each VNI that it is in."""

    name: str
    host: str
    tenant: str
    tag: str
    members: tuple[tuple[Vni, int], ...] = ()

    @property
    def role(self) -> str:
        return "gateway" if self.tag == "gateway" else "agent"

    @property
    def isolates(self) -> bool:
        """A host in several VNIs keeps each in a namespace of its own, for their prefixes overlap."""
        return self.host == "alice"


OFFICE = Vni(ACME, "office", ("10.7.0.", "fd07::"), ("10.201.0.", "fd21::"))
LAB = Vni(ACME, "lab", ("10.7.0.", "fd07::"), ("10.202.0.", "fd22::"))
PLANT = Vni(ACME, "plant", ("10.8.0.", "fd08::"))
STORE = Vni(GLOBEX, "store", ("10.8.0.", "fd08::"))
VNIS = (OFFICE, LAB, PLANT, STORE)
GATEWAYS = (Node("gateway", "gateway", ACME, "gateway"), Node("gateway2", "gateway2", GLOBEX, "gateway"))
ENDPOINTS = (
    Node("alice", "alice", ACME, "staff", ((OFFICE, 11), (LAB, 21))),
    Node("alice-globex", "alice", GLOBEX, "staff", ((STORE, 41),)),
    Node("bob", "bob", ACME, "guest", ((OFFICE, 12),)),
    Node("carol", "carol", ACME, "lab", ((LAB, 22),)),
    Node("dave", "dave", ACME, "plant", ((PLANT, 32),)),
    Node("erin", "erin", GLOBEX, "clerk", ((STORE, 42),)),
)


@dataclass(frozen=True)
class Place:
    """Someone who can be reached: a host as it stands in one VNI, or the printer. No number is given twice, so that in a VNI
    with the same prefix nobody has this address."""

    name: str
    host: str
    addresses: tuple[str, str]
    vni: Vni | None = None
    node: Node | None = None
    number: int = 0

    def called_by(self, source: Place) -> tuple[str, str]:
        """Its addresses as they are known where `source` is."""
        if self.vni is not None and {self.vni, source.vni} == {OFFICE, LAB}:
            return _numbered(self.vni.seen, self.number)
        return self.addresses


def _numbered(prefixes: tuple[str, str], number: int) -> tuple[str, str]:
    return f"{prefixes[0]}{number}", f"{prefixes[1]}{number}"


PRINTER = Place("printer", "printer", (FLOOR["printer"], PRINTER6))
PLACES = (
    *(
        Place(f"{node.host}@{vni.name}", node.host, _numbered(vni.prefixes, number), vni, node, number)
        for node in ENDPOINTS
        for vni, number in node.members
    ),
    PRINTER,
)

# -- policy, and what it means -----------------------------------------------------------------------------------------

ADMISSION = [
    {"id": "gateways", "roles": ["gateway"], "outcome": "hold", "reason": "a gateway waits for the operator"},
    {"id": "endpoints", "roles": ["endpoint"], "outcome": "allow", "reason": "the operator made the token"},
]


def _grant(name: str, source: str, target: list[str], ports: list[str], **more: Any) -> dict[str, Any]:
    return {"id": name, "from": [source], "to": target, "ports": ports, **more}


def grants_of(tenant: str, gateway: str) -> dict[str, Any]:
    """gateway: the node that the clients of the uplink are attached to."""
    return {"admission": ADMISSION, **(_globex() if tenant == GLOBEX else _acme(gateway))}


def _acme(gateway: str) -> dict[str, Any]:
    tcp, udp = f"tcp/{PORT}", f"udp/{PORT}"
    names = {vni: [f"{vni.seen[0]}0/24", f"{vni.seen[1]}/64"] for vni in (OFFICE, LAB)}
    across = {"interconnect": "office->lab"}
    return {
        "deny": [_grant("guests-stay", "tag:guest", ["*"], ["*"], reason="guests do not leave the office", **across)],
        "allow": [
            _grant("office", "*", ["tag:staff", "tag:guest"], [tcp, "icmp"], vnis=["office"]),
            _grant("lab-in", "tag:staff", ["tag:lab"], ["*"], vnis=["lab"]),
            _grant("lab-out", "tag:lab", ["tag:staff"], [udp], vnis=["lab"]),
            _grant("to-the-lab", "*", names[LAB], [tcp], vnis=["office"]),
            _grant("across", "*", ["tag:lab"], [tcp], **across),
            {**_grant("from-the-office", "*", ["tag:lab"], [tcp], vnis=["lab"]), "from": names[OFFICE]},
            _grant("print", "tag:plant", [f"{FLOOR['printer']}/32"], ["*"]),
            _grant("print-v6", "tag:plant", [FLOOR_NETWORKS[1]], [tcp]),
            _grant("printer", f"external:{gateway}", ["tag:plant"], [udp]),
        ],
    }


def _globex() -> dict[str, Any]:
    return {
        "allow": [
            _grant("stock", "tag:clerk", ["tag:staff"], [f"tcp/{PORT}", f"udp/{PORT}"]),
            _grant("ping", "tag:staff", ["tag:clerk"], ["icmp"]),
        ]
    }


# Read off the grants above by a person, not by the engine: over IPv4, over IPv6. Who is not here reaches nobody.
MAY: dict[tuple[str, str], tuple[str, str]] = {
    ("alice@office", "bob@office"): ("tcp icmp", "tcp icmp"),
    ("bob@office", "alice@office"): ("tcp icmp", "tcp icmp"),
    ("alice@office", "carol@lab"): ("tcp", "tcp"),
    ("alice@lab", "carol@lab"): ("tcp udp icmp", "tcp udp icmp"),
    ("carol@lab", "alice@lab"): ("udp", "udp"),
    ("dave@plant", "printer"): ("tcp udp icmp", "tcp"),
    ("printer", "dave@plant"): ("udp", "udp"),
    ("alice@store", "erin@store"): ("icmp", "icmp"),
    ("erin@store", "alice@store"): ("tcp udp", "tcp udp"),
}
