"""Isolation at the fabric: what it refuses, whom it tells, and what a receipt is worth."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane import PROVIDER, ControlPlane, Device
from kairos.api.admin import Device as DeviceRecord
from kairos.api.admin import IsolationRecord
from kairos.api.enrollment import RenewRequest
from kairos.api.problem import ProblemError
from kairos.api.push import Isolation, IsolationState, Receipt, Welcome, encode, parse_to_node_untrusted
from kairos.api.session import SessionGrant
from kairos.crypto import labels
from kairos.identity import transcript
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_cli.fabric.operator import Operator
from kairos_cli.isolate import check

AT = "/v1/tenants/acme/devices"


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def isolate(plane: ControlPlane, device: Device, verb: str = "isolate") -> IsolationRecord:
    record: IsolationRecord = plane.admin("POST", f"{AT}/{device.node}/{verb}", {"reason": "stolen"}, IsolationRecord)
    return record


def shown(plane: ControlPlane, device: Device) -> IsolationRecord:
    record: IsolationRecord = plane.admin("GET", f"{AT}/{device.node}/isolation", None, IsolationRecord)
    return record


def answers(plane: ControlPlane, record: IsolationRecord, point: Device, signer: Device | None = None) -> None:
    """`point` says that it has enforced it."""
    signed = transcript.isolation_receipt(record.id, record.node, point.node, record.state, 1_800_000_000_123)
    signature = (signer or point).key.sign(signed, labels.ISOLATION_RECEIPT)
    state: IsolationState = "isolated" if record.state == "isolated" else "released"
    text = encode(Receipt(record.id, state, 1_800_000_000_123, signature))
    assert plane.service("acme").node_events.received(point.node, text)


@pytest.mark.parametrize("restarted", [False, True])
def test_an_isolated_device_gets_nothing(plane: ControlPlane, gateway: Device, restarted: bool) -> None:
    device = plane.joined()
    plane.node(device, "POST", "/sessions", {}, SessionGrant)
    isolate(plane, device)
    if restarted:
        plane.restart()
    for method, path, body in (
        ("POST", "/sessions", {}),
        ("POST", "/certificates", RenewRequest()),
        ("GET", "/network", None),
        ("GET", "/policy", None),
    ):
        with refused("isolated"):
            plane.node(device, method, path, body)
    assert plane.node(device, "POST", "/audit", {"events": []}) == {"accepted": 0}
    assert plane.service("acme").sessions.current() == []
    record: DeviceRecord = plane.admin("GET", f"{AT}/{device.node}", None, DeviceRecord)
    assert (record.status, record.reason) == ("isolated", "stolen")


def test_it_does_not_get_in_by_enrolling_again(plane: ControlPlane, gateway: Device) -> None:
    token = plane.token()
    device = Device()
    plane.enroll(device, token)
    isolate(plane, device)
    with refused("isolated"):
        plane.enroll(device, token)


def test_everyone_is_told_and_whoever_connects_later(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    pushes = plane.connect(gateway)
    record = isolate(plane, device)
    assert [push for push in pushes if isinstance(push, Isolation)] == [
        Isolation(record.id, device.node, "isolated", "stolen")
    ]
    assert plane.relay.cuts[-1].node == device.node
    welcome = parse_to_node_untrusted(asyncio.run(plane.service("acme").node_events.welcome(gateway.node)))
    assert isinstance(welcome, Welcome)
    assert [each.node for each in welcome.isolations] == [device.node]
    isolate(plane, device, "release")
    assert plane.relay.cuts[-1].until == 0
    welcome = parse_to_node_untrusted(asyncio.run(plane.service("acme").node_events.welcome(gateway.node)))
    assert isinstance(welcome, Welcome)
    assert welcome.isolations == []
    plane.node(device, "POST", "/sessions", {}, SessionGrant)


def test_asked_twice_it_is_one_isolation(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    first = isolate(plane, device)
    answers(plane, first, gateway)
    second = isolate(plane, device)
    assert second.id == first.id
    assert {receipt.point for receipt in second.receipts} == {"relay", gateway.node}
    third = isolate(plane, device, "release")
    assert (third.id, third.receipts) == (first.id, [])
    assert isolate(plane, device).id != first.id


def test_what_is_not_there_is_not_isolated(plane: ControlPlane, gateway: Device) -> None:
    with refused("not-found"):
        isolate(plane, Device())
    with refused("not-found"):
        isolate(plane, plane.joined(), "release")


def test_a_relay_that_was_not_told_gives_no_receipt(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    plane.relay.reachable = False
    assert isolate(plane, device).receipts == []
    assert "relay" in shown(plane, device).expected


def test_the_command_believes_the_root_only(plane: ControlPlane, gateway: Device, operator: Operator) -> None:
    """A receipt that another node signed, or that no certificate proves, is shown as worth nothing."""
    device, forger = plane.joined(), plane.joined()
    record = isolate(plane, device)
    answers(plane, record, gateway, signer=forger)
    verdicts = {point.point: point.verdict for point in check(operator, "acme", shown(plane, device), plane.now)}
    assert verdicts == {"relay": "valid", gateway.node: "the signature is wrong"}
    isolate(plane, device, "release")
    record = isolate(plane, device)
    answers(plane, record, gateway)
    record = shown(plane, device)
    assert {point.verdict for point in check(operator, "acme", record, plane.now)} == {"valid"}
    for receipt in record.receipts:
        receipt.certificate = b""
    assert not any(point.good for point in check(operator, "acme", record, plane.now))


def test_receipts_outlive_the_issuer_that_was_in_force(
    plane: ControlPlane, gateway: Device, operator: Operator
) -> None:
    """A node shows a certificate of the earlier issuer until its next renewal, and the relay's receipt is signed by that for good."""
    device = plane.joined()
    record = isolate(plane, device)
    answers(plane, record, gateway)
    plane.renew_issuer()
    operator = replace(operator, issuer_certificate=plane.platform.settings.issuer.certificate.der)
    assert verdicts(plane, device, operator) == {"relay": "valid", gateway.node: "valid"}
    isolate(plane, device)  # told again by the new issuer: the first receipt stays
    assert verdicts(plane, device, operator) == {"relay": "valid", gateway.node: "valid"}
    other = plane.joined()
    answers(plane, isolate(plane, other), gateway)
    assert verdicts(plane, other, operator) == {"relay": "valid", gateway.node: "valid"}
    plane.now += 20 * 3600
    plane.node(gateway, "POST", "/certificates", RenewRequest())
    assert verdicts(plane, other, operator) == {"relay": "valid", gateway.node: "valid"}
    plane.now += 91 * 86_400  # both issuers have ended, and the operator has a third one
    plane.renew_issuer()
    operator = replace(operator, issuer_certificate=plane.platform.settings.issuer.certificate.der)
    assert verdicts(plane, device, operator)["relay"] == verdicts(plane, other, operator)["relay"] == "valid"


