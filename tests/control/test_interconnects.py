"""Two VNIs joined: what has which name where, what is refused, and who is told."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane import ControlPlane, Device
from kairos.api.admin import InterconnectRecord, PrefixName
from kairos.api.problem import ProblemError
from kairos.api.push import NetworkChanged
from kairos.api.session import Crossing, Network

VNIS = "/v1/tenants/acme/vnis"
JOINS = "/v1/tenants/acme/interconnects"
MAPS = [
    {"vni": "office", "prefix": "10.7.0.0/24", "seen": "10.201.0.0/24"},
    {"vni": "office", "prefix": "fd07::/64", "seen": "fd21::/64"},
    {"vni": "lab", "prefix": "10.7.0.0/24", "seen": "10.202.0.0/24"},
]


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


@pytest.fixture(autouse=True)
def lab(plane: ControlPlane, gateway: Device) -> None:
    """The same IPv4 prefix as office has; an IPv6 prefix of its own."""
    plane.admin("POST", VNIS, {"name": "lab", "prefixes": ["10.7.0.0/24", "fd08::/64"]})
    plane.admin("POST", VNIS, {"name": "yard", "prefixes": ["10.9.0.0/24"]})


def join(plane: ControlPlane, a: str = "office", b: str = "lab", maps: list[Any] = MAPS) -> InterconnectRecord:
    record: InterconnectRecord = plane.admin("POST", JOINS, {"a": a, "b": b, "maps": maps}, InterconnectRecord)
    return record


def crossings(plane: ControlPlane, node: Device) -> dict[str, list[Crossing]]:
    network: Network = plane.node(node, "GET", "/network", type_=Network)
    return {vni.name: vni.crossings for vni in network.vnis if vni.crossings}


def test_each_side_names_the_other(plane: ControlPlane, gateway: Device) -> None:
    record = join(plane)
    assert (record.a, record.b) == ("lab", "office")
    assert PrefixName("lab", "fd08::/64", "fd08::/64") in record.maps  # no map: its own name
    numbers = {vni.name: vni.vni for vni in plane.node(gateway, "GET", "/network", type_=Network).vnis}
    assert crossings(plane, gateway) == {
        "office": [
            Crossing("10.202.0.0/24", numbers["lab"], "10.7.0.0/24"),
            Crossing("fd08::/64", numbers["lab"], "fd08::/64"),
        ],
        "lab": [
            Crossing("10.201.0.0/24", numbers["office"], "10.7.0.0/24"),
            Crossing("fd21::/64", numbers["office"], "fd07::/64"),
        ],
    }


def test_an_endpoint_is_not_told(plane: ControlPlane, gateway: Device) -> None:
    join(plane)
    assert crossings(plane, plane.joined()) == {}


def test_it_is_shown_listed_and_deleted_in_either_order(plane: ControlPlane, gateway: Device) -> None:
    record = join(plane)
    join(plane, "lab", "yard", [])
    assert plane.admin("GET", f"{JOINS}/lab/office", type_=InterconnectRecord) == record
    page = plane.admin("GET", f"{JOINS}?limit=1")
    assert [(each["a"], each["b"]) for each in page["items"]] == [("lab", "office")]
    page = plane.admin("GET", f"{JOINS}?limit=1&after={page['next']}")
    assert ([(each["a"], each["b"]) for each in page["items"]], page["next"]) == ([("lab", "yard")], "")
    plane.admin("DELETE", f"{JOINS}/office/lab")
    assert set(crossings(plane, gateway)) == {"lab", "yard"}
    with refused("not-found"):
        plane.admin("GET", f"{JOINS}/lab/office")


def test_every_change_is_told_and_audited(plane: ControlPlane, gateway: Device) -> None:
    pushes = plane.connect(gateway)
    pushes.clear()
    join(plane)
    plane.admin("DELETE", f"{JOINS}/lab/office")
    assert [type(push) for push in pushes] == [NetworkChanged, NetworkChanged]
    events = [event for event in plane.events() if event.kind.startswith("interconnect.")]
    assert [(event.kind, event.subject) for event in events] == [
        ("interconnect.created", "lab <-> office"),
        ("interconnect.deleted", "lab <-> office"),
    ]
    assert events[0].detail["after"] == events[1].detail["before"]


@pytest.mark.parametrize(
    ("a", "b", "maps", "code"),
    [
        ("office", "office", [], "invalid"),
        ("office", "nowhere", [], "not-found"),
        ("office", "lab", [], "invalid"),  # the prefixes overlap
        ("office", "lab", MAPS[:1], "invalid"),  # in one direction only
        ("office", "yard", [{"vni": "lab", "prefix": "10.7.0.0/24", "seen": "10.201.0.0/24"}], "invalid"),
        ("office", "yard", [{"vni": "office", "prefix": "10.7.0.0/24", "seen": "10.201.0.0/25"}], "invalid"),
        ("office", "yard", [{"vni": "office", "prefix": "10.7.0.0/24", "seen": "fd21::/24"}], "invalid"),
        ("office", "yard", [{"vni": "office", "prefix": "10.7.0.0/16", "seen": "10.201.0.0/16"}], "invalid"),
        ("office", "yard", [{"vni": "office", "prefix": "10.7.0.0/24", "seen": "10.9.0.0/24"}], "invalid"),
        ("office", "yard", [{"vni": "office", "prefix": "10.7.0.1/24", "seen": "10.201.0.0/24"}], "invalid"),
        ("office", "yard", [MAPS[0], {**MAPS[0], "seen": "10.202.0.0/24"}], "invalid"),
        ("office", "yard", [MAPS[0], {**MAPS[1], "seen": "10.201.0.0/24"}], "invalid"),
    ],
)
def test_what_makes_no_sense_is_refused(plane: ControlPlane, a: str, b: str, maps: list[Any], code: str) -> None:
    before = plane.state()
    with refused(code):
        join(plane, a, b, maps)
    assert plane.state() == before


def test_two_interconnects_do_not_share_a_name(plane: ControlPlane) -> None:
    join(plane)
    with refused("exists"):
        join(plane)
    with refused("invalid"):
        join(plane, "office", "yard", [{"vni": "yard", "prefix": "10.9.0.0/24", "seen": "10.202.0.0/24"}])


def test_a_part_of_a_prefix_may_be_shown_alone(plane: ControlPlane) -> None:
    part = {"vni": "office", "prefix": "10.7.0.128/25", "seen": "10.201.0.0/25"}
    record = join(plane, "office", "yard", [part, MAPS[1]])
    assert [each.prefix for each in record.maps if each.vni == "office"] == ["10.7.0.128/25", "fd07::/64"]


def test_a_joined_vni_keeps_what_is_named(plane: ControlPlane) -> None:
    join(plane)
    lab = {"name": "lab", "prefixes": ["10.7.0.0/24", "fd08::/64"]}
    for changed in ({"prefixes": ["fd08::/64"]}, {"prefixes": [*lab["prefixes"], "10.201.0.0/16"]}):
        with pytest.raises(ProblemError, match=r"joined to office|sees of another"):
            plane.admin("PUT", f"{VNIS}/lab", {**lab, **changed})
    plane.admin("PUT", f"{VNIS}/lab", {**lab, "prefixes": [*lab["prefixes"], "10.99.0.0/24"]})
    with refused("in-use"):
        plane.admin("DELETE", f"{VNIS}/lab")
    plane.admin("DELETE", f"{JOINS}/lab/office")
    plane.admin("DELETE", f"{VNIS}/lab")


def test_a_route_takes_no_name_away(plane: ControlPlane, gateway: Device) -> None:
    join(plane)
    office = {"name": "office", "prefixes": ["10.7.0.0/24", "fd07::/64"]}
    with pytest.raises(ProblemError, match=r"lies in 10\.202\.0\.0/24"):
        plane.admin("PUT", f"{VNIS}/office", {**office, "routes": [{"prefix": "10.202.0.0/25", "via": gateway.node}]})
    router = plane.joined()
    with pytest.raises(ProblemError, match=r"lies in 10\.202\.0\.0/24"):
        plane.admin("PUT", f"{VNIS}/office/routes", {"prefix": "10.202.0.0/24", "node": router.node, "approved": True})
    everything = [{"prefix": "0.0.0.0/0", "via": gateway.node}]
    plane.admin("PUT", f"{VNIS}/office", {**office, "routes": everything})
    plane.admin("DELETE", f"{JOINS}/lab/office")
    join(plane)


def test_a_deleted_tenant_takes_its_interconnects(plane: ControlPlane) -> None:
    join(plane)
    plane.admin("DELETE", "/v1/tenants/acme")
