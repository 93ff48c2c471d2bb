"""A key is one device, of one role and one id, and each certificate is of a device that is there."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from control_plane import ControlPlane, Device, answer
from kairos.api.enrollment import Certificate, Enrollment, RenewRequest
from kairos.api.problem import ProblemError
from kairos.crypto import labels
from kairos.identity import transcript
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_control.ports import ConstraintError
from kairos_control.store.devices import StoredDevice

ACME = "/v1/tenants/acme"


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def stored(plane: ControlPlane, node: str) -> StoredDevice:
    device = asyncio.run(plane.service("acme").store.devices.one(node))
    assert device is not None
    return device


def rotate(plane: ControlPlane, node: str, key: Device, newer: Device) -> None:
    """The node `node`, whose key is that of `key`, takes the key of `newer`."""
    signed = transcript.rotation(node, key.key.public_key, newer.key.public_key)
    wanted = RenewRequest(newer.key.public_key, newer.key.sign(signed, labels.ROTATE_KEY))
    plane.node(key, "POST", "/certificates", wanted, Certificate, node=node)


def used(plane: ControlPlane, token_id: str) -> int:
    count: int = plane.admin("GET", f"{ACME}/tokens/{token_id}")["used"]
    return count


def test_a_device_that_rotated_its_key_enrolls_again_as_itself(plane: ControlPlane, gateway: Device) -> None:
    device, newer, token = Device(), Device(), plane.token()
    plane.enroll(device, token)
    rotate(plane, device.node, device, newer)
    again = plane.enroll(newer, token)
    certificate = parse_certificate_untrusted(again.certificate)
    assert again.node == device.node
    assert certificate.spiffe is not None
    assert certificate.spiffe.node == device.node
    assert certificate.public_key == newer.key.public_key
    assert plane.admin("GET", f"{ACME}/devices/{device.node}")["serial"] == certificate.serial
    assert {each["node"] for each in plane.admin("GET", f"{ACME}/devices")["items"]} == {gateway.node, device.node}
    assert used(plane, token.record.token_id) == 1


def test_a_used_token_gives_no_further_identity(plane: ControlPlane, gateway: Device) -> None:
    device, newer, token = Device(), Device(), plane.token()
    plane.enroll(device, token)
    rotate(plane, device.node, device, newer)
    before = plane.state()
    for key, code in ((device, "key-replaced"), (Device(), "token-used")):
        with refused(code):
            plane.enroll(key, token)
    assert plane.state() == before


@pytest.mark.parametrize("rotated", [False, True])
def test_a_key_has_one_role(plane: ControlPlane, gateway: Device, rotated: bool) -> None:
    """Also a key that a device had before its rotation."""
    device, token = Device(), plane.token("gateway")
    plane.enroll(device, plane.token())
    if rotated:
        rotate(plane, device.node, device, Device())
    before = plane.state()
    with refused("key-replaced" if rotated else "wrong-role"):
        plane.enroll(Device("gateway", device.key), token)
    assert plane.state() == before
    assert used(plane, token.record.token_id) == 0


def test_no_device_takes_a_key_that_one_had_before(plane: ControlPlane, gateway: Device) -> None:
    device, newer, other = plane.joined(), Device(), plane.joined()
    rotate(plane, device.node, device, newer)
    before = plane.state()
    for node, key, wanted in ((device.node, newer, device), (other.node, other, device), (other.node, other, newer)):
        with refused("exists"):
            rotate(plane, node, key, wanted)
    assert plane.state() == before


def test_a_device_that_comes_back_by_another_token_uses_it(plane: ControlPlane, gateway: Device) -> None:
    device, first, second = Device(), plane.token(), plane.token(tags=["other"])
    plane.enroll(device, first)
    for _ in range(2):
        plane.enroll(device, second)
        assert used(plane, second.record.token_id) == 1
    with refused("token-used"):
        plane.enroll(Device(), second)
    assert stored(plane, device.node).tags == []


def test_a_key_that_became_a_devices_before_its_challenge_was_answered_becomes_no_other(
    plane: ControlPlane, gateway: Device
) -> None:
    device, newer = plane.joined(), Device()
    call, asked = plane.ask(newer, plane.token())
    rotate(plane, device.node, device, newer)
    with refused("exists"):
        answer(plane.respond(newer, call, asked), Enrollment)
    assert len(plane.admin("GET", f"{ACME}/devices")["items"]) == 2


NOT_ITS_ROW = {
    "no such device": {"node": "ep-aaaaaaaaaaaaaaaa"},
    "another role": {"role": "gateway"},
    "another key": {"public_key": Device().key.public_key},
}


@pytest.mark.parametrize("case", [*NOT_ITS_ROW, "revoked", "another serial"])
def test_no_certificate_is_kept_without_the_row_that_it_names(plane: ControlPlane, gateway: Device, case: str) -> None:
    """The last defence, below all checks: the database takes no batch with such a certificate."""
    tenant, device = plane.service("acme"), stored(plane, plane.joined().node)
    if case == "revoked":
        plane.admin("DELETE", f"{ACME}/devices/{device.node}")
    named = replace(device, **NOT_ITS_ROW.get(case, {}))  # type: ignore[arg-type]
    before = plane.state()

    async def write() -> None:
        issued = await tenant.certificates.issue(named.role, named.node, named.public_key)
        serial = "77" if case == "another serial" else issued.serial
        renewed = replace(named, serial=serial, not_after=issued.not_after)
        await tenant.store.write([tenant.store.devices.certify(renewed), *tenant.store.certificates.add(issued)])

    with pytest.raises(ConstraintError):
        asyncio.run(write())
    assert plane.state() == before
