"""Double entry: what only one end of a tunnel tells of is found, whoever is silent."""

from __future__ import annotations

import os
from dataclasses import astuple

import msgspec
import pytest

from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW, WINDOW_ROWS, Crossed, FlowRow, FlowWindow
from kairos.audit.reconciliation import MARGIN_S, Reconciliation, reconcile

NOW = 1_800_000_000.0
ALICE, BOB, GATEWAY = "ep-alice", "ep-bob", "gw-one"


def flow(**changed: object) -> FlowRow:
    """Alice asks Bob, who answers."""
    row = FlowRow(
        7, 6, "10.7.0.5", 40112, "10.7.0.9", 443, ALICE, BOB, "", "grants:web", NOW, NOW + 2, (10, 8), (4000, 9000), "closed"
    )  # fmt: skip
    return msgspec.structs.replace(row, **changed)


def told(source: str, *rows: FlowRow, since: float = NOW - 1, until: float = NOW + 9, left_out: int = 0) -> Event:
    window = msgspec.to_builtins(FlowWindow(since, until, left_out, list(rows)))
    return Event(os.urandom(16).hex(), until, "acme", source, LEDGER_WINDOW, detail=window)


def result_of(*events: Event) -> Reconciliation:
    return reconcile(events, NOW - 60, NOW + 60)


def found(*events: Event) -> list[tuple[str, str, str]]:
    return [(each.kind, each.node, each.told_by) for each in result_of(*events).discrepancies]


def test_a_flow_that_all_three_tell_agrees() -> None:
    result = result_of(*(told(node, flow()) for node in (ALICE, GATEWAY, BOB)))
    assert (result.flows, result.agreed, result.unknown, result.discrepancies) == (3, 4, 0, [])


@pytest.mark.parametrize("liar", [ALICE, BOB])
def test_an_endpoint_that_hides_a_flow_shows(liar: str) -> None:
    honest = [told(node, flow()) for node in {ALICE, BOB, GATEWAY} - {liar}]
    assert found(*honest, told(liar, flow(source_port=1, device=liar, packets=(1, 0)))) == [("hidden", liar, GATEWAY)]
    assert found(*honest) == [("silent", liar, GATEWAY)]


def test_a_gateway_that_hides_a_flow_shows() -> None:
    assert found(told(ALICE, flow()), told(BOB, flow()), told(GATEWAY, flow(source_port=1, device="", peer=""))) == [
        ("hidden", "any gateway", ALICE),
        ("hidden", "any gateway", BOB),
    ]


def test_what_got_no_answer_may_have_been_lost_on_the_way() -> None:
    lost = flow(packets=(3, 0))
    assert found(told(ALICE, lost)) == []
    assert found(told(ALICE, lost), told(GATEWAY, lost)) == []
    assert found(told(GATEWAY, lost)) == [("silent", ALICE, GATEWAY)]


def test_the_ends_may_name_a_flow_the_other_way_round_and_by_clocks_that_differ() -> None:
    turned = flow(
        source="10.7.0.9", source_port=443, destination="10.7.0.5", destination_port=40112, device=BOB, peer=ALICE,
        packets=(8, 10), bytes=(9000, 4000), opened=NOW + 200, last=NOW + 202,
    )  # fmt: skip
    assert found(told(ALICE, flow()), told(GATEWAY, turned), told(BOB, flow())) == []
    late = flow(opened=NOW + 400, last=NOW + 402)
    assert ("hidden", ALICE, GATEWAY) in found(told(ALICE, late), told(GATEWAY, flow()), told(BOB, flow()))


def test_a_flow_that_crosses_is_known_by_another_name_on_the_other_side() -> None:
    crossing = flow(crossed=Crossed(8, "10.8.9.5", "10.8.0.9"), destination="10.7.9.9")
    at_bob = flow(vni=8, source="10.8.9.5", destination="10.8.0.9")
    at_alice = flow(destination="10.7.9.9")
    assert found(told(ALICE, at_alice), told(GATEWAY, crossing), told(BOB, at_bob)) == []
    assert found(told(ALICE, at_alice), told(GATEWAY, crossing)) == [("silent", BOB, GATEWAY)]


def test_a_flow_that_goes_on_is_known_from_the_window_that_told_it_first() -> None:
    early = flow(opened=NOW - 500, last=NOW - 500, end="")
    assert (
        found(told(ALICE, early, since=NOW - 505, until=NOW - 495), told(GATEWAY, flow(opened=NOW - 500, peer="")))
        == []
    )


def test_a_full_window_may_have_left_it_out_and_no_other_may() -> None:
    many = [flow(source_port=port, packets=(1, 0)) for port in range(WINDOW_ROWS)]
    full = [told(GATEWAY, *many[:500]), told(GATEWAY, *many[500:], left_out=9)]
    hidden = flow(source_port=2000, peer="")
    result = result_of(*full, told(ALICE, hidden, *many))
    assert (result.unknown, result.discrepancies) == (1, [])
    assert found(told(ALICE, *many[:3], left_out=1), told(GATEWAY, hidden)) == [("hidden", ALICE, GATEWAY)]


def test_an_endpoint_that_tells_of_far_less_than_it_sent_shows() -> None:
    little, much = flow(peer="", bytes=(4000, 0)), flow(peer="", bytes=(9_000_000, 0))
    assert found(told(ALICE, little), told(GATEWAY, much)) == [("understated", ALICE, GATEWAY)]
    assert found(told(ALICE, much), told(GATEWAY, little)) == []
    goes_on = flow(peer="", bytes=(4000, 0), end="")
    assert found(told(ALICE, goes_on), told(GATEWAY, much)) == []


def test_only_what_is_asked_about_is_looked_up_and_nonsense_tells_nothing() -> None:
    nonsense = msgspec.structs.replace(told(GATEWAY, flow()), detail={"rows": "all"})
    assert astuple(reconcile([nonsense, told(GATEWAY, flow())], NOW + 9, NOW + 60))[2:6] == (0, 0, 0, 0)
    assert MARGIN_S >= 600
