"""What a node learns by updates is what it would learn by fetching the whole network, whatever happened in between."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane import ANSWER_S, ControlPlane, Device
from kairos.api.enrollment import RenewRequest
from kairos.api.problem import ProblemError
from kairos.api.push import NetworkChanged, Welcome, parse_to_node_untrusted
from kairos.api.session import Lease, Network, NetworkUpdate
from kairos.crypto import labels
from kairos.errors import BadMessage
from kairos.identity import transcript
from kairos.protocol.network_update import applied, assembled
from kairos_control.services import admission, network
from kairos_control.store import network_changes

AT = "/v1/tenants/acme"
NAMES = ("office", "lab", "yard")


@dataclass
class Follower:
    """A node that keeps its network by updates."""

    plane: ControlPlane
    device: Device
    held: Network = field(default_factory=lambda: Network(0, [], [], [], []))
    wholes: int = 0
    """How often it had to fetch all of it."""

    def follow(self) -> None:
        while True:
            update = self.ask(f"since={self.held.revision}&mark={self.held.mark}")
            if update.base is not None:
                self.held = applied(self.held, update, self.device.node)
                return
            pages = [update]
            while pages[-1].next:
                pages.append(self.ask(f"since=0&after={pages[-1].next}"))
            self.held, self.wholes = assembled(pages), self.wholes + 1
            if len(pages) == 1:
                return

    def ask(self, query: str) -> NetworkUpdate:
        update: NetworkUpdate = self.plane.node(self.device, "GET", f"/network?{query}", type_=NetworkUpdate)
        return update

    @property
    def whole(self) -> Network:
        """As a node asks that knows no updates."""
        value: Network = self.plane.node(self.device, "GET", "/network", type_=Network)
        return value


def world() -> tuple[ControlPlane, list[Device]]:
    """A tenant with the VNI office, two gateways and three endpoints in it."""
    plane = ControlPlane()
    plane.admin("POST", "/v1/tenants", {"tenant": "acme"})
    plane.admin("POST", f"{AT}/vnis", {"name": "office", "prefixes": ["10.7.0.0/24"], "selectors": ["tag:a"]})
    return plane, [plane.joined("gateway"), plane.joined("gateway"), *(plane.joined() for _ in range(3))]


class Life:
    """What may happen to a tenant. Each step is a draw of two numbers; one that the fabric refuses changes nothing."""

    def __init__(self, plane: ControlPlane, devices: list[Device]) -> None:
        self.plane, self.devices = plane, devices
        self.steps: list[Callable[[str, Device, int], object]] = [
            self.create, self.change, self.delete, self.add, self.add, self.remove, self.advertise, self.approve, self.join,
            self.part, self.rank, self.enroll, self.revoke, self.rotate,
        ]  # fmt: skip

    def step(self, kind: int, which: int) -> None:
        name, device = NAMES[which % len(NAMES)], self.devices[which % len(self.devices)]
        with contextlib.suppress(ProblemError):
            self.steps[kind % len(self.steps)](name, device, which)

    def create(self, name: str, device: Device, which: int) -> object:
        prefix = f"10.{7 + NAMES.index(name)}.0.0/24"
        return self.plane.admin("POST", f"{AT}/vnis", {"name": name, "prefixes": [prefix], "selectors": ["tag:a"]})

    def change(self, name: str, device: Device, which: int) -> object:
        base = f"10.{7 + NAMES.index(name)}"
        wanted = {
            "name": name,
            "prefixes": [f"{base}.0.0/24", f"{base}.1.0/24"][: 1 + which % 2],
            "mtu": 1380 + which % 3,
            "routes": [{"prefix": "172.16.0.0/24", "via": self.devices[0].node}][: which % 2],
        }
        return self.plane.admin("PUT", f"{AT}/vnis/{name}", wanted)

    def delete(self, name: str, device: Device, which: int) -> object:
        return self.plane.admin("DELETE", f"{AT}/vnis/{name}")

    def add(self, name: str, device: Device, which: int) -> object:
        addresses = [f"10.{7 + NAMES.index(name)}.0.{50 + which}"] if which % 2 else []
        return self.plane.admin("PUT", f"{AT}/vnis/{name}/members/{device.node}", {"addresses": addresses})

    def remove(self, name: str, device: Device, which: int) -> object:
        return self.plane.admin("DELETE", f"{AT}/vnis/{name}/members/{device.node}")

    def advertise(self, name: str, device: Device, which: int) -> object:
        return self.plane.node(
            device, "PUT", "/advertisement", {"routes": {name: ["192.168.7.0/24"][: 1 - which % 5 // 4]}}
        )

    def approve(self, name: str, device: Device, which: int) -> object:
        wanted = {"prefix": "192.168.7.0/24", "node": device.node, "approved": which % 5 != 0}
        return self.plane.admin("PUT", f"{AT}/vnis/{name}/routes", wanted)

    def join(self, name: str, device: Device, which: int) -> object:
        other = NAMES[(which + 1) % len(NAMES)]
        return self.plane.admin("POST", f"{AT}/interconnects", {"a": name, "b": other, "maps": []})

    def part(self, name: str, device: Device, which: int) -> object:
        return self.plane.admin("DELETE", f"{AT}/interconnects/{name}/{NAMES[(which + 1) % len(NAMES)]}")

    def rank(self, name: str, device: Device, which: int) -> object:
        rank = {"priority": which, "weight": 10}
        return self.plane.admin("PUT", f"{AT}/gateways/{self.devices[which % 2].node}", rank)

    def enroll(self, name: str, device: Device, which: int) -> object:
        return self.plane.joined(tags=["a"][: which % 2])

    def revoke(self, name: str, device: Device, which: int) -> object:
        return self.plane.admin("DELETE", f"{AT}/devices/{self.devices[1 + which % 2].node}")

    def rotate(self, name: str, device: Device, which: int) -> object:
        """Of a device that others see; who follows keeps its key."""
        seen, newer = self.plane.joined(), Device()
        signed = transcript.rotation(seen.node, seen.key.public_key, newer.key.public_key)
        wanted = RenewRequest(newer.key.public_key, newer.key.sign(signed, labels.ROTATE_KEY))
        return self.plane.node(seen, "POST", "/certificates", wanted)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 13), st.integers(0, 20), st.sets(st.integers(0, 4))), min_size=1, max_size=10))
def test_updates_come_to_the_same_as_the_whole(history: list[tuple[int, int, set[int]]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "ADMISSION_WAIT_S", ANSWER_S)
        plane, devices = world()
        life, followers = Life(plane, devices), [Follower(plane, device) for device in devices]
        for kind, which, asking in history:
            plane.now += 60
            life.step(kind, which)
            for follower in (followers[each] for each in asking):
                if is_active(plane, follower.device):
                    follower.follow()
        for follower in followers:
            if is_active(plane, follower.device):
                follower.follow()
                assert follower.held == follower.whole
        plane.close()


def is_active(plane: ControlPlane, device: Device) -> bool:
    return bool(plane.admin("GET", f"{AT}/devices/{device.node}")["status"] == "active")


# -- how much, and to whom --------------------------------------------------------------------------------------------


def test_an_update_names_what_changed_alone(plane: ControlPlane, gateway: Device) -> None:
    one, other = Follower(plane, plane.joined()), plane.joined()
    one.follow()
    plane.admin("DELETE", f"{AT}/vnis/office/members/{other.node}")
    update = one.ask(f"since={one.held.revision}&mark={one.held.mark}")
    number = one.held.vnis[0].vni
    assert update == NetworkUpdate(
        update.revision, update.mark, one.held.revision, leases=[Lease(number, other.node, [])]
    )
    one.follow()
    assert one.held == one.whole
    assert [member.node for member in one.held.members] == sorted([gateway.node, one.device.node])


def test_a_change_elsewhere_is_an_update_without_content(plane: ControlPlane, gateway: Device) -> None:
    endpoint = Follower(plane, plane.joined())
    endpoint.follow()
    plane.admin("POST", f"{AT}/vnis", {"name": "lab", "prefixes": ["10.8.0.0/24"]})
    update = endpoint.ask(f"since={endpoint.held.revision}&mark={endpoint.held.mark}")
    assert update == NetworkUpdate(endpoint.held.revision + 1, update.mark, endpoint.held.revision)


def test_only_those_are_told_whom_a_change_concerns(plane: ControlPlane, gateway: Device) -> None:
    plane.admin("POST", f"{AT}/vnis", {"name": "lab", "prefixes": ["10.8.0.0/24"]})
    in_office, in_lab = plane.joined(), plane.joined(vnis=["lab"])
    told = {device.node: plane.connect(device) for device in (gateway, in_office, in_lab)}

    def hear(*devices: Device) -> None:
        hearers = {node for node, pushes in told.items() if any(isinstance(push, NetworkChanged) for push in pushes)}
        assert hearers == {device.node for device in devices}
        for pushes in told.values():
            pushes.clear()

    newcomer = plane.joined(vnis=["lab"])
    hear(gateway, in_lab)
    plane.admin("PUT", f"{AT}/vnis/office/members/{in_lab.node}", {})
    hear(gateway, in_office, in_lab)
    plane.admin("DELETE", f"{AT}/vnis/office/members/{in_lab.node}")
    hear(gateway, in_office, in_lab)  # who is out is told as well
    plane.admin("DELETE", f"{AT}/devices/{newcomer.node}")
    hear(gateway, in_lab)
    plane.admin("PUT", f"{AT}/gateways/{gateway.node}", {"priority": 1, "weight": 1})
    hear(gateway, in_office, in_lab)
    plane.admin("DELETE", f"{AT}/vnis/lab")
    hear(gateway, in_lab)


def test_a_node_that_knows_no_updates_gets_the_whole(plane: ControlPlane, gateway: Device) -> None:
    endpoint = plane.joined()
    network: Network = plane.node(endpoint, "GET", "/network", type_=Network)
    assert [vni.name for vni in network.vnis] == ["office"]
    assert {member.node for member in network.members} == {gateway.node, endpoint.node}


@pytest.mark.parametrize("query", ["since=1&mark=00", "since=999999999&mark=00", "since=0", "since=1", "since=7&mark="])
def test_what_the_history_does_not_have_is_fetched_whole(plane: ControlPlane, gateway: Device, query: str) -> None:
    follower = Follower(plane, gateway)
    follower.follow()
    assert (update := follower.ask(query)).base is None
    assert assembled([update]) == follower.held == follower.whole


def test_a_history_that_was_restored_from_a_backup_is_another(plane: ControlPlane, gateway: Device) -> None:
    """The same revision, but not the same network."""
    follower = Follower(plane, gateway)
    backup = sqlite3.connect(":memory:")
    plane.store.database.backup(backup)
    lost = plane.joined()
    follower.follow()
    backup.backup(plane.store.database)
    backup.close()
    plane.joined()
    plane.joined()
    follower.follow()
    assert follower.held == follower.whole
    assert lost.node not in {member.node for member in follower.held.members}


def test_the_welcome_names_revision_and_mark(plane: ControlPlane, gateway: Device) -> None:
    follower = Follower(plane, gateway)
    follower.follow()
    welcome = parse_to_node_untrusted(asyncio.run(plane.service("acme").node_events.welcome(gateway.node)))
    assert isinstance(welcome, Welcome)
    assert (welcome.revision, welcome.mark) == (follower.held.revision, follower.held.mark)


def test_an_endpoint_hears_nothing_of_a_vni_that_it_was_never_in(
    plane: ControlPlane, gateway: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the number of one that is gone; and one that was in it loses it, however many were."""
    for most in (1000, 1):
        monkeypatch.setattr(network_changes, "KEYS_MAX", most)
        plane.admin("POST", f"{AT}/vnis", {"name": "lab", "vni": 7_654_321, "prefixes": ["10.9.0.0/24"]})
        inside, outside = (Follower(plane, plane.joined(vnis=vnis)) for vnis in (["office", "lab"], ["office"]))
        for follower in (inside, outside):
            follower.follow()
        (number,) = {vni.vni for vni in inside.held.vnis} - {vni.vni for vni in outside.held.vnis}
        plane.admin("DELETE", f"{AT}/vnis/lab")
        update = outside.ask(f"since={outside.held.revision}&mark={outside.held.mark}")
        assert str(number) not in msgspec.json.encode(update).decode()
        for follower in (inside, outside):
            follower.follow()
            assert follower.held == follower.whole
            assert number not in {vni.vni for vni in follower.held.vnis}


