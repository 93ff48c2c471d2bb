"""The audit, searched: by whom, when, where, and in whose tenant."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.parse import urlencode

import pytest

from control_plane import ControlPlane, Device
from kairos.api.problem import ProblemError
from kairos.audit.event import Event, EventBatch
from kairos_control.store.audit_index import AuditIndexStore, AuditQuery


@pytest.fixture(params=["waiting", "sealed"])
def gateway(plane: ControlPlane, request: pytest.FixtureRequest) -> Device:
    """It has told of three flows in two VNIs, a minute apart."""
    gateway = plane.joined("gateway")
    for minute, (vni, actor) in enumerate(((7, "ep-a"), (8, "ep-a"), (7, "ep-b"))):
        at, detail = plane.now + 60 * minute, {"vni": vni, "input": {"dst": "10.7.0.9"}}
        event = Event(os.urandom(16).hex(), at, "", "", "flow.denied", actor, f"tcp {minute}", "deny", detail=detail)
        plane.node(gateway, "POST", "/audit", EventBatch([event]))
    if request.param == "sealed":
        plane.seal()
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


def test_few_segments_are_in_memory_however_many_search(plane: ControlPlane) -> None:
    """A viewer may send many searches at once. All objects of an isolate end when its memory is exceeded."""
    plane.joined("gateway")
    plane.seal()
    service, get, reading = plane.service("acme"), plane.blobs.get, [0, 0]

    async def slow(key: str) -> bytes | None:
        reading[0] += 1
        reading[1] = max(reading)
        for _ in range(10):
            await asyncio.sleep(0)
        reading[0] -= 1
        return await get(key)

    async def scenario() -> list[int]:
        searches = asyncio.gather(*(service.audit_search.find(AuditQuery(text="gw-"), 1 << 49, 10) for _ in range(20)))
        rebuilds = asyncio.gather(*(service.index_upkeep.rebuild(1 << 49, "root") for _ in range(20)))
        found, _ = await searches, await rebuilds
        return [len(each.events) for each in found]

    plane.blobs.get = slow  # type: ignore[method-assign]
    assert all(asyncio.run(scenario()))
    assert 0 < reading[1] <= 3


def test_another_tenants_record_is_not_searched(plane: ControlPlane, gateway: Device) -> None:
    plane.admin("POST", "/v1/tenants", {"tenant": "rival"})
    assert plane.admin("GET", f"/v1/tenants/rival/audit?{urlencode({'device': gateway.node})}")["items"] == []


@pytest.mark.parametrize("query", ["vni=seven", "since=yesterday", "until=1e9", "vni=-1"])
def test_what_is_no_number_is_refused(plane: ControlPlane, query: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        plane.admin("GET", f"/v1/tenants/acme/audit?{query}")
    assert refusal.value.code == "invalid"


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (AuditQuery(kind="flow"), "audit_index_by_kind"),
        (AuditQuery(kind="flow", actor="ep"), "audit_index_by_actor"),
        (AuditQuery(kind="flow", vni=7), "audit_index_by_vni"),
    ],
)
def test_no_search_reads_the_whole_table(plane: ControlPlane, query: AuditQuery, index: str) -> None:
    asked: list[str] = []
    plane.store.database.set_trace_callback(asked.append)
    asyncio.run(AuditIndexStore(plane.store, "acme").find(query, 0, 100, 10))
    plane.store.database.set_trace_callback(None)
    plan = " ".join(str(row["detail"]) for row in plane.store.database.execute(f"EXPLAIN QUERY PLAN {asked[-1]}"))
    assert index in plan or "position>? AND position<?" in plan
