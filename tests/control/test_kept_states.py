"""Fabrics of earlier revisions, in today's control plane at the moment at which they were killed: all is there, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kept_states import ARCHIVES, KeptState, changes, read_head, revived, unpacked

from control_plane import ControlPlane, answer
from kairos.api.problem import ProblemError
from kairos.api.session import Introspected, Introspection, SessionGrant, SessionRequest
from kairos.audit.event import Event
from kairos.audit.head import SealedSegment, SignedHead
from kairos.audit.verification import examine
from kairos.identity.certificate import parse_certificate_untrusted
from kairos_cli.audit_export import checker
from kairos_control.http.call import Call
from kairos_control.store.object_schema import MIGRATIONS

_RESENT_S = 61.0  # after so long an event that has not come back is sent to the queue again


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.split(".")[0])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> KeptState:
    return unpacked(request.param, tmp_path)


@pytest.fixture
def plane(kept: KeptState) -> Iterator[ControlPlane]:
    with revived(kept) as plane:
        yield plane


def introspected(plane: ControlPlane, kept: KeptState, session: dict[str, Any]) -> Introspected:
    """Raises ProblemError."""
    body = msgspec.json.encode(Introspection(session["token"], session["gateways"][0]["gateway"]))
    headers = {"authorization": f"Bearer {kept.operator.internal_key}"}
    return answer(plane.send(Call("POST", "/internal/introspect/acme", headers, body)), Introspected)


def test_every_answer_is_what_it_was(plane: ControlPlane, kept: KeptState) -> None:
    assert kept.facts["answers"]
    for path, was in kept.facts["answers"].items():
        now = plane.admin("GET", f"{path}?limit=1000" if "items" in was else path)
        if path.endswith("/audit"):  # by the log's own order now, and with the events that were on their way to it
            was = {event["id"]: event for event in was["items"]}
            now = {event["id"]: event for event in now["items"] if event["id"] in was}
        assert not list(changes(was, now, path))
    for tenant, local in plane.objects.items():
        numbers = [row["number"] for row in local.rows("SELECT number FROM schema_migrations ORDER BY number")]
        assert numbers == [each.number for each in MIGRATIONS], tenant


def test_sessions_are_what_they_were(plane: ControlPlane, kept: KeptState) -> None:
    sessions = kept.facts["sessions"]
    live = introspected(plane, kept, sessions["live"])
    assert (live.session, live.node) == (sessions["live"]["session"], sessions["live"]["node"])
    for name in ("expired", "ended", "isolated"):
        with pytest.raises(ProblemError, match="not valid"):
            introspected(plane, kept, sessions[name])
    renewal = SessionRequest({}, sessions["live"]["session"])
    grant = plane.node(kept.device("gateway"), "POST", "/sessions", renewal, SessionGrant)
    assert grant.session == sessions["live"]["session"]
    assert grant.expires_at > sessions["live"]["expires_at"] - 1


def test_no_event_is_lost_and_every_head_verifies(plane: ControlPlane, kept: KeptState) -> None:
    plane.now += _RESENT_S
    for tenant in plane.objects:
        plane.seal(tenant)  # what was on its way is sent to the queue again
        plane.seal(tenant)  # and sealed
        segments = list(sealed(plane, tenant))
        heads = [read_head(path) for path in kept.heads(tenant)]
        root = parse_certificate_untrusted(kept.operator.root_certificate)
        report = examine(segments, segments[-1].head, heads, checker(root))
        assert not report.findings
        assert len(report.agreeing) == len(heads) > 0
        ids = [msgspec.json.decode(line, type=Event).id for each in segments for line in each.lines.splitlines()]
        assert len(ids) == len(set(ids))
        listed = [each["id"] for each in kept.facts["answers"][f"/v1/tenants/{tenant}/audit"]["items"]]
        assert set(listed) <= set(ids)
        if tenant == "acme":
            late = [*kept.facts["unsealed"], *kept.facts["on_the_way"]]
            assert [each for each in ids if each in set(late)] == late, "in the order in which they were taken"
        assert not plane.objects[tenant].rows("SELECT * FROM outbox")


def sealed(plane: ControlPlane, tenant: str) -> Iterator[SealedSegment]:
    newest = plane.admin("GET", f"/v1/tenants/{tenant}/audit/head", None, SignedHead)
    size = 0
    while size < newest.size:
        segment = plane.admin("GET", f"/v1/tenants/{tenant}/audit/segments/{size}", None, SealedSegment)
        yield segment
        size = segment.head.size


def test_it_goes_on(plane: ControlPlane, kept: KeptState) -> None:
    gateway, nodes = kept.device("gateway"), kept.facts["nodes"]
    pushes = plane.connect(gateway)
    joined = plane.joined()
    grant = plane.node(joined, "POST", "/sessions", SessionRequest({}), SessionGrant)
    assert {each.gateway for each in grant.gateways} == {nodes["gateway"], nodes["second"]}
    assert pushes
    with pytest.raises(ProblemError, match="isolated"):
        plane.node(kept.device("mallory"), "POST", "/sessions", SessionRequest({}))
    plane.admin("POST", f"/v1/tenants/acme/devices/{nodes['mallory']}/release", {"reason": "found"})
    plane.node(kept.device("mallory"), "POST", "/sessions", SessionRequest({}))
    assert plane.admin("POST", f"/v1/tenants/acme/devices/{nodes['held']}/approve", {})["status"] == "active"
    with pytest.raises(ProblemError, match="revoked"):
        plane.node(kept.device("lost"), "POST", "/sessions", SessionRequest({}))
    addresses = plane.admin("GET", f"/v1/tenants/acme/devices/{joined.node}")["addresses"]
    assert not set(addresses) & {
        address
        for each in kept.facts["answers"]["/v1/tenants/acme/devices"]["items"]
        for address in each.get("addresses", [])
    }
