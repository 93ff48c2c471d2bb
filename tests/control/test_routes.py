"""Networks behind endpoints: offered by the endpoint, approved by the operator, in force only with both."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane import ControlPlane, Device
from kairos.api.admin import RouteRecord
from kairos.api.problem import ProblemError
from kairos.api.push import NetworkChanged
from kairos.api.session import Network, Route

LAN = "192.168.70.0/24"
OFFER = {"routes": {"office": [LAN]}}


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def decide(plane: ControlPlane, device: Device, prefix: str = LAN, approved: bool = True) -> RouteRecord:
    body = {"prefix": prefix, "node": device.node, "approved": approved}
    record: RouteRecord = plane.admin("PUT", "/v1/tenants/acme/vnis/office/routes", body, RouteRecord)
    return record


def seen(plane: ControlPlane, device: Device) -> list[Route]:
    network: Network = plane.node(device, "GET", "/network", type_=Network)
    return network.vnis[0].routes


def listed(plane: ControlPlane) -> list[Any]:
    items: list[Any] = plane.admin("GET", "/v1/tenants/acme/routes")["items"]
    return items


def test_it_takes_both_words(plane: ControlPlane, gateway: Device) -> None:
    device, other = plane.joined(), plane.joined()
    plane.node(device, "PUT", "/advertisement", OFFER)
    assert seen(plane, gateway) == []
    pushes = plane.connect(gateway)
    assert decide(plane, device).advertised
    assert isinstance(pushes[-1], NetworkChanged)
    for node in (gateway, device, other):
        assert seen(plane, node) == [Route(LAN, device.node)]
    plane.node(device, "PUT", "/advertisement", {"routes": {}})
    assert seen(plane, gateway) == []
    assert listed(plane)[0]["approved"]
    plane.node(device, "PUT", "/advertisement", OFFER)
    assert seen(plane, gateway) == [Route(LAN, device.node)]
    decide(plane, device, approved=False)
    assert seen(plane, gateway) == []
    plane.node(device, "PUT", "/advertisement", {"routes": {}})
    assert listed(plane) == []


def test_every_word_is_on_record_with_before_and_after(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    plane.node(device, "PUT", "/advertisement", OFFER)
    for _ in range(2):
        decide(plane, device)
    decide(plane, device, approved=False)
    (offered,) = plane.audited("route.advertised")
    office = plane.admin("GET", "/v1/tenants/acme/vnis/office")["vni"]
    assert (offered["actor"], offered["detail"]["after"]) == (device.node, [f"{office}:{LAN}"])
    (approved,), (withdrawn,) = plane.audited("route.approved"), plane.audited("route.withdrawn")
    assert (approved["detail"]["before"]["approved"], approved["detail"]["after"]["approved"]) == (False, True)
    assert (withdrawn["detail"]["before"]["approved"], withdrawn["detail"]["after"]["approved"]) == (True, False)


@pytest.mark.parametrize(
    ("routes", "code"),
    [
        ({"office": ["192.168.70.1/24"]}, "invalid"),
        ({"office": ["everything"]}, "invalid"),
        ({"office": ["224.0.0.0/4"]}, "invalid"),
        ({"office": [f"10.{n // 256}.{n % 256}.0/24" for n in range(257)]}, "invalid"),
        ({"vault": [LAN]}, "not-found"),
    ],
    ids=["host-bits", "text", "multicast", "too-many", "not-a-member"],
)
def test_an_offer_that_makes_no_sense_changes_nothing(
    plane: ControlPlane, gateway: Device, routes: dict[str, list[str]], code: str
) -> None:
    device = plane.joined()
    before = plane.state()
    with refused(code):
        plane.node(device, "PUT", "/advertisement", {"routes": routes})
    assert plane.state() == before
    with refused("invalid"):
        plane.node(gateway, "PUT", "/advertisement", OFFER)


def test_a_route_never_takes_away_what_leads_elsewhere(plane: ControlPlane, gateway: Device) -> None:
    device, other = plane.joined(), plane.joined()
    for prefix in ("10.7.0.128/25", "10.0.0.0/8"):
        with refused("invalid"):
            decide(plane, device, prefix)
    assert decide(plane, device, "0.0.0.0/0").approved  # the VNI's own prefix is narrower and wins
    decide(plane, device)
    with refused("exists"):
        decide(plane, other)
    with refused("not-found"):
        decide(plane, gateway, "192.168.80.0/24")


def test_who_leaves_takes_its_routes_along(plane: ControlPlane, gateway: Device) -> None:
    removed, revoked = plane.joined(), plane.joined()
    for device, prefix in ((removed, LAN), (revoked, "192.168.71.0/24")):
        plane.node(device, "PUT", "/advertisement", {"routes": {"office": [prefix]}})
        decide(plane, device, prefix)
    plane.admin("DELETE", f"/v1/tenants/acme/vnis/office/members/{removed.node}")
    plane.admin("DELETE", f"/v1/tenants/acme/devices/{revoked.node}")
    assert seen(plane, gateway) == []
    assert listed(plane) == []
