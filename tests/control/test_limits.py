"""Budgets: who spends one is told when to come again, and nobody spends another's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from control_plane import INTERNAL_KEY, ControlPlane, Device, answer
from kairos.api.enrollment import Challenge
from kairos.api.problem import ProblemError
from kairos.api.push import Receipt, encode
from kairos.api.session import SOURCE_HEADER, SessionGrant
from kairos_control.http.call import Call
from kairos_control.services.rate_limits import (
    DEVICE,
    ENROLLMENT,
    MESSAGE,
    NETWORK,
    POSTURE,
    RELAY_SOURCE,
    ROUTES,
    SESSION,
    SITE,
    SOURCE,
    TOKEN,
    Budget,
    Limits,
)
from kairos_control.services.sessions import LIVE_MAX

SMALL = Budget("this test", 3, 0.5)


def too_many() -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == "too-many-requests")


def spend(plane: ControlPlane, budget: Budget, who: str) -> None:
    with too_many():
        for _ in range(budget.burst + 1):
            plane.service("acme").limits.take(budget, who)


def test_messages_on_an_events_socket_have_a_limit(plane: ControlPlane, gateway: Device) -> None:
    """Each may be a write to the object's SQLite, and the socket was authenticated once."""
    received, device = plane.service("acme").node_events.received, plane.joined()
    receipt = encode(Receipt("0" * 32, "isolated", 1, b""))
    assert all(received(device.node, receipt) for _ in range(MESSAGE.burst))
    assert not received(device.node, receipt)
    assert received(gateway.node, receipt)
    plane.now += 1
    assert received(device.node, receipt)


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


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("2001:db8:1:2::1%eth0", "2001:db8:1:2::2%lan", True),
        ("no address at all", "no address either", False),
    ],
)
def test_addresses_of_one_subscriber_share_a_budget(one: str, other: str, *, shared: bool) -> None:
    limits = Limits(lambda: 0.0)
    for _ in range(SOURCE.burst):
        limits.take_source(one)
    if shared:
        with too_many():
            limits.take_source(other)
    else:
        limits.take_source(other)


def test_a_subscriber_with_many_subnets_meets_the_budget_of_its_site() -> None:
    limits = Limits(lambda: 0.0)
    with too_many():
        for subnet in range(SITE.burst + 1):
            limits.take_source(f"2001:db8:1:{subnet:x}::1")
    limits.take_source("2001:db8:2::1")


def test_a_flood_of_addresses_pushes_no_device_out_of_its_budget() -> None:
    limits = Limits(lambda: 0.0)
    for _ in range(DEVICE.burst):
        limits.take(DEVICE, "ep-busy")
    for number in range(30_000):
        limits.take_source(f"198.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    with too_many():
        limits.take(DEVICE, "ep-busy")


def test_the_budget_of_a_source_does_not_tell_which_tenants_exist(plane: ControlPlane) -> None:
    for source, tenant in (("192.0.2.1", "acme"), ("192.0.2.2", "none")):
        codes = []
        for _ in range(SOURCE.burst + 1):
            call = Call("GET", f"/v1/tenants/{tenant}/enrollments/0000", {"cf-connecting-ip": source})
            codes.append(plane.send(call).status)
        assert codes == [404] * SOURCE.burst + [429]


def test_a_spent_budget_does_not_tell_which_tenants_exist(plane: ControlPlane) -> None:
    """It is spent on a name that is none; then every name is refused alike, before the database is asked for it."""
    source = {"cf-connecting-ip": "192.0.2.7"}
    for _ in range(SOURCE.burst):
        plane.send(Call("GET", "/v1/tenants/none/enrollments/0000", source))
    answers = []
    for tenant in ("acme", "none"):
        reply = plane.send(Call("GET", f"/v1/tenants/{tenant}/enrollments/0000", source))
        answers.append((reply.status, reply.body.replace(b"none", b"acme"), plane.store.queries))
    assert answers[0] == answers[1]
    assert (answers[0][0], answers[0][2]) == (429, 0)


def test_who_knocks_at_the_relay_has_a_limit_by_address(plane: ControlPlane) -> None:
    def knock(tenant: str, key: str = INTERNAL_KEY, source: str = "192.0.2.7") -> int:
        headers = {"authorization": f"Bearer {key}", SOURCE_HEADER.lower(): source}
        body = b'{"token": "acme.guess", "gateway": "gw-aaaaaaaaaaaaaaaa"}'
        return plane.send(Call("POST", f"/internal/introspect/{tenant}", headers, body)).status

    assert {knock("acme", key="guess") for _ in range(SOURCE.burst + 1)} == {
        401
    }  # who is not the relay spends nothing of it
    assert {knock("acme") for _ in range(RELAY_SOURCE.burst)} == {401}
    assert (knock("acme"), knock("none"), knock("acme", source="192.0.2.8")) == (429, 429, 401)
    assert plane.send(Call("GET", "/v1/fabric", {"cf-connecting-ip": "192.0.2.7"})).status == 200


# -- what one device can make the fabric write, tell or read -------------------------------------------------------------------------


def refused_after(plane: ControlPlane, calls: Callable[[int], object]) -> int:
    """How many calls are taken at once before one is too many."""
    taken = 0
    with too_many():
        for taken in range(2000):
            calls(taken)
    return taken


def test_a_device_that_enrolls_again_and_again_gets_few_certificates(plane: ControlPlane, gateway: Device) -> None:
    """Its own token, used up or ended, is enough for that; each certificate is a row for a day and news to a whole VNI."""
    token, device = plane.token(), Device()
    assert refused_after(plane, lambda _: plane.enroll(device, token)) == ENROLLMENT.burst
    [[certificates]] = plane.store.database.execute("SELECT count(*) FROM certificates WHERE node = ?", [device.node])
    assert certificates == ENROLLMENT.burst
    assert plane.enroll(Device(), plane.token()).status == "issued"


def test_a_subnet_router_that_flaps_is_stopped(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()

    def flap(number: int) -> None:
        routes = {"office": ["192.168.7.0/24"]} if number % 2 == 0 else {}
        plane.node(device, "PUT", "/advertisement", {"routes": routes})
        plane.node(device, "PUT", "/advertisement", {"routes": routes})  # what changes nothing costs nothing

    assert refused_after(plane, flap) == ROUTES.burst
    plane.now += 60
    flap(ROUTES.burst)


def test_reports_of_posture_and_pages_of_the_network_have_limits(plane: ControlPlane, gateway: Device) -> None:
    device, pushes = plane.joined(), plane.connect(gateway)
    assert refused_after(plane, lambda _: plane.node(device, "POST", "/posture", {"facts": {}})) == POSTURE.burst
    assert len(pushes) == POSTURE.burst
    plane.now += 60
    for _ in range(NETWORK.burst - 1):
        plane.service("acme").limits.take(NETWORK, device.node)
    assert refused_after(plane, lambda _: plane.node(device, "GET", "/network?since=0")) == 1
