"""Certificates that are refused before their time: who is told, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from control_plane import ControlPlane, Device
from kairos.api.enrollment import Certificate, RenewRequest
from kairos.api.problem import ProblemError
from kairos.api.push import CertificateRefusal, Welcome, parse_to_node_untrusted
from kairos.constants import CERTIFICATE_LIFE_S, CERTIFICATE_REPLACED_GRACE_S
from kairos.crypto import labels
from kairos.identity import transcript


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def rotate(plane: ControlPlane, device: Device) -> None:
    """A new key, which the fabric takes."""
    newer = Device(device.role).key
    signed = transcript.rotation(device.node, device.key.public_key, newer.public_key)
    wanted = RenewRequest(newer.public_key, newer.sign(signed, labels.ROTATE_KEY))
    plane.node(device, "POST", "/certificates", wanted, Certificate)


def refusals(plane: ControlPlane, node: Device) -> dict[str, int]:
    """What a node hears when it connects: seconds by serial."""
    welcome = parse_to_node_untrusted(asyncio.run(plane.service("acme").node_events.welcome(node.node)))
    assert isinstance(welcome, Welcome)
    return {each.serial: each.in_s for each in welcome.refused}


def serial_of(plane: ControlPlane, device: Device) -> str:
    serial: str = plane.admin("GET", f"/v1/tenants/acme/devices/{device.node}")["serial"]
    return serial


def test_a_rotation_has_the_certificates_of_the_old_key_refused_until_they_end(
    plane: ControlPlane, gateway: Device
) -> None:
    device, other = plane.joined(), plane.joined()
    old = [serial_of(plane, device), plane.node(device, "POST", "/certificates", RenewRequest(), Certificate).serial]
    assert refusals(plane, gateway) == {}
    pushes, told, others = plane.connect(gateway), plane.connect(device), plane.connect(other)
    rotate(plane, device)
    assert refusals(plane, gateway) == dict.fromkeys(old, CERTIFICATE_REPLACED_GRACE_S)
    for heard in (pushes, told):
        assert {push.serial for push in heard if isinstance(push, CertificateRefusal)} == set(old)
    assert not any(isinstance(push, CertificateRefusal) for push in others)
    plane.restart()
    plane.now += CERTIFICATE_REPLACED_GRACE_S
    assert refusals(plane, gateway) == refusals(plane, device) == dict.fromkeys(old, 0)
    assert refusals(plane, other) == {}  # an endpoint meets gateways only
    plane.now += CERTIFICATE_LIFE_S
    assert refusals(plane, gateway) == {}


def test_an_operator_has_any_certificate_refused(plane: ControlPlane, gateway: Device) -> None:
    device, at = plane.joined(), "/v1/tenants/acme/certificates"
    serial = serial_of(plane, gateway)
    told = plane.connect(device)
    plane.admin("POST", f"{at}/{serial}/revoke", {"reason": "a backup was stolen"})
    assert [push.in_s for push in told if isinstance(push, CertificateRefusal)] == [0]
    assert refusals(plane, device) == refusals(plane, gateway) == {serial: 0}
    (shown,) = plane.admin("GET", f"{at}?node={gateway.node}")["items"]
    assert (shown["serial"], shown["refused_from"], shown["reason"]) == (serial, plane.now, "a backup was stolen")
    assert len(plane.admin("GET", at)["items"]) == 2
    plane.admin("POST", "/v1/tenants", {"tenant": "other"})
    for tenant, strange in (("acme", "77"), ("other", serial_of(plane, device))):
        with refused("not-found"):
            plane.admin("POST", f"/v1/tenants/{tenant}/certificates/{strange}/revoke", {"reason": "x"})
