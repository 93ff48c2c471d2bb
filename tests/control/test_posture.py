"""Posture at the fabric: the newest report of each device, told to gateways, never another's, never an old one."""

from __future__ import annotations

import pytest

from control_plane import ControlPlane, Device
from kairos.api.admin import PostureRecord
from kairos.api.problem import ProblemError
from kairos.api.push import PostureNotice, SessionNotice
from kairos.api.session import SessionGrant
from kairos.constants import POSTURE_LATE_S

FACTS = {"os": "debian", "disk_encrypted": True}


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def seen(plane: ControlPlane, device: Device) -> PostureRecord:
    path = f"/v1/tenants/acme/devices/{device.node}/posture"
    record: PostureRecord = plane.admin("GET", path, None, PostureRecord)
    return record


def test_a_report_reaches_the_gateways_and_the_operator(plane: ControlPlane, gateway: Device) -> None:
    device, pushes = plane.joined(), plane.connect(gateway)
    with refused("not-found"):
        seen(plane, device)
    assert plane.node(device, "POST", "/posture", {"facts": FACTS}) is None
    assert pushes[-1] == PostureNotice(device.node, int(plane.now), FACTS)
    assert seen(plane, device) == PostureRecord(device.node, int(plane.now), False, FACTS)
    plane.now += POSTURE_LATE_S + 1
    assert seen(plane, device).late


def test_a_session_carries_the_first_report_and_a_welcome_the_newest(plane: ControlPlane, gateway: Device) -> None:
    device, pushes = plane.joined(), plane.connect(gateway)
    plane.node(device, "POST", "/sessions", {"posture": FACTS}, SessionGrant)
    (notice,) = [push for push in pushes if isinstance(push, SessionNotice)]
    assert (notice.posture, notice.posture_at) == (FACTS, int(plane.now))
    plane.now += 30
    plane.node(device, "POST", "/posture", {"facts": {"os": "arch"}})
    (current,) = plane.service("acme").sessions.current()
    assert (current.posture, current.posture_at) == ({"os": "arch"}, int(plane.now))


def test_a_report_is_signed_by_its_device_and_taken_once(plane: ControlPlane, gateway: Device) -> None:
    device, other = plane.joined(), plane.joined()
    call = plane.signed(device, "POST", "/v1/tenants/acme/posture", {"facts": FACTS})
    assert plane.send(call).status == 204
    assert plane.send(call).status == 401  # replayed
    with refused("bad-signature"):
        plane.node(device, "POST", "/posture", {"facts": {}}, key=other.key)
    with refused("invalid"):
        plane.node(device, "POST", "/posture", {"facts": {"x": "y" * 100_000}})
    assert seen(plane, device).facts == FACTS
