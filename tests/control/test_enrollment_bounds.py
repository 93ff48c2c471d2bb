"""What callers who have no device cost: bounded rows, bounded bytes, and few look-ups."""

from __future__ import annotations

import os

import msgspec
import pytest
from counted_queries import counted

from control_plane import ControlPlane, Device, Token, answer
from kairos.api.admin import Device as Shown
from kairos.api.admin import Page
from kairos.api.enrollment import Challenge
from kairos.api.problem import ProblemError
from kairos.constants import CHALLENGE_LIFE_S, ENROLLMENT_MAX, POSTURE_MAX
from kairos_control.http.call import Call
from kairos_control.services.devices import WAITING_MAX

ACME = "/v1/tenants/acme"


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def enrollments(plane: ControlPlane) -> list[tuple[object, ...]]:
    return plane.state()["1.enrollments"]


def largest(plane: ControlPlane, device: Device, token: Token) -> Call:
    """E1 as long as it may be."""
    facts = {"notes": "x" * (POSTURE_MAX - len('{"notes":""}'))}
    request = msgspec.structs.replace(plane.request(device, token), hostname="h" * 64, posture=facts)
    body = msgspec.json.encode(request)
    return plane.signed(device, "POST", f"{ACME}/enrollments", body + b" " * (ENROLLMENT_MAX - len(body)))


def test_an_enrollment_is_a_few_kilobytes_whatever_was_sent(plane: ControlPlane, gateway: Device) -> None:
    plane.now += 1
    device = Device()
    asked = plane.send(largest(plane, device, plane.token()))
    answer(asked, Challenge)
    [row] = [row for row in enrollments(plane) if device.node in row]
    assert sum(len(str(column)) for column in row) < 3_500
    longer = largest(plane, Device(), plane.token())
    longer.body += b" "
    before = plane.state()
    with refused("body-too-large"):
        answer(plane.send(longer), Challenge)
    assert plane.state() == before


def test_a_token_has_as_many_rows_as_uses(plane: ControlPlane, gateway: Device) -> None:
    token = plane.token(uses=3)
    before = len(enrollments(plane))
    for _ in range(5):
        for _ in range(3):
            answer(plane.ask(Device(), token)[1], Challenge)
        with refused("token-used"):
            answer(plane.ask(Device(), token)[1], Challenge)
        assert len(enrollments(plane)) == before + 3
        plane.now += CHALLENGE_LIFE_S + 1


def test_a_caller_without_a_token_stores_nothing_and_costs_one_look_up(plane: ControlPlane, gateway: Device) -> None:
    token = plane.token()
    guessed = msgspec.structs.replace(plane.request(Device(), token), token_secret=os.urandom(32))
    body = msgspec.json.encode(guessed)
    before = plane.state()
    with counted(plane) as queries:
        plane.send(plane.signed(Device(), "POST", f"{ACME}/enrollments", body))
    assert queries.of_tenant == 1
    with counted(plane) as queries:
        plane.send(Call("GET", f"{ACME}/enrollments/{os.urandom(16).hex()}", {}))
        plane.send(Call("POST", f"{ACME}/enrollments/{os.urandom(16).hex()}/response", {}, b'{"signature": "AAAA"}'))
        plane.send(Call("POST", f"{ACME}/enrollments", {}, b"{}"))
    assert queries.of_tenant == 0
    assert plane.state() == before


def test_a_thousand_that_wait_are_listed_by_few_queries(plane: ControlPlane, gateway: Device) -> None:
    device = Device()
    plane.connect(gateway, "hold")
    plane.enroll(device, plane.token())
    local = plane.service("acme").platform.local
    for number in range(WAITING_MAX + 200):
        local.write(
            "INSERT INTO enrollments SELECT printf('%032d', ?1), printf('ep-%016d', ?1), role, token_id, public_key, name,"
            " challenge_expires, answered, status, outcome, rule, reason, certificate, created_at + ?1, to_be_signed,"
            " verdict_for, policy_version, judged_at FROM enrollments WHERE node = ?2",
            number + 1,
            device.node,
        )
    with counted(plane) as queries:
        listed = plane.admin("GET", f"{ACME}/devices?limit=10", type_=Page[Shown])
    assert queries.of_tenant <= 5
    waiting = [each for each in listed.items if each.status == "held"]
    assert len(waiting) == WAITING_MAX
    assert waiting[0].node == device.node


def test_an_enrollment_and_a_renewal_cost_few_queries(plane: ControlPlane, gateway: Device) -> None:
    device, token = Device(), plane.token()
    with counted(plane) as queries:
        call, asked = plane.ask(device, token)
    assert queries.of_tenant <= 5
    with counted(plane) as queries:
        plane.respond(device, call, asked)
    assert queries.of_tenant <= 25
