"""The log in the tenant's object: one order, once each, sealed before it is signed for, whatever happens in between."""

from __future__ import annotations

import asyncio
import itertools
import random

import msgspec
import pytest

from control_plane import PROVIDER, ControlPlane, Crash, Device
from kairos.api.problem import ProblemError
from kairos.api.push import AuditHead, ToNode, Welcome, parse_to_node_untrusted
from kairos.audit.event import Event
from kairos.audit.head import Consistency, EventProof, SealedSegment, SignedHead, verify_event, verify_successor
from kairos.audit.merkle import leaf_hash
from kairos.audit.verification import Report, examine
from kairos_control.services import audit_log
from kairos_node.certificates import check_audit_head

AUDIT = "/v1/tenants/acme/audit"
BEGUN = 2  # events that the log begins with: the tenant and its VNI were made


def event(number: int, tenant: str = "acme") -> Event:
    return Event(f"{number:032x}", 1.5, tenant, "ep-a", "test.event", reason="ünïcode\n\u2028")


def append(plane: ControlPlane, *numbers: int) -> None:
    asyncio.run(plane.append("acme", [event(number) for number in numbers]))


def seal(plane: ControlPlane) -> None:
    asyncio.run(plane.service("acme").lifecycle.alarm())


def head(plane: ControlPlane) -> SignedHead:
    shown: SignedHead = plane.admin("GET", f"{AUDIT}/head", type_=SignedHead)
    return shown


def export(plane: ControlPlane) -> list[SealedSegment]:
    segments: list[SealedSegment] = []
    first = 0
    while first < head(plane).size:
        segments.append(plane.admin("GET", f"{AUDIT}/segments/{first}", type_=SealedSegment))
        first = segments[-1].head.size
    return segments


def examined(plane: ControlPlane, *kept: SignedHead) -> Report:
    root = plane.platform.settings.root
    return examine(export(plane), head(plane), kept, lambda each: check_audit_head(PROVIDER, root, each))


def numbers(plane: ControlPlane) -> list[int]:
    lines = b"".join(segment.lines for segment in export(plane)).splitlines()
    events = [msgspec.json.decode(line, type=Event) for line in lines]
    return [int(event.id, 16) for event in events if event.kind == "test.event"]


def test_what_the_operator_did_is_proven(plane: ControlPlane) -> None:
    """From the route through log, R2 and head to a report without findings."""
    plane.seal()
    report = examined(plane)
    assert report.findings == []
    assert report.proven == report.events == len(plane.events()) >= 2


def test_a_batch_delivered_twice_is_in_the_log_once(plane: ControlPlane) -> None:
    append(plane, 1, 2, 3)
    append(plane, 2, 3, 4, 4)
    seal(plane)
    append(plane, 4, 1, 5)
    seal(plane)
    assert numbers(plane) == [1, 2, 3, 4, 5]
    assert examined(plane).findings == []


def test_the_order_of_each_source_stays(plane: ControlPlane) -> None:
    dice = random.Random(7)
    sent: list[int] = []
    while len(sent) < 200:
        batch = list(range(len(sent), len(sent) + dice.randint(1, 9)))
        sent += batch
        append(plane, *batch)
        if dice.random() < 0.2:
            seal(plane)
    seal(plane)
    assert numbers(plane) == sent
    assert examined(plane).findings == []


def test_a_head_goes_on_from_every_head_before(plane: ControlPlane) -> None:
    heads: list[SignedHead] = []
    for number in range(12):
        append(plane, *range(number * 10, number * 10 + number + 1))
        plane.now += 60
        seal(plane)
        heads.append(head(plane))
    assert [each.at for each in heads] == sorted({each.at for each in heads})
    for older, newer in itertools.pairwise(heads):
        query = f"?first={older.size}&second={newer.size}"
        shown = plane.admin("GET", f"{AUDIT}/consistency{query}", type_=Consistency)
        verify_successor(older, newer, shown.proof)
    report = examined(plane, *heads)
    assert report.findings == []
    assert report.agreeing == heads


def test_each_event_has_its_proof(plane: ControlPlane) -> None:
    append(plane, *range(23))
    seal(plane)
    append(plane, *range(23, 40))
    seal(plane)
    for number in (0, 22, 23, 39):
        proof = plane.admin("GET", f"{AUDIT}/proof?event={number:032x}", type_=EventProof)
        assert msgspec.json.decode(proof.line, type=Event) == event(number)
        assert (proof.position, proof.head) == (BEGUN + number, head(plane))
        verify_event(leaf_hash(proof.line.encode()), proof)


