"""The operator's records: what is given once is never given again, and what is deleted is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from control_plane import ControlPlane, Device
from kairos.api.problem import ProblemError
from kairos.api.session import Network
from kairos.constants import CERTIFICATE_LIFE_S
from kairos_control.fabric import FabricServices

VNIS = "/v1/tenants/acme/vnis"


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def test_addresses_are_never_given_twice(plane: ControlPlane, gateway: Device) -> None:
    """A revoked device's address stays unused: flows and logs that name it go on meaning it."""
    seen: set[str] = set(plane.admin("GET", f"/v1/tenants/acme/devices/{gateway.node}")["addresses"])
    for _ in range(12):
        device = plane.joined()
        addresses = set(plane.admin("GET", f"/v1/tenants/acme/devices/{device.node}")["addresses"])
        assert len(addresses) == 2
        assert not addresses & seen
        seen |= addresses
        plane.admin("DELETE", f"/v1/tenants/acme/devices/{device.node}")


def test_a_full_prefix_lets_nobody_in_and_gives_nothing_away(plane: ControlPlane, gateway: Device) -> None:
    plane.admin("POST", VNIS, {"name": "tiny", "prefixes": ["10.9.0.0/30"]})  # two hosts; the gateway is one
    plane.joined(vnis=["tiny"])
    token = plane.token(vnis=["office", "tiny"])
    device = Device()
    with refused("addresses-exhausted"):
        plane.enroll(device, token)
    assert plane.admin("GET", f"/v1/tenants/acme/tokens/{token.record.token_id}")["used"] == 0
    with refused("not-found"):
        plane.admin("GET", f"/v1/tenants/acme/devices/{device.node}")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Upper"},
        {"name": "a" * 64},
        {"vni": 1 << 24},
        {"vni": -1},
        {"mtu": 576},
        {"prefixes": []},
        {"prefixes": ["10.9.0.1/24"]},
        {"prefixes": ["10.9.0.0/24", "10.9.0.128/25"]},
        {"routes": [{"prefix": "192.168.0.0/16", "via": "gw-nobody"}]},
        {"routes": [{"prefix": "everything", "via": "gw-nobody"}]},
    ],
    ids=str,
)
def test_a_vni_that_makes_no_sense_is_refused(plane: ControlPlane, change: dict[str, Any]) -> None:
    before = plane.state()
    with refused("invalid"):
        plane.admin("POST", VNIS, {"name": "lab", "prefixes": ["10.9.0.0/24"], **change})
    assert plane.state() == before


def test_names_are_taken_once_a_tenant_and_numbers_once_a_fabric(plane: ControlPlane) -> None:
    plane.admin("POST", "/v1/tenants", {"tenant": "rival"})
    rivals = plane.admin("POST", "/v1/tenants/rival/vnis", {"name": "office", "prefixes": ["10.7.0.0/24"]})
    with refused("exists"):
        plane.admin("POST", VNIS, {"name": "office", "prefixes": ["10.8.0.0/24"]})
    with refused("exists"):
        plane.admin("POST", VNIS, {"name": "lab", "prefixes": ["10.8.0.0/24"], "vni": rivals["vni"]})
    with refused("exists"):
        plane.admin("POST", "/v1/tenants", {"tenant": "rival"})


def test_a_vni_made_later_has_the_gateways_in_it(plane: ControlPlane, gateway: Device) -> None:
    made = plane.admin("POST", VNIS, {"name": "lab", "prefixes": ["10.9.0.0/24"]})
    network = plane.node(gateway, "GET", "/network", type_=Network)
    assert any(lease.vni == made["vni"] and lease.node == gateway.node for lease in network.leases)
    assert plane.admin("GET", f"{VNIS}/lab")["members"] == 1
    plane.admin("DELETE", f"{VNIS}/lab")
    assert made["vni"] not in {vni.vni for vni in plane.node(gateway, "GET", "/network", type_=Network).vnis}


def test_an_endpoint_sees_its_own_vnis_and_a_gateway_all(plane: ControlPlane, gateway: Device) -> None:
    plane.admin("POST", VNIS, {"name": "lab", "prefixes": ["10.9.0.0/24"]})
    here, there = plane.joined(vnis=["office"], tags=["web"]), plane.joined(vnis=["lab"])
    seen = plane.node(here, "GET", "/network", type_=Network)
    assert [vni.name for vni in seen.vnis] == ["office"]
    assert {member.node for member in seen.members} == {here.node, gateway.node}
    assert next(member.tags for member in seen.members if member.node == here.node) == ["web"]
    everything = plane.node(gateway, "GET", "/network", type_=Network)
    assert {vni.name for vni in everything.vnis} == {"office", "lab"}  # by their numbers, which are random
    assert {member.node for member in everything.members} == {here.node, there.node, gateway.node}


def test_every_change_that_nodes_must_fetch_grows_the_revision(plane: ControlPlane, gateway: Device) -> None:
    def revision() -> int:
        network: Network = plane.node(gateway, "GET", "/network", type_=Network)
        return network.revision

    seen = revision()
    device = plane.joined()
    for method, path, body in (
        ("POST", "/vnis", {"name": "lab", "prefixes": ["10.9.0.0/24"]}),
        ("DELETE", "/vnis/lab", None),
        ("DELETE", f"/devices/{device.node}", None),
    ):
        plane.admin(method, f"/v1/tenants/acme{path}", body)
        now = revision()
        assert now > seen
        seen = now


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"role": "king"}, "invalid"),
        ({"uses": 0}, "invalid"),
        ({"life_s": 0}, "invalid"),
        ({"life_s": 400 * 86_400}, "invalid"),
        ({"secret_hash": "c2hvcnQ="}, "invalid"),
        ({"vnis": ["nowhere"]}, "not-found"),
    ],
    ids=str,
)
def test_a_token_that_makes_no_sense_is_refused(plane: ControlPlane, change: dict[str, Any], code: str) -> None:
    before = plane.state()
    with refused(code):
        plane.admin("POST", "/v1/tenants/acme/tokens", {"role": "endpoint", "secret_hash": "A" * 43 + "=", **change})
    assert plane.state() == before


def test_a_deleted_tenant_leaves_nothing_but_its_audit(plane: ControlPlane, gateway: Device) -> None:
    plane.joined()
    plane.admin("POST", "/v1/tenants", {"tenant": "rival"})
    plane.admin("POST", "/v1/tenants/rival/vnis", {"name": "office", "prefixes": ["10.7.0.0/24"]})
    plane.seal()
    plane.admin("DELETE", "/v1/tenants/acme")
    left = {table: rows for table, rows in plane.state().items() if any("acme" in map(str, row) for row in rows)}
    assert set(left) == {"0.audit_index", "0.audit_segments", "0.placements"}
    assert plane.admin("GET", "/v1/tenants/rival/vnis")["items"]
    with refused("not-found"):
        plane.admin("GET", "/v1/tenants/acme")


def test_certificates_go_when_they_end_and_tokens_a_month_later(plane: ControlPlane, gateway: Device) -> None:
    def kept() -> tuple[int, int]:
        asyncio.run(FabricServices(plane.platform, plane.limits).housekeeping.delete_ended())
        state = plane.state()
        return len(state["0.certificates"]), len(state["0.tokens"])

    plane.joined()
    assert kept() == (2, 2)
    plane.now += CERTIFICATE_LIFE_S + 1
    assert kept() == (0, 2)
    plane.now += 31 * 86_400
    assert kept() == (0, 0)
