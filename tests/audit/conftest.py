"""A control plane with tenant `acme`, whose log has the events of what the tests do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control_plane import ControlPlane


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    plane = ControlPlane()
    plane.admin("POST", "/v1/tenants", {"tenant": "acme"})
    plane.admin("POST", "/v1/tenants/acme/vnis", {"name": "office", "prefixes": ["10.7.0.0/24"]})
    yield plane
    plane.close()