def test_a_long_log_is_sealed_in_segments(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "SEGMENT_EVENTS", 10)
    monkeypatch.setattr(audit_log, "SEGMENT_BYTES", 1000)
    append(plane, *range(35))
    assert plane.alarms["acme"] == plane.now  # a full segment does not wait
    seal(plane)
    segments = export(plane)
    assert len(segments) > 3
    assert all(len(segment.lines) <= 1100 for segment in segments)
    assert numbers(plane) == list(range(35))
    assert plane.store.database.execute("SELECT count(*) FROM audit_segments").fetchone()[0] == len(segments)


def test_an_event_sets_the_alarm_once(plane: ControlPlane) -> None:
    append(plane, 1)
    assert plane.alarms.pop("acme") == plane.now + audit_log.SEAL_AFTER_S
    append(plane, 2)
    assert plane.alarms == {}
    seal(plane)
    append(plane, 2)  # nothing new: nothing to sign
    assert plane.alarms == {}
    append(plane, 3)
    assert plane.alarms


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_crash_while_sealing_loses_nothing(plane: ControlPlane, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "SEGMENT_EVENTS", 10)
    append(plane, *range(25))
    plane.store.dies_in = batch
    with pytest.raises(Crash):
        seal(plane)
    plane.restart()
    append(plane, *range(20, 33))
    seal(plane)
    assert numbers(plane) == list(range(33))
    assert examined(plane).findings == []


def test_a_crash_in_the_middle_of_a_batch_leaves_its_beginning(plane: ControlPlane) -> None:
    """The tree may have grown without its event: the next event grows it again."""
    append(plane, 0, 1, 2)
    local = plane.service("acme").platform.local
    local.write("INSERT INTO log_nodes (level, place, hash) VALUES (0, 5, 'bm90IHRoZSBldmVudA==')")
    plane.restart()
    append(plane, 0, 1, 2, 3, 4)
    seal(plane)
    assert numbers(plane) == [0, 1, 2, 3, 4]
    assert examined(plane).findings == []


def test_nodes_are_told_of_every_head(plane: ControlPlane) -> None:
    gateway = Device("gateway")
    pushes: list[ToNode] = plane.connect(gateway)
    append(plane, 1)
    seal(plane)
    assert [push.head for push in pushes if isinstance(push, AuditHead)] == [head(plane)]
    welcome = parse_to_node_untrusted(asyncio.run(plane.service("acme").node_events.welcome("ep-a")))
    assert isinstance(welcome, Welcome)
    assert welcome.audit_head == head(plane)


def test_tenants_have_logs_of_their_own(plane: ControlPlane) -> None:
    plane.admin("POST", "/v1/tenants", {"tenant": "rival"})
    asyncio.run(plane.append("rival", [event(7, "rival")]))
    plane.seal()
    plane.seal("rival")
    shown = plane.admin("GET", "/v1/tenants/rival/audit/head", type_=SignedHead)
    assert (shown.tenant, shown.size) == ("rival", 2)
    with pytest.raises(ProblemError) as refusal:
        plane.admin("GET", f"{AUDIT}/proof?event={7:032x}")
    assert refusal.value.code == "not-found"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("head", "not-found"),
        ("proof?event=" + "0" * 32, "not-found"),
        ("proof", "not-found"),
        ("segments/0", "not-found"),
        ("consistency?first=1&second=2", "not-found"),
        ("consistency?first=one&second=2", "invalid"),
        ("consistency", "invalid"),
    ],
)
def test_an_empty_log_says_so(plane: ControlPlane, path: str, code: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        plane.admin("GET", f"{AUDIT}/{path}")
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("segments/1", "not-found"),
        ("segments/4", "not-found"),
        ("segments/" + "9" * 60, "not-found"),
        ("consistency?first=0&second=2", "invalid"),
        ("consistency?first=2&second=1", "invalid"),
        ("consistency?first=1&second=5", "invalid"),
        (f"proof?event={3:032x}", "not-found"),
    ],
)
def test_only_what_is_sealed_is_shown(plane: ControlPlane, path: str, code: str) -> None:
    append(plane, 1, 2)
    seal(plane)
    append(plane, 3)
    with pytest.raises(ProblemError) as refusal:
        plane.admin("GET", f"{AUDIT}/{path}")
    assert refusal.value.code == code


def test_a_node_cannot_send_what_breaks_the_log(plane: ControlPlane) -> None:
    gateway = plane.joined("gateway")
    for change in ({"id": "short"}, {"id": "F" * 32}, {"reason": "x" * 20_000}):
        with pytest.raises(ProblemError) as refusal:
            plane.node(gateway, "POST", "/audit", {"events": [msgspec.structs.replace(event(1), **change)]})
        assert refusal.value.code == "invalid"
