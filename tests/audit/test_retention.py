"""Old events lose their text, by the tenant's own setting and on record; all that remains verifies as before."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from control_plane import PROVIDER, ControlPlane
from kairos.api.admin import AuditRetention
from kairos.api.problem import ProblemError
from kairos.audit.event import Event
from kairos.audit.head import Consistency, EventProof, SealedSegment, SignedHead, verify_event, verify_successor
from kairos.audit.merkle import leaf_hash
from kairos.audit.verification import Report, examine
from kairos_node.certificates import check_audit_head

AUDIT = "/v1/tenants/acme/audit"
DAY_S = 86_400


def record(plane: ControlPlane, *numbers: int) -> None:
    """They are sealed in a segment."""
    events = [Event(f"{number:032x}", plane.now, "acme", "ep-a", "test.event") for number in numbers]
    asyncio.run(plane.append("acme", events))
    plane.seal()


def keep(plane: ControlPlane, days: int) -> AuditRetention:
    kept: AuditRetention = plane.admin("PUT", f"{AUDIT}/retention", AuditRetention(days), AuditRetention)
    return kept


def sweep(plane: ControlPlane) -> None:
    """The cron's call, and what it told is sealed."""
    assert plane.sweep().status == 200
    plane.seal()


def head(plane: ControlPlane) -> SignedHead:
    shown: SignedHead = plane.admin("GET", f"{AUDIT}/head", type_=SignedHead)
    return shown


def export(plane: ControlPlane) -> list[SealedSegment]:
    segments: list[SealedSegment] = []
    while not segments or segments[-1].head.size < head(plane).size:
        first = segments[-1].head.size if segments else 0
        segments.append(plane.admin("GET", f"{AUDIT}/segments/{first}", type_=SealedSegment))
    return segments


def examined(plane: ControlPlane, segments: list[SealedSegment], *kept: SignedHead) -> Report:
    root = plane.platform.settings.root
    return examine(segments, head(plane), kept, lambda each: check_audit_head(PROVIDER, root, each))


@pytest.fixture
def old(plane: ControlPlane) -> SignedHead:
    """The head over two old segments; a third is a month younger."""
    record(plane, 1, 2, 3)
    record(plane, 4, 5)
    old = head(plane)
    plane.now += 30 * DAY_S
    record(plane, 6, 7)
    return old


def test_nothing_goes_unless_it_is_said(plane: ControlPlane, old: SignedHead) -> None:
    assert plane.admin("GET", f"{AUDIT}/retention", type_=AuditRetention) == AuditRetention()
    plane.now += 4000 * DAY_S
    sweep(plane)
    assert all(segment.lines for segment in export(plane))


def test_what_is_old_loses_its_text_and_the_rest_verifies(plane: ControlPlane, old: SignedHead) -> None:
    before = head(plane)
    assert keep(plane, 7).days == 7
    sweep(plane)
    segments = export(plane)
    assert [bool(segment.lines) for segment in segments[:3]] == [False, False, True]
    report = examined(plane, segments, old, before)
    assert report.findings == []
    assert (report.retired, report.proven, len(report.agreeing)) == (old.size, head(plane).size, 2)
    assert report.events == report.proven - report.retired
    assert report.retired_before == int(plane.now) - 7 * DAY_S
    listed = [each["id"] for each in plane.admin("GET", f"{AUDIT}?kind=test")["items"]]
    assert [int(each, 16) for each in listed] == [7, 6]
    assert plane.admin("GET", f"{AUDIT}/retention", type_=AuditRetention).retired == old.size


def test_proofs_of_what_remains_hold_and_of_what_went_there_is_none(plane: ControlPlane, old: SignedHead) -> None:
    keep(plane, 7)
    sweep(plane)
    proof = plane.admin("GET", f"{AUDIT}/proof?event={6:032x}", type_=EventProof)
    verify_event(leaf_hash(proof.line.encode()), proof)
    now = head(plane)
    path = f"{AUDIT}/consistency?first={old.size}&second={now.size}"
    verify_successor(old, now, plane.admin("GET", path, type_=Consistency).proof)
    with pytest.raises(ProblemError, match="deleted by the tenant's retention"):
        plane.admin("GET", f"{AUDIT}/proof?event={1:032x}")


def test_what_is_missing_without_the_logs_word_was_removed(plane: ControlPlane, old: SignedHead) -> None:
    keep(plane, 7)
    sweep(plane)
    segments = export(plane)
    segments[2] = msgspec.structs.replace(segments[2], lines=b"")
    report = examined(plane, segments)
    assert ("removed", old.size) in [(finding.code, finding.at) for finding in report.findings]
    assert (report.retired, report.proven) == (old.size, old.size)


def test_a_node_cannot_retire(plane: ControlPlane) -> None:
    record(plane, 1, 2)
    lie = Event("f" * 32, plane.now, "acme", "ep-a", "audit.retired", detail={"size": 3, "before": 9})
    asyncio.run(plane.append("acme", [lie]))
    plane.seal()
    segments = export(plane)
    segments[0] = msgspec.structs.replace(segments[0], lines=b"")
    assert {finding.code for finding in examined(plane, segments).findings} == {"removed"}


def test_each_step_is_on_record(plane: ControlPlane, old: SignedHead) -> None:
    keep(plane, 7)
    (change,) = plane.audited("audit.retention")
    assert (change["actor"], change["detail"]) == ("root", {"before": 0, "days": 7})
    sweep(plane)
    sweep(plane)
    (retired,) = plane.audited("audit.retired")
    assert retired["detail"]["size"] == old.size
    with pytest.raises(ProblemError, match="days"):
        keep(plane, -1)
