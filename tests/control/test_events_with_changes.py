"""An object that dies between a change in D1 and its log leaves no change without its event."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from control_plane import ControlPlane, Crash, Device

AT = "/v1/tenants/acme"
# What is done, and the kind of the event that tells of it.
CHANGES: dict[str, Callable[[ControlPlane, Device, str], object]] = {
    "token.created": lambda plane, device, token: plane.token(),
    "token.deleted": lambda plane, device, token: plane.admin("DELETE", f"{AT}/tokens/{token}"),
    "member.removed": lambda plane, device, token: plane.admin("DELETE", f"{AT}/vnis/office/members/{device.node}"),
    "vni.deleted": lambda plane, device, token: plane.admin("DELETE", f"{AT}/vnis/office"),
    "device.revoked": lambda plane, device, token: plane.admin("DELETE", f"{AT}/devices/{device.node}"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_never_without_its_event(plane: ControlPlane, gateway: Device, kind: str) -> None:
    device, token = plane.joined(), plane.token().record.token_id
    plane.seal()
    before = len(plane.audited(kind))
    plane.local("acme").dies_in = 1  # before the first statement of the object: the log's
    with pytest.raises(Crash):
        CHANGES[kind](plane, device, token)
    plane.restart()
    for _ in range(2):
        assert plane.sweep().status == 200
    assert len(plane.audited(kind)) == before + 1


@pytest.mark.parametrize("kind", CHANGES)
def test_an_event_is_never_without_its_change(plane: ControlPlane, gateway: Device, kind: str) -> None:
    device, token = plane.joined(), plane.token().record.token_id
    plane.seal()
    before, state = len(plane.audited(kind)), plane.state()
    plane.store.dies_in = 1
    with pytest.raises(Crash):
        CHANGES[kind](plane, device, token)
    plane.store.dies_in = 0
    plane.restart()
    assert len(plane.audited(kind)) == before
    assert plane.state() == state
