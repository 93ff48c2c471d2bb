"""Audit events in OCSF: each in the class that it is, with what the class requires, whatever a node puts into its detail."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW, FlowRow, FlowWindow
from kairos.audit.ocsf import records
from kairos.policy.input import flow_input

REQUIRED = ("class_uid", "category_uid", "activity_id", "type_uid", "severity_id", "time", "metadata")
OF_CLASS = {
    0: (),
    2004: ("finding_info",),
    3002: ("user", "service"),
    3004: ("entity",),
    4001: ("src_endpoint", "dst_endpoint", "connection_info"),
}
KINDS = (
    "flow.allowed", "flow.denied", "ledger.window", "session.opened", "audit.inconsistent", "token.created", "chaos.event", "",
)  # fmt: skip


def event(kind: str, **fields: Any) -> Event:
    return Event("0" * 32, 1_800_000_000.25, "acme", "gw-one", kind, **fields)


def mapped(kind: str, **fields: Any) -> dict[str, Any]:
    [record] = records(event(kind, **fields))
    check(record)
    return record


def check(record: dict[str, Any]) -> None:
    assert all(name in record for name in (*REQUIRED, *OF_CLASS[record["class_uid"]]))
    assert record["type_uid"] == record["class_uid"] * 100 + record["activity_id"]
    assert record["category_uid"] == record["class_uid"] // 1000
    assert isinstance(record["time"], int)
    msgspec.json.encode(record)


@pytest.mark.parametrize(
    ("kind", "class_uid", "activity", "status"),
    [
        ("session.opened", 3002, 1, 1),
        ("session.denied", 3002, 1, 2),
        ("session.ended", 3002, 2, 1),
        ("session.renewed", 3002, 99, 1),
        ("request.refused", 3002, 1, 2),
        ("token.created", 3004, 1, 1),
        ("gateway.ranked", 3004, 3, 1),
        ("device.revoked", 3004, 4, 1),
        ("enrollment.denied", 3004, 3, 2),
        ("audit.inconsistent", 2004, 1, 1),
        ("ledger.differs", 2004, 1, 1),
        ("relay.unreachable", 0, 99, None),
    ],
)
def test_each_kind_has_its_class(kind: str, class_uid: int, activity: int, status: int | None) -> None:
    record = mapped(kind, actor="ep-a", subject="ep-b", reason="because")
    assert (record["class_uid"], record["activity_id"], record.get("status_id")) == (class_uid, activity, status)
    assert record["message"] == "because"
    assert record["metadata"]["event_code"] == kind
    assert record["unmapped"]["subject"] == "ep-b"


@pytest.mark.parametrize(("outcome", "activity", "action"), [("allow", 1, 1), ("deny", 5, 2)])
def test_a_decision_about_a_flow(outcome: str, activity: int, action: int) -> None:
    document = flow_input(
        "ingress", now="2026-11-25T18:00:00Z", tenant="acme", vni=7, vni_name="office", device=None, peer=None,
        source=("10.7.0.5", 40112), destination=("10.7.0.9", 443), protocol=6, gateway="gw-one", attachment="gw-two",
    )  # fmt: skip
    kind = "flow.allowed" if outcome == "allow" else "flow.denied"
    record = mapped(kind, outcome=outcome, rule="grants:web", policy_version=3, detail={"input": document})
    assert (record["activity_id"], record["action_id"]) == (activity, action)
    assert record["src_endpoint"] == {"ip": "10.7.0.5", "port": 40112, "uid": "gw-two"}
    assert record["dst_endpoint"] == {"ip": "10.7.0.9", "port": 443}
    assert record["firewall_rule"] == {"name": "grants:web", "version": "3"}


def test_a_window_is_a_record_for_each_flow() -> None:
    row = FlowRow(
        7, 17, "10.7.0.5", 4000, "10.7.0.9", 53, "ep-a", "ep-b", "s1", "r", 100.0, 102.5, (3, 2), (120, 90), "idle"
    )
    rows = [row, msgspec.structs.replace(row, end="cut"), msgspec.structs.replace(row, end="")]
    found = records(event(LEDGER_WINDOW, detail=msgspec.to_builtins(FlowWindow(90.0, 110.0, 0, rows))))
    for record in found:
        check(record)
    assert [record["activity_id"] for record in found] == [2, 3, 1]
    assert len({record["metadata"]["uid"] for record in found}) == 3
    assert (found[0]["duration"], found[0]["traffic"]["bytes_out"], found[0]["traffic"]["bytes_in"]) == (2500, 120, 90)


@given(
    st.sampled_from(KINDS),
    st.floats(allow_nan=False, allow_infinity=False),
    st.dictionaries(
        st.sampled_from(("input", "rows", "since")), st.none() | st.text() | st.dictionaries(st.text(), st.none())
    ),
)
def test_whatever_a_node_puts_into_its_detail_is_a_record(kind: str, at: float, detail: dict[str, Any]) -> None:
    for record in records(msgspec.structs.replace(event(kind, detail=detail), at=at)):
        check(record)