def test_what_is_read_for_one_answer_is_bounded_in_bytes(
    plane: ControlPlane, gateway: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand changes of a thousand leases each were 60 MB in an isolate of 128, before they were found to be too much."""
    follower, sizes = Follower(plane, gateway), list[int]()
    follower.follow()
    for _ in range(6):
        plane.joined()
    monkeypatch.setattr(network_changes, "BYTES_MAX", 300)
    rows = plane.store.rows

    async def measured(sql: str, *values: Any) -> Any:
        found = await rows(sql, *values)
        if "FROM network_changes" in sql:
            sizes.append(sum(len(row["changed"] or "") for row in found))
        return found

    plane.store.rows = measured  # type: ignore[method-assign]
    follower.follow()
    assert (sizes, follower.wholes) == ([0], 2)
    plane.joined()
    follower.follow()
    assert follower.wholes == 2
    assert 0 < sizes[1] <= 300
    assert follower.held == follower.whole


def test_the_history_is_bounded(plane: ControlPlane, gateway: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_changes, "KEPT", 3)
    follower = Follower(plane, gateway)
    follower.follow()
    for priority in range(4):
        plane.admin("PUT", f"{AT}/gateways/{gateway.node}", {"priority": priority, "weight": 1})
    [[rows]] = plane.store.database.execute("SELECT count(*) FROM network_changes")
    assert rows == 3
    follower.follow()
    assert follower.wholes == 2
    assert follower.held == follower.whole


def test_a_large_network_comes_in_pages(plane: ControlPlane, gateway: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    plane.admin("POST", f"{AT}/vnis", {"name": "lab", "prefixes": ["10.8.0.0/24"]})
    endpoints = [plane.joined(vnis=["office", "lab"]) for _ in range(3)]
    monkeypatch.setattr(network, "PAGE_BYTES", 300)
    for device in (gateway, endpoints[0]):
        follower = Follower(plane, device)
        pages = [follower.ask("since=0")]
        while pages[-1].next:
            pages.append(follower.ask(f"since=0&after={pages[-1].next}"))
        assert len(pages) > 3
        follower.follow()
        assert follower.held == follower.whole


@pytest.mark.parametrize("after", ["x", "v", "vx", "v99999999999", "v%D9%A3", "-1", "n" + 80 * "a"])
def test_a_page_that_is_none_is_refused(plane: ControlPlane, gateway: Device, after: str) -> None:
    if after == "v":
        assert Follower(plane, gateway).ask("since=0&after=v").base is None
        return
    with pytest.raises(ProblemError) as refused:
        Follower(plane, gateway).ask(f"since=0&after={after}")
    assert refused.value.code == "invalid"


def test_an_update_of_another_revision_does_not_fit() -> None:
    held = Network(5, [], [], [], [])
    for base in (None, 4, 6):
        with pytest.raises(BadMessage):
            applied(held, NetworkUpdate(7, "", base), "gw-a")
