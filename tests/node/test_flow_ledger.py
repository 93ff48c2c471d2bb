"""A node's half of the double entry: windows that leave no gap, and say what they leave out."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec
import pytest

from kairos.audit.flow_record import EVENT_BYTES, RESTATE_S, WINDOW_ROWS, FlowRow, FlowWindow
from kairos_dataplane import End, Flow, Verdict
from kairos_node.flow_ledger import FlowLedger


def row(source_port: int = 4000) -> FlowRow:
    return FlowRow(7, 17, "10.7.0.5", source_port, "10.7.0.9", 53, "ep-a", "", "", "r", 0.0, 0.0, (1, 0), (40, 0), "")


def over(flow_id: int, source: str = "10.7.0.5", end: End = End.IDLE) -> Flow:
    return Flow(
        flow_id, 7, 0, 17, ip_address(source), ip_address("10.7.0.9"), 4000, 53, 0, 0, Verdict.ALLOW, 1, 1, (3, 2), (120, 90),
        9.0, 4.0, 0, end,
    )  # fmt: skip


@pytest.fixture
def told() -> list[FlowWindow]:
    return []


@pytest.fixture
def ledger(told: list[FlowWindow]) -> FlowLedger:
    return FlowLedger(told.append, 100.0)


def test_a_short_flow_is_one_row_with_its_counts(ledger: FlowLedger, told: list[FlowWindow]) -> None:
    ledger.opened(1, row())
    ledger.ended([over(1), over(2)], 0, 108.0)
    ledger.window(110.0)
    [window] = told
    [only] = window.rows
    assert (window.since, window.until, window.left_out) == (100.0, 110.0, 0)
    assert (only.end, only.last, only.packets, only.bytes) == ("idle", 104.0, (3, 2), (120, 90))


def test_windows_follow_each_other_without_a_gap(ledger: FlowLedger, told: list[FlowWindow]) -> None:
    ledger.opened(1, row())
    ledger.window(110.0)
    ledger.window(120.0)
    ledger.ended([over(1, end=End.CUT)], 0, 125.0)
    ledger.window(130.0)
    assert [(each.since, each.until, [row.end for row in each.rows]) for each in told] == [
        (100.0, 110.0, [""]),
        (110.0, 130.0, ["cut"]),
    ]


def test_a_flow_that_lives_on_is_told_again(ledger: FlowLedger, told: list[FlowWindow]) -> None:
    ledger.opened(1, row())
    for now in range(110, 110 + 2 * RESTATE_S, 10):
        ledger.window(float(now))
    assert [each.until for each in told] == [110.0, 110.0 + RESTATE_S]


def test_a_flow_that_was_judged_the_other_way_round_is_counted_so(ledger: FlowLedger, told: list[FlowWindow]) -> None:
    ledger.opened(1, row())
    ledger.ended([over(1, source="10.7.0.9")], 0, 108.0)
    ledger.window(110.0)
    assert told[0].rows[0].packets == (2, 3)


def test_what_does_not_fit_is_counted(ledger: FlowLedger, told: list[FlowWindow]) -> None:
    for flow_id in range(WINDOW_ROWS + 50):
        ledger.opened(flow_id, row(flow_id))
    ledger.ended([], 7, 105.0)
    ledger.window(110.0)
    assert sum(len(each.rows) for each in told) == WINDOW_ROWS
    assert [each.left_out for each in told] == [0] * (len(told) - 1) + [57]
    assert max(len(msgspec.json.encode(each)) for each in told) < EVENT_BYTES + 1024
    assert {each.source_port for window in told for each in window.rows} != set(range(WINDOW_ROWS))  # chosen by lot


def test_a_quiet_window_keeps_what_was_untold(ledger: FlowLedger, told: list[FlowWindow]) -> None:
    ledger.ended([], 3, 105.0)
    ledger.window(110.0)
    assert told == []
    ledger.opened(1, row())
    ledger.window(120.0)
    assert (told[0].since, told[0].left_out) == (100.0, 3)


def test_a_flow_whose_end_was_untold_is_not_told_for_ever(ledger: FlowLedger, told: list[FlowWindow]) -> None:
    for flow_id in (1, 2):
        ledger.opened(flow_id, row(flow_id))
    ledger.window(110.0)
    assert set(ledger.flows()) == {1, 2}
    ledger.forget(1)
    ledger.window(110.0 + RESTATE_S)
    assert [each.source_port for each in told[-1].rows] == [2]
