"""The cron holds both ends' records of flows against each other, and the audit names who kept one back."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from control_plane import ControlPlane, Device
from kairos.audit.event import Event, EventBatch
from kairos.audit.flow_record import LEDGER_WINDOW, FlowRow, FlowWindow
from kairos_control.services import double_entry
from kairos_control.services.double_entry import DoubleEntry
from kairos_control.services.journal import EVENT_MAX


@pytest.fixture
def devices(plane: ControlPlane, gateway: Device) -> tuple[Device, Device]:
    return gateway, plane.joined()


def tell(plane: ControlPlane, teller: Device, *rows: FlowRow) -> None:
    detail = msgspec.to_builtins(FlowWindow(plane.now - 10, plane.now, 0, list(rows)))
    event = Event(os.urandom(16).hex(), plane.now, "", "", LEDGER_WINDOW, detail=detail)
    plane.node(teller, "POST", "/audit", EventBatch([event]))
    plane.seal()


def flow(plane: ControlPlane, device: Device, port: int = 4000) -> FlowRow:
    begun = (plane.now - 5, plane.now - 4)
    return FlowRow(
        1, 6, "10.7.0.5", port, "10.7.0.1", 80, device.node, "", "", "r", *begun, (3, 3), (120, 120), "closed"
    )  # fmt: skip


def checked(plane: ControlPlane, after_s: int = 1800) -> list[Mapping[str, Any]]:
    """Once by each cron until then."""
    for _ in range(after_s // double_entry.STRETCH_S):
        plane.now += double_entry.STRETCH_S
        asyncio.run(DoubleEntry(plane.platform, "acme").check())
    return plane.audited("ledger.differs")


def test_ends_that_agree_are_no_news(plane: ControlPlane, devices: tuple[Device, Device]) -> None:
    endpoint = devices[1]
    for teller in devices:
        tell(plane, teller, flow(plane, endpoint))
    assert checked(plane) == []


def test_a_flow_that_an_endpoint_hides_is_an_event_once(plane: ControlPlane, devices: tuple[Device, Device]) -> None:
    gateway, endpoint = devices
    tell(plane, gateway, flow(plane, endpoint), flow(plane, endpoint, 4001))
    tell(plane, endpoint, flow(plane, endpoint))
    (event,) = checked(plane)
    assert (event["source"], event["subject"], event["detail"]["count"]) == ("fabric", endpoint.node, 1)
    assert event["reason"] == f"hidden: tcp 10.7.0.5:4001 > 10.7.0.1:80 in vni 1, told by {gateway.node}"
    asyncio.run(DoubleEntry(plane.platform, "acme").check())
    assert plane.sweep().status == 200
    assert len(plane.admin("GET", "/v1/tenants/acme/audit?kind=ledger.differs")["items"]) == 1


def test_the_same_check_again_is_the_same_event(plane: ControlPlane, devices: tuple[Device, Device]) -> None:
    gateway, endpoint = devices
    tell(plane, gateway, flow(plane, endpoint))
    plane.now = math.ceil(plane.now / double_entry.STRETCH_S) * double_entry.STRETCH_S + double_entry.SETTLED_S
    for _ in range(2):
        asyncio.run(DoubleEntry(plane.platform, "acme").check())
        plane.store.database.execute("DELETE FROM ledger_checks")
    assert len(plane.audited("ledger.differs")) == 1


def test_what_may_still_come_is_waited_for(plane: ControlPlane, devices: tuple[Device, Device]) -> None:
    gateway, endpoint = devices
    tell(plane, gateway, flow(plane, endpoint))
    assert checked(plane, double_entry.SETTLED_S - double_entry.STRETCH_S) == []
    tell(plane, endpoint, msgspec.structs.replace(flow(plane, endpoint), opened=plane.now - 600, last=plane.now - 600))
    assert checked(plane) == []


def test_more_than_can_be_checked_is_said(
    plane: ControlPlane, devices: tuple[Device, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(double_entry, "EVENTS_MAX", 0)
    tell(plane, devices[0], flow(plane, devices[1]))
    assert checked(plane) == []
    unchecked = plane.audited("ledger.unchecked")[0]
    assert unchecked["detail"] == {"tellers": {devices[0].node: 1}}


def test_a_gateway_that_accuses_everyone_floods_nothing(plane: ControlPlane, devices: tuple[Device, Device]) -> None:
    """A finding for each name that it makes up would be more writes than an invocation has, and the check would never end."""
    gateway, endpoint = devices
    rows = [flow(plane, endpoint, 4000 + number) for number in range(120)]
    for number in range(100):
        rows[number] = msgspec.structs.replace(rows[number], device=f"ep-{number:016}")
    for begin in range(0, 120, 30):
        tell(plane, gateway, *rows[begin : begin + 30])
    named, more = checked(plane)
    assert (named["subject"], named["detail"]["count"]) == (endpoint.node, 20)
    assert "subject" not in more
    assert more["detail"]["tellers"] == {gateway.node: 100}
    assert "100 more nodes" in more["reason"]


def test_a_finding_is_no_larger_than_an_event(plane: ControlPlane, devices: tuple[Device, Device]) -> None:
    gateway, endpoint = devices
    for port in range(8):
        tell(plane, gateway, msgspec.structs.replace(flow(plane, endpoint, port), source="x" * 12_000))
    [found] = checked(plane)
    assert found["subject"] == endpoint.node
    assert len(msgspec.json.encode(found)) <= EVENT_MAX


def test_more_bytes_than_can_be_checked_are_not_loaded(
    plane: ControlPlane, devices: tuple[Device, Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(double_entry, "BYTES_MAX", 1000)
    for port in range(4):
        tell(plane, devices[0], flow(plane, devices[1], port))
    assert checked(plane) == []
    assert plane.audited("ledger.unchecked")


def test_no_device_can_forestall_what_is_found_about_it(plane: ControlPlane, devices: tuple[Device, Device]) -> None:
    """The id of the finding is no secret: it is the same whenever a stretch is checked."""
    gateway, endpoint = devices
    tell(plane, gateway, flow(plane, endpoint))
    tenant_and_all = [
        hashlib.sha256(f"ledger.differs acme {since} {endpoint.node}".encode()).hexdigest()[:32]
        for since in range(int(plane.now) // 300 * 300 - 300, int(plane.now) + 900, 300)
    ]
    forged = [Event(id_, plane.now, "acme", "fabric", "ledger.differs", subject="nobody") for id_ in tenant_and_all]
    plane.node(endpoint, "POST", "/audit", EventBatch(forged))
    checked(plane)
    found = [each for each in plane.audited("ledger.differs") if each["source"] == "fabric"]
    assert [each["subject"] for each in found] == [endpoint.node]


def test_no_stretch_is_left_out_after_an_outage(plane: ControlPlane, devices: tuple[Device, Device]) -> None:
    gateway, endpoint = devices
    assert asyncio.run(DoubleEntry(plane.platform, "acme").check()) == 0
    tell(plane, gateway, flow(plane, endpoint))
    plane.now += 7200  # nothing was swept meanwhile
    found = [asyncio.run(DoubleEntry(plane.platform, "acme").check()) for _ in range(8)]
    assert sum(found) == 1
    plane.now += 3 * 86_400
    asyncio.run(DoubleEntry(plane.platform, "acme").check())
    assert plane.audited("ledger.unchecked")
