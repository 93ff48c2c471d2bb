"""A tenant that is made again under an old name has nothing of the former one but its audit."""

from __future__ import annotations

import asyncio

import pytest

from control_plane import ControlPlane, Device, answer
from kairos.api.enrollment import Challenge, Enrollment, RenewRequest
from kairos.api.problem import ProblemError
from kairos.api.push import AdmissionRequest, AdmissionVerdict, encode
from kairos.api.session import SessionGrant
from kairos.crypto import labels
from kairos.identity import transcript
from kairos_control.http.call import Call, Reply
from kairos_control.services import admission

ACME = "/v1/tenants/acme"
LISTS = ("devices", "tokens", "certificates", "gateways", "vnis", "routes", "admins", "policy/versions")
# What outlives a tenant: its audit and where that is, and numbers of the schema.
STAYS = ("log_", "audit", "placements", "schema_migrations", "d1_migrations", "tenants")


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def test_nothing_of_the_former_tenant_comes_back(plane: ControlPlane, gateway: Device) -> None:
    device, waiting, token = Device(), Device(), plane.token(uses=5)
    plane.enroll(device, token)
    plane.admin("PUT", f"{ACME}/gateways/{gateway.node}", {"priority": 1, "weight": 1})
    session = plane.node(device, "POST", "/sessions", {"posture": {"disk": "encrypted"}}, SessionGrant)
    call, asked = plane.ask(waiting, token)
    plane.admin("POST", f"{ACME}/devices/{device.node}/isolate", {})
    plane.admin("DELETE", ACME)
    left = {table for table, rows in plane.state().items() if rows and not any(each in table for each in STAYS)}
    assert left <= {"0.vni_numbers"}  # a number is given once
    plane.sockets["acme"].connected.clear()
    plane.admin("POST", "/v1/tenants", {"tenant": "acme"})
    for name in LISTS:
        assert plane.admin("GET", f"{ACME}/{name}")["items"] == []
    with refused("unknown-device"):
        plane.node(device, "POST", "/certificates", RenewRequest())
    with refused("token-unknown"):
        plane.enroll(device, token)
    with refused("not-found"):
        answer(plane.respond(waiting, call, asked), Enrollment)
    with refused("not-found"):
        enrollment = answer(asked, Challenge).enrollment
        answer(plane.send(Call("GET", f"{ACME}/enrollments/{enrollment}", {})), Enrollment)
    internal = {"authorization": f"Bearer {plane.platform.settings.internal_key}"}
    body = b'{"token": "%s", "gateway": "%s"}' % (session.token.encode(), gateway.node.encode())
    with refused("unauthorized"):
        answer(plane.send(Call("POST", "/internal/introspect/acme", internal, body)), SessionGrant)


def test_a_request_that_gateways_still_judge_leaves_nothing_in_the_next_tenant(
    plane: ControlPlane, gateway: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tenant is deleted while a gateway thinks about the enrollment."""
    monkeypatch.setattr(admission, "ADMISSION_WAIT_S", 60)
    pushed = plane.connect(gateway, outcome="")
    device, token = Device(), plane.token()
    ask = plane.signed(device, "POST", f"{ACME}/enrollments", plane.request(device, token))

    async def run() -> Reply:
        task, tenant = asyncio.create_task(plane.answer(ask)), plane.service("acme")
        for _ in range(100):  # no call on CPython awaits anything else than the gateway
            await asyncio.sleep(0)
        await tenant.lifecycle.delete("root")
        [asked] = [push for push in pushed if isinstance(push, AdmissionRequest)]
        signed = transcript.admission_verdict(asked.id, asked.input.encode(), "allow", "r", "")
        signature = gateway.key.sign(signed, labels.ADMISSION_VERDICT)
        verdict = AdmissionVerdict(asked.id, "allow", "r", "", signature)
        assert tenant.node_events.received(gateway.node, encode(verdict))
        return await task

    with refused("token-unknown"):
        answer(asyncio.run(run()), Challenge)
    assert plane.state()["1.enrollments"] == []
