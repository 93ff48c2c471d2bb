"""Who is in a VNI: by token, by selector, by the operator's word; and addresses that go to one node or to none."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane import ControlPlane, Device
from kairos.api.admin import MemberRecord, VniRecord
from kairos.api.problem import ProblemError
from kairos.api.push import NetworkChanged, SessionNotice
from kairos.api.session import Network, SessionGrant

VNIS = "/v1/tenants/acme/vnis"
LAB = {"name": "lab", "prefixes": ["10.9.0.0/24"]}


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def put(plane: ControlPlane, device: Device, *addresses: str, vni: str = "office") -> list[str]:
    path = f"{VNIS}/{vni}/members/{device.node}"
    member: MemberRecord = plane.admin("PUT", path, {"addresses": list(addresses)}, MemberRecord)
    return member.addresses


def remove(plane: ControlPlane, device: Device, vni: str = "office") -> None:
    plane.admin("DELETE", f"{VNIS}/{vni}/members/{device.node}")


def test_an_address_can_be_chosen_and_the_rest_is_given(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined(vnis=[])
    assert put(plane, device, "10.7.0.77") == ["10.7.0.77/24", "fd07::2/64"]
    assert put(plane, device, "10.7.0.77") == ["10.7.0.77/24", "fd07::2/64"]
    assert put(plane, device, "10.7.0.78", "fd07::78") == ["10.7.0.78/24", "fd07::78/64"]
    assert [event["kind"] for event in plane.queue.messages if event["subject"] == device.node][-2:] == [
        "member.added",
        "member.changed",
    ]


@pytest.mark.parametrize(
    ("addresses", "code"),
    [
        (["10.8.0.5"], "invalid"),
        (["10.7.0.0"], "invalid"),
        (["10.7.0.255"], "invalid"),
        (["fd07::"], "invalid"),
        (["office"], "invalid"),
        (["10.7.0.50", "10.7.0.51"], "invalid"),
        (["10.7.0.1"], "exists"),
    ],
    ids=str,
)
def test_an_address_that_cannot_be_is_refused(
    plane: ControlPlane, gateway: Device, addresses: list[str], code: str
) -> None:
    device = plane.joined()
    before = plane.state()
    with refused(code):
        put(plane, device, *addresses)
    assert plane.state() == before


def test_addresses_that_were_chosen_are_stepped_over(plane: ControlPlane, gateway: Device) -> None:
    chosen = plane.joined(vnis=[])
    put(plane, chosen, "10.7.0.3", "fd07::2")
    found = [plane.node(plane.joined(), "GET", "/network", type_=Network).leases for _ in range(2)]
    given = {address for leases in found for lease in leases for address in lease.addresses}
    assert {"10.7.0.2/24", "10.7.0.4/24", "fd07::3/64", "fd07::4/64"} <= given


def test_who_comes_back_has_its_address_again_and_nobody_else_gets_it(plane: ControlPlane, gateway: Device) -> None:
    device, other = plane.joined(), plane.joined(vnis=[])
    held = put(plane, device)
    remove(plane, device)
    with refused("exists"):
        put(plane, other, held[0].split("/")[0])
    assert not set(put(plane, other)) & set(held)
    assert put(plane, device) == held


def test_a_removed_member_loses_that_vni_at_once_and_keeps_the_others(plane: ControlPlane, gateway: Device) -> None:
    lab = plane.admin("POST", VNIS, LAB)["vni"]
    device = plane.joined(vnis=["office", "lab"])
    grant: SessionGrant = plane.node(device, "POST", "/sessions", {}, SessionGrant)
    pushes = plane.connect(gateway)
    remove(plane, device)
    (notice,) = [push for push in pushes if isinstance(push, SessionNotice)]
    assert (notice.session, notice.vnis) == (grant.session, [lab])
    assert isinstance(pushes[-1], NetworkChanged)
    assert [vni.name for vni in plane.node(device, "GET", "/network", type_=Network).vnis] == ["lab"]
    with refused("not-found"):
        remove(plane, device)
    with refused("in-use"):
        remove(plane, gateway)


def test_a_selector_takes_in_who_is_there_and_who_comes(plane: ControlPlane, gateway: Device) -> None:
    here = plane.joined(vnis=[], tags=["web"])
    plane.admin("POST", VNIS, {**LAB, "selectors": ["tag:web", "group:ops"]})
    there, stranger = plane.joined(vnis=[], groups=["ops"]), plane.joined(vnis=[], tags=["ops"])
    members = {each["node"] for each in plane.admin("GET", f"{VNIS}/lab/members")["items"]}
    assert members == {here.node, there.node, gateway.node}
    plane.admin("PUT", f"{VNIS}/lab", {**LAB, "selectors": ["tag:ops"]})
    assert stranger.node in {each["node"] for each in plane.admin("GET", f"{VNIS}/lab/members")["items"]}


def test_a_change_keeps_what_it_does_not_name_and_is_on_record(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    before = plane.admin("GET", f"{VNIS}/office", type_=VniRecord)
    change = {"name": "office", "prefixes": ["10.7.0.0/24", "10.70.0.0/24", "fd07::/64"], "mtu": 1400}
    after = plane.admin("PUT", f"{VNIS}/office", change, VniRecord)
    assert (after.vni, after.mtu, after.members) == (before.vni, 1400, before.members)
    addresses = plane.admin("GET", f"/v1/tenants/acme/devices/{device.node}")["addresses"]
    assert (addresses[0], addresses[1][:8], addresses[2]) == ("10.7.0.2/24", "10.70.0.", "fd07::2/64")
    (event,) = plane.audited("vni.changed")
    assert (event["detail"]["before"]["mtu"], event["detail"]["after"]["mtu"]) == (before.mtu, 1400)
    plane.admin("PUT", f"{VNIS}/office", change)
    assert len(plane.audited("vni.changed")) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "other"}, "invalid"),
        ({"vni": 77}, "invalid"),
        ({"selectors": ["everyone"]}, "invalid"),
        ({"prefixes": ["10.7.0.0/24"]}, "in-use"),
    ],
    ids=str,
)
def test_a_change_that_cannot_be_is_refused(
    plane: ControlPlane, gateway: Device, change: dict[str, Any], code: str
) -> None:
    plane.joined()
    before = plane.state()
    with refused(code):
        plane.admin("PUT", f"{VNIS}/office", {"name": "office", "prefixes": ["10.7.0.0/24", "fd07::/64"], **change})
    assert plane.state() == before


def test_a_vni_that_has_no_room_for_the_gateways_is_not_made(plane: ControlPlane, gateway: Device) -> None:
    before = plane.state()
    with refused("addresses-exhausted"):
        plane.admin("POST", VNIS, {"name": "tiny", "prefixes": ["10.9.0.4/32"]})
    assert plane.state() == before


def test_listings_come_in_pages(plane: ControlPlane, gateway: Device) -> None:
    devices = sorted([plane.joined().node for _ in range(4)] + [gateway.node])
    for listing, key in (("devices", "node"), ("vnis/office/members", "node")):
        first = plane.admin("GET", f"/v1/tenants/acme/{listing}?limit=3")
        second = plane.admin("GET", f"/v1/tenants/acme/{listing}?limit=3&after={first['next']}")
        assert [each[key] for each in first["items"] + second["items"]] == devices
        assert second["next"] == ""
    for limit in ("0", "1001", "many"):
        with refused("invalid"):
            plane.admin("GET", f"/v1/tenants/acme/tokens?limit={limit}")
