"""An admission verdict is for what was judged, under the policy in force, and for a few minutes."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from control_plane import PROVIDER, ControlPlane, Device, Token, answer
from kairos.api.enrollment import Challenge, Enrollment
from kairos.api.problem import ProblemError
from kairos.api.push import AdmissionRequest, ToNode
from kairos.api.session import PolicyRecord, PolicyUpload
from kairos.crypto import labels
from kairos.crypto.suites import KR1
from kairos.identity import transcript
from kairos_control.http.call import Call, Reply
from kairos_control.services.enrollments import VERDICT_LIFE_S
from kairos_control.store.isolations import StoredIsolation

ACME = "/v1/tenants/acme"


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def ask(plane: ControlPlane, device: Device, token: Token, **change: Any) -> tuple[Call, Reply]:
    """E1, with other fields."""
    request = msgspec.structs.replace(plane.request(device, token), **change)
    call = plane.signed(device, "POST", f"{ACME}/enrollments", request)
    return call, plane.send(call)


def push_policy(plane: ControlPlane, version: int) -> None:
    bundle = b"a bundle"
    key = PROVIDER.signing_key(KR1, plane.policy_seed)
    signature = key.sign(transcript.policy_bundle("acme", version, bundle), labels.POLICY_BUNDLE)
    record = PolicyRecord("acme", version, hashlib.sha384(bundle).digest(), signature)
    plane.admin("PUT", f"{ACME}/policy", PolicyUpload(record, bundle))


def judged(pushes: list[ToNode]) -> list[dict[str, Any]]:
    """What the gateway was asked."""
    return [msgspec.json.decode(push.input) for push in pushes if isinstance(push, AdmissionRequest)]


def test_the_same_request_is_judged_once_in_five_minutes(plane: ControlPlane, gateway: Device) -> None:
    pushes, device, token = plane.connect(gateway), Device(), plane.token()
    for _ in range(3):
        answer(ask(plane, device, token)[1], Challenge)
    assert len(judged(pushes)) == 1
    plane.now += VERDICT_LIFE_S - 1
    answer(ask(plane, device, token)[1], Challenge)
    assert len(judged(pushes)) == 1
    plane.now += 1
    answer(ask(plane, device, token)[1], Challenge)
    assert len(judged(pushes)) == 2


@pytest.mark.parametrize("change", [{"hostname": "server"}, {"posture": {"disk": "open"}}, {"token": None}])
def test_another_request_by_the_same_key_is_judged_again(
    plane: ControlPlane, gateway: Device, change: dict[str, Any]
) -> None:
    pushes, device, token = plane.connect(gateway), Device(), plane.token()
    first = answer(ask(plane, device, token)[1], Challenge)
    if "token" in change:
        other = plane.token()
        change = {"token_id": other.record.token_id, "token_secret": other.secret}
    second = answer(ask(plane, device, token, **change)[1], Challenge)
    assert len(judged(pushes)) == 2
    assert first.enrollment == second.enrollment
    plane.connect(gateway, "deny")
    before = plane.state()
    with refused("admission-denied"):
        answer(ask(plane, device, token)[1], Challenge)
    assert plane.state() == before


def test_what_is_judged_is_what_enrolls(plane: ControlPlane, gateway: Device) -> None:
    """A gateway that lets laptops in and holds servers."""
    device, token = Device(), plane.token()
    answer(ask(plane, device, token)[1], Challenge)
    plane.connect(gateway, "hold")
    call, asked = ask(plane, device, token, hostname="server")
    assert answer(plane.respond(device, call, asked), Enrollment).status == "held"
    assert plane.admin("GET", f"{ACME}/devices/{device.node}")["name"] == "server"


def test_another_policy_judges_again(plane: ControlPlane, gateway: Device) -> None:
    pushes, device, token = plane.connect(gateway), Device(), plane.token()
    call, asked = ask(plane, device, token)
    push_policy(plane, 1)
    before = plane.state()["0.devices"]
    with refused("challenge-expired"):
        answer(plane.respond(device, call, asked), Enrollment)
    assert plane.state()["0.devices"] == before
    assert plane.enroll(device, token).status == "issued"
    assert len(judged(pushes)) == 2


def test_a_device_that_is_in_comes_back_unasked_but_not_under_another_name(
    plane: ControlPlane, gateway: Device
) -> None:
    pushes, device, token = plane.connect(gateway), Device(), plane.token()
    plane.enroll(device, token)
    plane.now += VERDICT_LIFE_S
    plane.enroll(device, token)
    assert len(judged(pushes)) == 1
    plane.connect(gateway, "deny")
    with refused("admission-denied"):
        answer(ask(plane, device, token, hostname="server")[1], Challenge)
    assert plane.admin("GET", f"{ACME}/devices/{device.node}")["name"] == "laptop"


def test_an_isolated_gateway_lets_nobody_in(plane: ControlPlane, gateway: Device) -> None:
    """It keeps its socket; neither what it says from then on counts, nor what it was asked before."""
    service, token = plane.service("acme"), plane.token(uses=9)
    pushes = plane.connect(gateway)
    judge = plane.sockets["acme"].connected[gateway.node]

    def isolated_while_it_judges(push: ToNode) -> None:
        judge(push)
        if isinstance(push, AdmissionRequest):
            service.store.isolations.begin(StoredIsolation("0" * 32, gateway.node, "isolated", "taken over", 0, []))

    plane.sockets["acme"].connected[gateway.node] = isolated_while_it_judges
    for asked in (1, 1):
        with refused("gateway-unavailable"):
            answer(ask(plane, Device(), token)[1], Challenge)
        assert len(judged(pushes)) == asked
    service.store.isolations.release(gateway.node)
    plane.connect(gateway)
    answer(ask(plane, Device(), token)[1], Challenge)
