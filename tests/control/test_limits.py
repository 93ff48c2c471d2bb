"""Budgets: who spends one is told when to come again, and nobody spends another's."""

from __future__ import annotations

import pytest

from control_plane import ControlPlane, Device, answer
from kairos.api.enrollment import Challenge
from kairos.api.problem import ProblemError
from kairos.api.session import SessionGrant
from kairos_control.http.call import Call
from kairos_control.services.rate_limits import DEVICE, SESSION, SOURCE, TOKEN, Budget, Limits
from kairos_control.services.sessions import LIVE_MAX

SMALL = Budget("this test", 3, 0.5)


def too_many() -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == "too-many-requests")


def spend(plane: ControlPlane, budget: Budget, who: str) -> None:
    with too_many():
        for _ in range(budget.burst + 1):
            plane.service("acme").limits.take(budget, who)


def test_a_budget_refills_with_time() -> None:
    now = 1000.0
    limits = Limits(lambda: now)
    for _ in range(3):
        limits.take(SMALL, "a")
    limits.take(SMALL, "b")
    for _ in range(5):
        with pytest.raises(ProblemError) as refusal:
            limits.take(SMALL, "a")
        assert refusal.value.problem.retry_after_s == 2
    now += 2
    limits.take(SMALL, "a")
    with too_many():
        limits.take(SMALL, "a")
    now -= 3600  # a clock that is set back gives nothing and takes nothing
    with too_many():
        limits.take(SMALL, "a")
    now += 3600
    for _ in range(2):
        now += 2
        limits.take(SMALL, "a")


def test_a_device_and_its_sessions_have_limits_of_their_own(plane: ControlPlane, gateway: Device) -> None:
    device, other = plane.joined(), plane.joined()
    spend(plane, SESSION, device.node)
    with too_many():
        plane.node(device, "POST", "/sessions", {})
    plane.node(device, "GET", "/network")
    plane.node(other, "POST", "/sessions", {})
    spend(plane, DEVICE, device.node)
    with too_many():
        plane.node(device, "GET", "/network")


def test_who_cannot_sign_for_a_device_spends_nothing_of_its(plane: ControlPlane, gateway: Device) -> None:
    device, thief = plane.joined(), Device()
    limits = plane.service("acme").limits
    for _ in range(DEVICE.burst - 1):
        limits.take(DEVICE, device.node)
    for _ in range(5):
        with pytest.raises(ProblemError):
            plane.node(device, "GET", "/network", key=thief.key)
    plane.node(device, "GET", "/network")


def test_a_token_and_a_source_have_limits(plane: ControlPlane, gateway: Device) -> None:
    token = plane.token(uses=9)
    spend(plane, TOKEN, token.record.token_id)
    _, asked = plane.ask(Device(), token)
    with too_many():
        answer(asked, Challenge)
    path = "/v1/tenants/acme/enrollments/0000"
    spend(plane, SOURCE, "192.0.2.7")
    with too_many():
        answer(plane.send(Call("GET", path, {"cf-connecting-ip": "192.0.2.7"})), dict)
    with pytest.RaisesExc(ProblemError, check=lambda error: error.code == "not-found"):
        answer(plane.send(Call("GET", path, {"cf-connecting-ip": "192.0.2.8"})), dict)


def test_the_oldest_of_too_many_sessions_gives_way(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    opened = []
    for _ in range(LIVE_MAX + 2):
        plane.now += 1
        opened.append(plane.node(device, "POST", "/sessions", {}, SessionGrant).session)
    assert sorted(row[0] for row in plane.state()["1.sessions"]) == sorted(opened[2:])
