"""A device's clock may be five minutes off: all works, and it is on record."""

from __future__ import annotations

import time

import pytest

from control_plane import ControlPlane, Device
from kairos.api.enrollment import Certificate, RenewRequest
from kairos.api.problem import ProblemError
from kairos.api.session import SessionGrant
from kairos.constants import CLOCK_SKEW_REPORTED_S, CLOCK_SKEW_S
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_node.fabric_clock import FabricClock


@pytest.mark.parametrize("ahead_s", [-CLOCK_SKEW_S, CLOCK_SKEW_S])
def test_five_minutes_are_tolerated_and_recorded_once_an_hour(
    plane: ControlPlane, gateway: Device, ahead_s: int
) -> None:
    device = plane.joined()

    def works() -> None:
        at = plane.now + ahead_s
        grant: SessionGrant = plane.node(device, "POST", "/sessions", {}, SessionGrant, at=at)
        assert grant.lives_s > 0  # by seconds from now, whatever the clock says
        issued = plane.node(device, "POST", "/certificates", RenewRequest(), Certificate, at=at)
        assert parse_certificate_untrusted(issued.certificate).valid_at(at)

    works()
    works()
    (event,) = plane.audited("clock.skew")
    assert (event["subject"], event["detail"]) == (device.node, {"ahead_s": ahead_s})
    plane.now += 3600
    works()
    assert len(plane.audited("clock.skew")) == 2


def test_more_is_refused_and_less_than_half_a_minute_is_nothing(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    for ahead_s in (CLOCK_SKEW_REPORTED_S - 1, 1 - CLOCK_SKEW_REPORTED_S):
        plane.node(device, "GET", "/network", at=plane.now + ahead_s)
    assert plane.audited("clock.skew") == []
    for ahead_s in (CLOCK_SKEW_S + 1, -CLOCK_SKEW_S - 1):
        with pytest.RaisesExc(ProblemError, check=lambda error: error.code == "stale-timestamp"):
            plane.node(device, "GET", "/network", at=plane.now + ahead_s)


def test_a_node_says_how_far_its_clock_is_off() -> None:
    clock = FabricClock()
    assert clock.word(refused=False) == "not compared yet"
    clock.told(int(time.time()))
    assert clock.word(refused=False) == "right"
    clock.told(int(time.time()) - 120)
    assert clock.word(refused=False).endswith("s ahead of the fabric's: set it")
    assert "refuses" in clock.word(refused=True)
