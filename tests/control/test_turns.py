"""Calls that change records run one at a time. Who waits was authenticated before, and is again by what changed meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from control_plane import ADMIN_TOKEN, ControlPlane, Device, answer
from kairos.api.admin import AdminCreate, AdminRecord, Reason
from kairos.api.enrollment import Challenge, ChallengeResponse, Enrollment, RenewRequest
from kairos.api.problem import ProblemError
from kairos.crypto import labels
from kairos.identity import transcript
from kairos.identity.admin_credential import AdminCredential
from kairos_control.http.call import Call, Reply
from kairos_control.tenant import TenantServices

ACME = "/v1/tenants/acme"
Change = Callable[[TenantServices], Awaitable[object]]


def code_of(reply: Reply) -> str:
    with pytest.raises(ProblemError) as error:
        answer(reply, Enrollment)
    return error.value.code


async def settle(task: asyncio.Task[Reply]) -> None:
    """Lets everything run that does not wait for the turn. No call on CPython awaits anything else."""
    for _ in range(100):
        if not task.done():
            await asyncio.sleep(0)


def while_waiting(plane: ControlPlane, call: Call, change: Change) -> Reply:
    """The answer to a call during whose wait for its turn the records change."""

    async def run() -> Reply:
        tenant = plane.service("acme")
        async with tenant.turn:
            task = asyncio.create_task(plane.answer(call))
            await settle(task)
            assert not task.done()
            await change(tenant)
        return await task

    return asyncio.run(run())


def response(device: Device, call: Call, asked: Reply) -> Call:
    """E4."""
    challenge = answer(asked, Challenge)
    signature = device.key.sign(transcript.enrollment(call.body, asked.body), labels.ENROLL_RESPONSE)
    path = f"{ACME}/enrollments/{challenge.enrollment}/response"
    return Call("POST", path, {}, msgspec.json.encode(ChallengeResponse(signature)))


def rotation(device: Device, newer: Device) -> RenewRequest:
    signed = transcript.rotation(device.node, device.key.public_key, newer.key.public_key)
    return RenewRequest(newer.key.public_key, newer.key.sign(signed, labels.ROTATE_KEY))


def test_nobody_waits_for_the_turn_without_a_proof(plane: ControlPlane, gateway: Device) -> None:
    """An enrollment's response is proven by the signature in its body."""
    device = Device()
    call, asked = plane.ask(device, plane.token())
    forged = [
        Call("POST", f"{ACME}/enrollments/{os.urandom(16).hex()}/response", {}, b'{"signature":"AAAA"}'),
        response(Device(), call, asked),
        Call("DELETE", f"{ACME}/devices/{gateway.node}", {"authorization": "Bearer guess"}),
        plane.signed(Device(), "POST", f"{ACME}/certificates", RenewRequest()),
        plane.signed(gateway, "POST", f"{ACME}/certificates", RenewRequest(), key=device.key),
    ]

    async def run() -> None:
        async with plane.service("acme").turn:
            for each in forged * 20:
                task = asyncio.create_task(plane.answer(each))
                await settle(task)
                assert code_of(task.result()) in ("not-found", "bad-signature", "unauthorized", "unknown-device")

    before = plane.state()
    asyncio.run(run())
    assert plane.state() == before
    assert answer(plane.send(response(device, call, asked)), Enrollment).status == "issued"


