"""The audit, searched: by whom, when, where, and in whose tenant."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlencode

import pytest

from control_plane import ControlPlane, Device
from kairos.api.problem import ProblemError
from kairos.audit.event import Event, EventBatch


@pytest.fixture
def gateway(plane: ControlPlane) -> Device:
    """It has told of three flows in two VNIs, a minute apart."""
    gateway = plane.joined("gateway")
    for minute, (vni, actor) in enumerate(((7, "ep-a"), (8, "ep-a"), (7, "ep-b"))):
        at, detail = plane.now + 60 * minute, {"vni": vni, "input": {"dst": "10.7.0.9"}}
        event = Event(os.urandom(16).hex(), at, "", "", "flow.denied", actor, f"tcp {minute}", "deny", detail=detail)
        plane.node(gateway, "POST", "/audit", EventBatch([event]))
    plane.consume()
    return gateway


def found(plane: ControlPlane, **query: Any) -> list[str]:
    page = plane.admin("GET", f"/v1/tenants/acme/audit?{urlencode({'kind': 'flow', **query})}")
    return [each["subject"] for each in page["items"]]


def test_each_condition_leaves_out_what_it_does_not_fit(plane: ControlPlane, gateway: Device) -> None:
    assert found(plane) == ["tcp 2", "tcp 1", "tcp 0"]
    assert found(plane, actor="ep-a") == ["tcp 1", "tcp 0"]
    assert found(plane, without="flow.den") == []
    assert found(plane, without="ledger.window") == ["tcp 2", "tcp 1", "tcp 0"]
    assert found(plane, vni=7) == ["tcp 2", "tcp 0"]
    assert found(plane, vni=7, actor="ep-a") == ["tcp 0"]
    assert found(plane, since=plane.now + 60) == ["tcp 2", "tcp 1"]
    assert found(plane, since=plane.now + 60, until=plane.now + 120) == ["tcp 1"]
    assert found(plane, text='"dst":"10.7.0.9"') == ["tcp 2", "tcp 1", "tcp 0"]
    assert found(plane, text="%") == found(plane, actor="ep") == found(plane, kind="flow.allowed") == []


def test_a_device_is_who_tells_it_does_it_or_has_it_done(plane: ControlPlane, gateway: Device) -> None:
    assert found(plane, device="ep-b") == ["tcp 2"]
    assert found(plane, device="tcp 1") == ["tcp 1"]
    assert len(found(plane, device=gateway.node)) == 3
    assert gateway.node in found(plane, device=gateway.node, kind="certificate")


def test_a_search_is_paged(plane: ControlPlane, gateway: Device) -> None:
    path = "/v1/tenants/acme/audit?kind=flow&vni=7&limit=1"
    first = plane.admin("GET", path)
    second = plane.admin("GET", f"{path}&after={first['next']}")
    assert [each["subject"] for each in first["items"] + second["items"]] == ["tcp 2", "tcp 0"]
    assert second["next"] == ""


def test_another_tenants_record_is_not_searched(plane: ControlPlane, gateway: Device) -> None:
    plane.admin("POST", "/v1/tenants", {"tenant": "rival"})
    assert plane.admin("GET", f"/v1/tenants/rival/audit?{urlencode({'device': gateway.node})}")["items"] == []


@pytest.mark.parametrize("query", ["vni=seven", "since=yesterday", "until=1e9", "vni=-1"])
def test_what_is_no_number_is_refused(plane: ControlPlane, query: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        plane.admin("GET", f"/v1/tenants/acme/audit?{query}")
    assert refusal.value.code == "invalid"


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("kind >= 'flow' AND kind < 'flox'", "audit_by_kind"),
        ("source = 'gw'", "audit_by_source"),
        ("json_extract(body, '$.actor') = 'ep'", "audit_by_actor"),
        ("json_extract(body, '$.subject') = 'ep'", "audit_by_subject"),
        ("json_extract(body, '$.detail.vni') = 7", "audit_by_vni"),
        ("at >= 17", "audit_by_time"),
    ],
)
def test_no_search_reads_the_whole_table(plane: ControlPlane, condition: str, index: str) -> None:
    question = f"EXPLAIN QUERY PLAN SELECT seq FROM audit INDEXED BY {index} WHERE tenant = 'acme' AND {condition}"
    plan = " ".join(str(row["detail"]) for row in plane.store.database.execute(question))
    assert index in plan
