"""Certificates that are refused before their time: who is told, and for how long."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from control_plane import ControlPlane, Device
from kairos.api.enrollment import Certificate, RenewRequest
from kairos.api.problem import ProblemError
from kairos.api.push import CertificateRefusal, Welcome, parse_to_node_untrusted
from kairos.constants import CERTIFICATE_LIFE_S, CERTIFICATE_REPLACED_GRACE_S
from kairos.crypto import labels
from kairos.identity import transcript
from kairos_control.fabric import FabricServices
from kairos_control.ports import Issuer


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


def kept_bytes(plane: ControlPlane, device: Device) -> dict[str, int]:
    """Octets of text in the rows of a device, by table."""
    return {
        table: sum(len(str(column)) for row in rows for column in row)
        for table, rows in (
            (table.partition(".")[2], [row for row in rows if device.node in row])
            for table, rows in plane.state().items()
        )
        if rows
    }


def test_certificates_do_not_pile_up(plane: ControlPlane, gateway: Device) -> None:
    """A month of renewals, each when two thirds of a certificate's life are over."""
    device = plane.joined()
    housekeeping = FabricServices(plane.platform, plane.limits).housekeeping
    most = 0
    for _ in range(45):
        plane.now += CERTIFICATE_LIFE_S * 2 / 3
        renewed = plane.node(device, "POST", "/certificates", RenewRequest(), Certificate)
        asyncio.run(housekeeping.delete_ended())
        most = max(most, len([row for row in plane.state()["0.certificates"] if device.node in row]))
    assert most == 2
    assert kept_bytes(plane, device)["present_certificates"] < 8_000
    assert kept_bytes(plane, device)["certificates"] < 300
    tenant = plane.service("acme")
    assert asyncio.run(tenant.store.certificates.present([device.node, "ep-nobody"])) == {
        device.node: renewed.certificate
    }


def test_what_is_refused_is_one_query_whatever_was_issued(plane: ControlPlane, gateway: Device) -> None:
    """And it reads the refused rows alone."""
    serial = serial_of(plane, plane.joined())
    plane.admin("POST", f"/v1/tenants/acme/certificates/{serial}/revoke", {"reason": "x"})
    plan = plane.store.database.execute(
        "EXPLAIN QUERY PLAN SELECT * FROM certificates WHERE tenant = 'acme' AND refused_from IS NOT NULL AND not_after > 5"
    ).fetchall()
    assert "certificates_refused" in plan[0]["detail"]


def test_nothing_is_signed_by_a_key_that_is_not_the_issuers(plane: ControlPlane, gateway: Device) -> None:
    """The certificate was renewed, its seed was not, or the other way round."""
    device = plane.joined()
    issuer = plane.platform.settings.issuer
    wrong = Issuer(issuer.certificate, bytes(32))
    plane.platform.settings = replace(plane.platform.settings, issuer=wrong)
    plane.restart()
    before = plane.state()
    with refused("issuer-mismatch"):
        plane.node(device, "POST", "/certificates", RenewRequest(), Certificate)
    token = plane.token()
    with refused("issuer-mismatch"):
        plane.enroll(Device(), token)
    for heads in ("1.log_head", "0.audit_segments"):
        plane.consume()
        with refused("issuer-mismatch"):
            asyncio.run(plane.service("acme").audit_log.seal())
        assert plane.state()[heads] == before[heads]
    assert [row for row in plane.state()["0.certificates"] if row not in before["0.certificates"]] == []
    assert bytes(32).hex() not in repr(wrong)
    plane.platform.settings = replace(plane.platform.settings, issuer=issuer)
    plane.restart()
    assert plane.node(device, "POST", "/certificates", RenewRequest(), Certificate).node == device.node
