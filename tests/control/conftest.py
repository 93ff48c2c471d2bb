"""A fabric with tenant `acme`, its VNI `office`, and a gateway that lets everyone in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control_plane import ANSWER_S, ControlPlane, Device
from kairos_control.services import admission


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    monkeypatch.setattr(admission, "ADMISSION_WAIT_S", ANSWER_S)
    plane = ControlPlane()
    plane.admin("POST", "/v1/tenants", {"tenant": "acme"})
    plane.admin("POST", "/v1/tenants/acme/vnis", {"name": "office", "prefixes": ["10.7.0.0/24", "fd07::/64"]})
    yield plane
    plane.close()


@pytest.fixture
def gateway(plane: ControlPlane) -> Device:
    return plane.joined("gateway")