def test_a_receipt_from_after_the_end_of_its_issuer_is_worth_nothing(
    plane: ControlPlane, gateway: Device, operator: Operator
) -> None:
    device = plane.joined()
    isolate(plane, device)
    record = shown(plane, device)
    [receipt] = record.receipts
    receipt.at_ms += 91 * 86_400 * 1000
    relay, _ = check(operator, "acme", record, plane.now)
    assert "is not valid now" in relay.verdict


def verdicts(plane: ControlPlane, device: Device, operator: Operator) -> dict[str, str]:
    return {point.point: point.verdict for point in check(operator, "acme", shown(plane, device), plane.now)}


REPORT = {"rule": "isolation:spoofing", "reason": "not its own", "policy_version": 3, "counts": {"spoofed": 601}}


def test_a_gateways_report_isolates_by_policy_and_says_so(plane: ControlPlane, gateway: Device) -> None:
    device, pushes = plane.joined(), plane.connect(gateway)
    for _ in range(2):  # a gateway that got no answer says it again
        assert plane.node(gateway, "POST", "/isolations", {"node": device.node, **REPORT}) is None
    record = shown(plane, device)
    assert (record.state, record.reason) == ("isolated", "not its own")
    assert {push.id for push in pushes if isinstance(push, Isolation)} == {record.id}
    (event,) = plane.audited("device.isolated")
    assert (event["actor"], event["subject"], event["rule"]) == ("policy", device.node, "isolation:spoofing")
    assert event["detail"]["reported_by"] == gateway.node
    assert event["detail"]["counts"] == {"spoofed": 601}


def test_only_a_gateway_reports_and_only_endpoints(plane: ControlPlane, gateway: Device) -> None:
    device, other = plane.joined(), plane.joined()
    with refused("wrong-role"):
        plane.node(other, "POST", "/isolations", {"node": device.node, **REPORT})
    with refused("wrong-role"):
        plane.node(gateway, "POST", "/isolations", {"node": gateway.node, **REPORT})
    with refused("not-found"):
        plane.node(gateway, "POST", "/isolations", {"node": Device().node, **REPORT})
    with refused("not-found"):
        shown(plane, device)


@pytest.fixture
def operator(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Operator:
    """The operator of this fabric, at this fabric's time."""
    settings = plane.platform.settings
    monkeypatch.setattr(time, "time", lambda: plane.now)
    return Operator(
        folder=tmp_path,
        suite=settings.suite,
        trust_domain=settings.trust_domain,
        url="",
        relay_url="",
        root_certificate=settings.root.der,
        issuer_certificate=settings.issuer.certificate.der,
        policy_key=settings.policy_key,
        admin_token="",
    )


def test_the_relays_receipt_is_the_fabrics(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    [receipt] = isolate(plane, device).receipts
    record = shown(plane, device)
    key = parse_certificate_untrusted(receipt.certificate).public_key
    signed = transcript.isolation_receipt(record.id, device.node, "relay", "isolated", receipt.at_ms)
    assert PROVIDER.verify(plane.platform.settings.suite, key, signed, receipt.signature, labels.ISOLATION_RECEIPT)


def test_an_isolation_while_a_node_connects_is_in_its_welcome(plane: ControlPlane, gateway: Device) -> None:
    """A gateway whose socket is not open yet gets no push, so what comes between the reads of D1 has to be in its first message."""
    device = plane.joined()
    plane.node(device, "POST", "/sessions", {})
    service, rows, changes = plane.service("acme"), plane.store.rows, [True]

    async def isolated_between(sql: str, *values: Any) -> Any:
        """What the welcome says of refused certificates, and right after it the operator isolates the device."""
        found = await rows(sql, *values)
        if "FROM certificates" in sql and "refused_from" in sql and changes and changes.pop():
            await service.isolations.isolate(device.node, "stolen", "root")
        return found

    plane.store.rows = isolated_between  # type: ignore[method-assign]
    welcome = parse_to_node_untrusted(asyncio.run(service.node_events.welcome(gateway.node)))
    assert isinstance(welcome, Welcome)
    assert changes == []
    assert [each.node for each in welcome.isolations] == [device.node]
    assert welcome.sessions == []