def test_a_node_that_was_revoked_while_it_waited_renews_nothing(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    call = plane.signed(device, "POST", f"{ACME}/certificates", RenewRequest())
    reply = while_waiting(plane, call, lambda tenant: tenant.devices.revoke(device.node, "root"))
    assert code_of(reply) == "revoked"
    assert [each["kind"] for each in plane.queue.messages].count("certificate.renewed") == 0


@pytest.mark.parametrize("rotates", [False, True])
def test_a_key_that_was_rotated_out_while_it_waited_renews_nothing(
    plane: ControlPlane, gateway: Device, rotates: bool
) -> None:
    device, newer = plane.joined(), Device()
    wanted = rotation(device, Device()) if rotates else RenewRequest()

    async def rotate(tenant: TenantServices) -> None:
        stored = await tenant.store.devices.one(device.node)
        assert stored is not None
        await tenant.certificates.renew(stored, rotation(device, newer))

    reply = while_waiting(plane, plane.signed(device, "POST", f"{ACME}/certificates", wanted), rotate)
    assert code_of(reply) == "bad-signature"
    stored = asyncio.run(plane.service("acme").store.devices.one(device.node))
    assert stored is not None
    assert stored.public_key == newer.key.public_key


def test_a_node_that_was_isolated_while_it_waited_renews_nothing(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()

    async def isolate(tenant: TenantServices) -> None:
        tenant.platform.local.write(
            "INSERT INTO isolations (node, id, state, reason, at, expected) VALUES (?, 'i', 'isolated', 'r', 0, '[]')",
            device.node,
        )

    call = plane.signed(device, "POST", f"{ACME}/certificates", RenewRequest())
    assert code_of(while_waiting(plane, call, isolate)) == "isolated"


def test_a_credential_that_was_revoked_while_it_waited_changes_nothing(plane: ControlPlane, gateway: Device) -> None:
    secret = os.urandom(32)
    wanted = AdminCreate("helper", "operator", hashlib.sha256(secret).digest())
    made = plane.admin("POST", f"{ACME}/admins", wanted, AdminRecord)
    token = str(AdminCredential(made.admin, secret))
    call = Call("DELETE", f"{ACME}/devices/{gateway.node}", {"authorization": f"Bearer {token}"})
    reply = while_waiting(plane, call, lambda tenant: tenant.administrators.revoke(made.admin, "root"))
    assert code_of(reply) == "unauthorized"
    assert plane.admin("GET", f"{ACME}/devices/{gateway.node}")["status"] == "active"


def test_a_tenant_that_was_deleted_while_a_call_waited_gets_nothing(plane: ControlPlane) -> None:
    call = Call("DELETE", f"{ACME}/vnis/office", {"authorization": f"Bearer {ADMIN_TOKEN}"})
    assert code_of(while_waiting(plane, call, lambda tenant: tenant.lifecycle.delete("root"))) == "not-found"


def test_a_newer_challenge_takes_the_place_of_one_whose_answer_waits(plane: ControlPlane, gateway: Device) -> None:
    device, token = Device(), plane.token()

    async def ask_again(tenant: TenantServices) -> None:
        await plane.answer(plane.signed(device, "POST", f"{ACME}/enrollments", plane.request(device, token)))

    call, asked = plane.ask(device, token)
    assert code_of(while_waiting(plane, response(device, call, asked), ask_again)) == "challenge-used"


def test_a_token_that_was_deleted_while_the_answer_waited_lets_nobody_in(plane: ControlPlane, gateway: Device) -> None:
    device, token = Device(), plane.token()
    call, asked = plane.ask(device, token)
    reply = while_waiting(
        plane, response(device, call, asked), lambda tenant: tenant.tokens.delete(token.record.token_id, "root")
    )
    assert code_of(reply) == "token-unknown"
    assert [row[1] for row in plane.state()["0.devices"]] == [gateway.node]


def test_of_two_responses_to_one_challenge_one_is_taken(plane: ControlPlane, gateway: Device) -> None:
    device = Device()
    call, asked = plane.ask(device, plane.token())

    async def run() -> list[Reply]:
        async with plane.service("acme").turn:
            tasks = [asyncio.create_task(plane.answer(response(device, call, asked))) for _ in range(2)]
            for task in tasks:
                await settle(task)
        return await asyncio.gather(*tasks)

    taken, refused = asyncio.run(run())
    assert answer(taken, Enrollment).status == "issued"
    assert code_of(refused) == "challenge-used"


def test_a_device_that_was_denied_is_not_let_in_by_an_answer_that_comes_later(plane: ControlPlane) -> None:
    gateway, token = Device("gateway"), plane.token("gateway")
    plane.enroll(gateway, token)
    call, asked = plane.ask(gateway, token)  # it is held; the same request again is challenged again
    plane.admin("POST", f"{ACME}/devices/{gateway.node}/deny", Reason("wrong rack"))
    said = answer(plane.send(response(gateway, call, asked)), Enrollment)
    assert (said.status, said.certificate) == ("denied", b"")
    assert plane.state()["0.devices"] == []
