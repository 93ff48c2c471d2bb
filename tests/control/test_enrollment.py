"""E1-E7 at the fabric: what is refused changes nothing, what is cut off goes on, what is counted is counted once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from control_plane import DOMAIN, PROVIDER, ControlPlane, Crash, Device, Token, answer
from kairos.api.enrollment import Certificate, Challenge, Enrollment, RenewRequest
from kairos.api.problem import ProblemError
from kairos.api.push import AdmissionRequest, CertificateNotice, NetworkChanged
from kairos.constants import CERTIFICATE_LIFE_S, CHALLENGE_LIFE_S, CLOCK_SKEW_S
from kairos.crypto import labels
from kairos.crypto.suites import KR1
from kairos.identity import transcript
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_control.http.call import Call

ENROLLMENTS = "/v1/tenants/acme/enrollments"


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def fields(**change: Any) -> Callable[[ControlPlane, Device, Token], Call]:
    """E1 with some fields changed, signed as it is."""

    def made(plane: ControlPlane, device: Device, token: Token) -> Call:
        request = msgspec.structs.replace(plane.request(device, token), **change)
        return plane.signed(device, "POST", ENROLLMENTS, request)

    return made


def signed(**change: Any) -> Callable[[ControlPlane, Device, Token], Call]:
    """E1 as it should be, with a signature that is not."""
    return lambda plane, device, token: plane.signed(
        device, "POST", ENROLLMENTS, plane.request(device, token), **change
    )


def raw(body: bytes) -> Callable[[ControlPlane, Device, Token], Call]:
    return lambda plane, device, token: plane.signed(device, "POST", ENROLLMENTS, body)


def unsigned(plane: ControlPlane, device: Device, token: Token) -> Call:
    return Call("POST", ENROLLMENTS, {}, msgspec.json.encode(plane.request(device, token)))


def altered(plane: ControlPlane, device: Device, token: Token) -> Call:
    call = plane.signed(device, "POST", ENROLLMENTS, plane.request(device, token))
    call.body = call.body.replace(b"laptop", b"tablet")
    return call


def of_another_tenant(plane: ControlPlane, device: Device, token: Token) -> Call:
    plane.admin("POST", "/v1/tenants", {"tenant": "rival"})
    stolen = plane.token(name="rival", vnis=[])
    return plane.signed(device, "POST", ENROLLMENTS, plane.request(device, stolen))


REFUSED = {
    "not JSON": (raw(b"{"), "malformed"),
    "a field is missing": (raw(b"{}"), "invalid"),
    "a field of another type": (raw(b'{"suite": 5}'), "invalid"),
    "too large": (raw(b" " * 300_000), "body-too-large"),
    "another suite": (fields(suite="KR5"), "wrong-suite"),
    "a key of another size": (fields(public_key=bytes(100)), "invalid"),
    "a name with a line break": (fields(hostname="a\nb"), "invalid"),
    "no name": (fields(hostname=""), "invalid"),
    "a posture without end": (fields(posture={"notes": "x" * 9000}), "invalid"),
    "an unknown token": (fields(token_id="0000"), "token-unknown"),
    "a wrong secret": (fields(token_secret=bytes(32)), "token-unknown"),
    "another tenant's token": (of_another_tenant, "wrong-tenant"),
    "another role": (fields(role="gateway"), "token-wrong-role"),
    "another key": (signed(key=Device().key), "bad-signature"),
    "a body that was altered": (altered, "bad-signature"),
    "no signature": (unsigned, "unauthorized"),
    "a clock that is slow": (signed(at=1_800_000_000 - CLOCK_SKEW_S - 1), "stale-timestamp"),
    "a clock that is fast": (signed(at=1_800_000_000 + CLOCK_SKEW_S + 1), "stale-timestamp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_e1_refused_changes_nothing_and_is_on_record(plane: ControlPlane, gateway: Device, case: str) -> None:
    make, code = REFUSED[case]
    device = Device()
    call = make(plane, device, plane.token())
    before, on_record = plane.state(), len(plane.audited("enrollment.refused"))
    with refused(code):
        answer(plane.send(call), Challenge)
    assert plane.state() == before
    event = plane.audited("enrollment.refused")[on_record]
    assert (event["outcome"], event["reason"]) == ("deny", code)


def test_a_flood_of_refusals_does_not_flood_the_audit(plane: ControlPlane, gateway: Device) -> None:
    for _ in range(200):
        plane.send(Call("POST", ENROLLMENTS, {}, b"{"))
    counted = len(plane.audited("enrollment.refused"))
    assert 0 < counted <= 20
    plane.now += 3600
    plane.send(Call("POST", ENROLLMENTS, {}, b"{"))
    assert counted < len(plane.audited("enrollment.refused")) <= counted + 20


def test_a_request_is_taken_once(plane: ControlPlane, gateway: Device) -> None:
    device, token = Device(), plane.token()
    call, _ = plane.ask(device, token)
    before = plane.state()
    plane.restart()
    with refused("replayed"):
        answer(plane.send(call), Challenge)
    assert plane.state() == before


def test_an_expired_token_lets_nobody_in_but_those_it_let_in(plane: ControlPlane, gateway: Device) -> None:
    token = plane.token(uses=2, life_s=60)
    device = Device()
    plane.enroll(device, token)
    plane.now += 61
    with refused("token-expired"):
        plane.enroll(Device(), token)
    assert plane.enroll(device, token).node == device.node


def test_a_challenge_dies_and_is_used_once(plane: ControlPlane, gateway: Device) -> None:
    device, token = Device(), plane.token()
    call, asked = plane.ask(device, token)
    plane.now += CHALLENGE_LIFE_S + 1
    before = plane.state()
    with refused("challenge-expired"):
        answer(plane.respond(device, call, asked), Enrollment)
    assert plane.state() == before
    call, asked = plane.ask(device, token)
    assert answer(plane.respond(device, call, asked), Enrollment).status == "issued"
    before = plane.state()
    with refused("challenge-used"):
        answer(plane.respond(device, call, asked), Enrollment)
    assert plane.state() == before


def test_only_the_key_that_asked_answers(plane: ControlPlane, gateway: Device) -> None:
    device = Device()
    call, asked = plane.ask(device, plane.token())
    before = plane.state()
    with refused("bad-signature"):
        answer(plane.respond(device, call, asked, key=Device().key), Enrollment)
    assert plane.state() == before
    assert answer(plane.respond(device, call, asked), Enrollment).status == "issued"


def test_an_older_challenge_is_no_longer_answered(plane: ControlPlane, gateway: Device) -> None:
    device, token = Device(), plane.token()
    first, asked_first = plane.ask(device, token)
    second, asked_second = plane.ask(device, token)
    assert answer(asked_first, Challenge).enrollment == answer(asked_second, Challenge).enrollment
    with refused("bad-signature"):
        answer(plane.respond(device, first, asked_first), Enrollment)
    assert answer(plane.respond(device, second, asked_second), Enrollment).status == "issued"


def test_an_enrollment_that_nobody_made_is_not_found(plane: ControlPlane) -> None:
    with refused("not-found"):
        answer(plane.send(Call("GET", f"{ENROLLMENTS}/{os.urandom(16).hex()}", {})), Enrollment)


def test_the_certificate_names_the_device_under_the_issuer(plane: ControlPlane, gateway: Device) -> None:
    device = Device()
    issued = plane.enroll(device, plane.token())
    certificate = parse_certificate_untrusted(issued.certificate)
    assert str(certificate.spiffe) == f"spiffe://{DOMAIN}/tenant/acme/device/{device.node}"
    assert certificate.public_key == device.key.public_key
    assert certificate.not_after == plane.now + CERTIFICATE_LIFE_S
    issuer = plane.platform.settings.issuer.certificate
    assert PROVIDER.verify(KR1, issuer.public_key, certificate.tbs, certificate.signature, b"")


def test_the_gateways_hear_of_it(plane: ControlPlane, gateway: Device) -> None:
    pushes = plane.connect(gateway)
    device = Device()
    issued = plane.enroll(device, plane.token())
    (notice,) = [push for push in pushes if isinstance(push, CertificateNotice)]
    assert (notice.node, notice.certificate) == (device.node, issued.certificate)
    assert any(isinstance(push, NetworkChanged) for push in pushes)


def test_one_use_is_one_key_from_the_challenge_on(plane: ControlPlane, gateway: Device) -> None:
    token = plane.token()
    device, other = Device(), Device()
    call, asked = plane.ask(device, token)
    with refused("token-used"):
        plane.enroll(other, token)
    answer(plane.respond(device, call, asked), Enrollment)
    with refused("token-used"):
        plane.enroll(other, token)


def test_of_two_that_race_one_wins(plane: ControlPlane, gateway: Device) -> None:
    """The first let its challenge die, so the second was let in; then the first came back in time all the same."""
    token = plane.token()
    first, second = Device(), Device()
    plane.ask(first, token)
    plane.now += CHALLENGE_LIFE_S + 1
    call_of_second, asked_second = plane.ask(second, token)
    assert answer(plane.respond(second, call_of_second, asked_second), Enrollment).status == "issued"
    with refused("token-used"):
        plane.enroll(first, token)
    (row,) = plane.store.database.execute("SELECT used FROM tokens WHERE token_id = ?", (token.record.token_id,))
    assert row["used"] == 1


def test_the_same_key_again_is_the_same_node_and_no_further_use(plane: ControlPlane, gateway: Device) -> None:
    device, token = Device(), plane.token()
    first, again = plane.enroll(device, token), plane.enroll(device, token)
    assert first.node == again.node
    assert first.certificate != again.certificate
    assert plane.admin("GET", f"/v1/tenants/acme/tokens/{token.record.token_id}")["used"] == 1


def test_a_crash_at_any_write_leaves_all_or_nothing(plane: ControlPlane, gateway: Device) -> None:
    """Whatever the fabric dies in, the device asks again and is in, once."""
    died = 0
    while True:
        device, token = Device(), plane.token()
        plane.store.dies_in = died + 1
        try:
            plane.enroll(device, token)
        except Crash:
            died += 1
            plane.restart()
        else:
            break
        enrolled = plane.enroll(device, token)
        assert (enrolled.status, enrolled.node) == ("issued", device.node)
        assert plane.admin("GET", f"/v1/tenants/acme/tokens/{token.record.token_id}")["used"] == 1
        assert len(plane.admin("GET", f"/v1/tenants/acme/devices/{device.node}")["addresses"]) == 2
    assert died == 1  # the device, its leases and the revision of the network are one batch


def test_the_first_gateway_is_held_and_the_next_is_judged(plane: ControlPlane) -> None:
    with refused("no-gateway"):
        plane.enroll(Device(), plane.token())
    first, token = Device("gateway"), plane.token("gateway")
    held = plane.enroll(first, token)
    assert (held.status, held.certificate, held.node) == ("held", b"", "")
    assert plane.enroll(first, token).status == "held"
    approved = plane.admin("POST", f"/v1/tenants/acme/devices/{first.node}/approve", {})
    assert approved["status"] == "active"
    shown = answer(plane.send(Call("GET", f"{ENROLLMENTS}/{held.enrollment}", {})), Enrollment)
    assert (shown.status, shown.node) == ("issued", first.node)
    with refused("not-found"):
        plane.admin("POST", f"/v1/tenants/acme/devices/{first.node}/approve", {})
    plane.connect(first)
    assert plane.enroll(Device("gateway"), plane.token("gateway")).status == "issued"


def test_a_held_device_that_is_denied_may_ask_again(plane: ControlPlane) -> None:
    gateway, token = Device("gateway"), plane.token("gateway")
    held = plane.enroll(gateway, token)
    plane.admin("POST", f"/v1/tenants/acme/devices/{gateway.node}/deny", {"reason": "wrong rack"})
    shown = answer(plane.send(Call("GET", f"{ENROLLMENTS}/{held.enrollment}", {})), Enrollment)
    assert (shown.status, shown.reason, shown.certificate) == ("denied", "wrong rack", b"")
    with refused("not-found"):
        plane.admin("POST", f"/v1/tenants/acme/devices/{gateway.node}/approve", {})
    assert plane.enroll(gateway, token).status == "held"


@pytest.mark.parametrize(
    ("outcome", "key", "code"),
    [
        ("deny", None, "admission-denied"),
        ("", None, "gateway-unavailable"),
        ("allow", Device().key, "gateway-unavailable"),
    ],
    ids=["denied", "silent", "signed by another"],
)
def test_no_verdict_is_no_entry(plane: ControlPlane, gateway: Device, outcome: str, key: Any, code: str) -> None:
    plane.connect(gateway, outcome, key)
    token = plane.token()
    before = plane.state()
    with refused(code):
        plane.enroll(Device(), token)
    assert plane.state() == before


def test_without_a_connected_gateway_a_device_is_told_to_come_again(plane: ControlPlane, gateway: Device) -> None:
    plane.sockets["acme"].connected.clear()
    with pytest.raises(ProblemError) as error:
        plane.enroll(Device(), plane.token())
    assert (error.value.code, error.value.problem.retry_after_s) == ("gateway-unavailable", 5)


def test_a_silent_gateway_does_not_speak_for_the_others(plane: ControlPlane, gateway: Device) -> None:
    plane.now += 1
    other = plane.joined("gateway")
    asked = plane.connect(gateway, outcome="")
    plane.connect(other)
    assert plane.enroll(Device(), plane.token()).status == "issued"
    assert len([push for push in asked if isinstance(push, AdmissionRequest)]) == 1


def test_policy_may_hold_and_what_it_said_is_kept(plane: ControlPlane, gateway: Device) -> None:
    plane.connect(gateway, "hold")
    device = Device()
    held = plane.enroll(device, plane.token())
    assert (held.status, held.rule, held.reason) == ("held", "test:judge", "why not")


def test_renewal_keeps_the_node(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    plane.now += 2 * CERTIFICATE_LIFE_S / 3
    renewed = plane.node(device, "POST", "/certificates", RenewRequest(), Certificate)
    assert renewed.not_after == plane.now + CERTIFICATE_LIFE_S
    assert plane.admin("GET", f"/v1/tenants/acme/devices/{device.node}")["serial"] == renewed.serial


def test_a_renewal_is_no_news_to_all_the_others(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    pushes = plane.connect(gateway)
    plane.node(device, "POST", "/certificates", RenewRequest(), Certificate)
    assert [type(push) for push in pushes] == [CertificateNotice]


def test_rotation_is_proven_by_both_keys(plane: ControlPlane, gateway: Device) -> None:
    device, new = plane.joined(), Device().key
    node, old = device.node, device.key
    rotation = transcript.rotation(node, old.public_key, new.public_key)
    before = plane.state()
    for signature in (b"", old.sign(rotation, labels.ROTATE_KEY), new.sign(rotation, labels.REQUEST)):
        with refused("bad-signature"):
            plane.node(device, "POST", "/certificates", RenewRequest(new.public_key, signature))
    assert plane.state() == before
    wanted = RenewRequest(new.public_key, new.sign(rotation, labels.ROTATE_KEY))
    plane.node(device, "POST", "/certificates", wanted)
    device.key = new
    assert plane.node(device, "GET", "/network", node=node)["revision"]
    with refused("bad-signature"):
        plane.node(device, "GET", "/network", node=node, key=old)


def test_an_ended_certificate_renews_nothing(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    plane.now += CERTIFICATE_LIFE_S + CLOCK_SKEW_S + 1
    with refused("certificate-expired"):
        plane.node(device, "POST", "/certificates", RenewRequest())


def test_a_revoked_device_is_out_for_good(plane: ControlPlane, gateway: Device) -> None:
    token = plane.token(uses=5)
    device = Device()
    plane.enroll(device, token)
    plane.admin("DELETE", f"/v1/tenants/acme/devices/{device.node}")
    before = plane.state()
    for path, body in (("/certificates", RenewRequest()), ("/sessions", {})):
        with refused("revoked"):
            plane.node(device, "POST", path, body)
    with refused("revoked"):
        plane.enroll(device, token)
    assert plane.state() == before


def test_a_token_deleted_in_flight_ends_the_flight(plane: ControlPlane, gateway: Device) -> None:
    device, token = Device(), plane.token()
    call, asked = plane.ask(device, token)
    plane.admin("DELETE", f"/v1/tenants/acme/tokens/{token.record.token_id}")
    with refused("token-unknown"):
        answer(plane.respond(device, call, asked), Enrollment)
    with refused("not-found"):
        plane.admin("GET", f"/v1/tenants/acme/devices/{device.node}")


def rotated(plane: ControlPlane, device: Device) -> Device:
    """The device with a new key, which the fabric took."""
    newer = Device(device.role)
    signed = transcript.rotation(device.node, device.key.public_key, newer.key.public_key)
    wanted = RenewRequest(newer.key.public_key, newer.key.sign(signed, labels.ROTATE_KEY))
    plane.node(device, "POST", "/certificates", wanted, Certificate)
    return newer


@pytest.mark.parametrize(("revoke", "code"), [(False, "key-replaced"), (True, "revoked")])
def test_a_key_that_was_rotated_out_gets_nothing(plane: ControlPlane, gateway: Device, revoke: bool, code: str) -> None:
    """Whoever holds it has the id of the device, and a token with uses left."""
    device, token = Device(), plane.token(uses=5)
    plane.enroll(device, token)
    rotated(plane, device)
    if revoke:
        plane.admin("DELETE", f"/v1/tenants/acme/devices/{device.node}")
    before = plane.state()
    with refused(code):
        plane.enroll(device, token)
    assert plane.state() == before


def test_no_two_devices_have_one_key(plane: ControlPlane, gateway: Device) -> None:
    device, other = plane.joined(), plane.joined()
    signed = transcript.rotation(device.node, device.key.public_key, other.key.public_key)
    wanted = RenewRequest(other.key.public_key, other.key.sign(signed, labels.ROTATE_KEY))
    before = plane.state()
    with refused("exists"):
        plane.node(device, "POST", "/certificates", wanted, Certificate)
    assert plane.state() == before


def test_a_device_whose_token_was_deleted_goes_on_with_another(plane: ControlPlane, gateway: Device) -> None:
    device, first, second = Device(), plane.token(), plane.token()
    call, asked = plane.ask(device, first)
    plane.admin("DELETE", f"/v1/tenants/acme/tokens/{first.record.token_id}")
    with refused("token-unknown"):
        answer(plane.respond(device, call, asked), Enrollment)
    assert plane.enroll(device, second).status == "issued"
