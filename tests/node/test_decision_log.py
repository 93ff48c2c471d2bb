"""A flood of decisions stays a trickle in the audit, and nothing is left out in silence."""

from __future__ import annotations

from kairos.audit.event import Event
from kairos_node.decision_log import PER_MINUTE, STRANGERS_MAX, DecisionLog


def event(number: int, kind: str = "flow.denied", actor: str = "ep-a", rule: str = "deny:default") -> Event:
    return Event(f"{number:032x}", float(number), "acme", "gw-a", kind, actor, rule=rule, detail={"vni": 1})


def test_a_port_scan_is_some_events_and_a_count() -> None:
    recorded: list[Event] = []
    log = DecisionLog(recorded.append)
    told = [log.report(event(number), "ep-a") for number in range(1000)]
    assert sum(told) == len(recorded) == PER_MINUTE
    log.minute()
    summary = recorded[-1]
    assert len(recorded) == PER_MINUTE + 1
    assert summary.detail == {"vni": 1, "repeated": 1000 - PER_MINUTE}
    assert (summary.kind, summary.actor, summary.rule) == ("flow.denied", "ep-a", "deny:default")
    assert summary.id not in {each.id for each in recorded[:-1]}


def test_one_that_floods_hides_no_other() -> None:
    recorded: list[Event] = []
    log = DecisionLog(recorded.append)
    for number in range(1000):
        log.report(event(number), "ep-a")
    assert log.report(event(1000, actor="ep-b"), "ep-b")
    assert log.report(event(1001, rule="deny:no-ssh"), "ep-a")
    assert log.report(event(1002, kind="flow.allowed", rule="grant:web"), "ep-a")


def test_a_quiet_minute_says_nothing_and_the_next_begins_anew() -> None:
    recorded: list[Event] = []
    log = DecisionLog(recorded.append)
    for number in range(PER_MINUTE):
        log.report(event(number), "ep-a")
    log.minute()
    assert len(recorded) == PER_MINUTE
    assert log.report(event(99), "ep-a")


def test_a_node_that_forges_addresses_is_one_node() -> None:
    recorded: list[Event] = []
    log = DecisionLog(recorded.append)
    for number in range(1000):
        log.report(event(number, actor=f"192.168.70.{number}"), "branch-router")
    assert len(recorded) == PER_MINUTE
    assert log.report(event(1000, actor="192.168.80.1"), "other-router")


def test_forged_addresses_of_no_node_are_bounded_too() -> None:
    recorded: list[Event] = []
    log = DecisionLog(recorded.append)
    for number in range(10_000):
        log.report(event(number, actor=f"198.18.{number >> 8}.{number & 255}"), "")
    assert len(recorded) == STRANGERS_MAX + PER_MINUTE
    log.minute()
    assert recorded[-1].detail["repeated"] == 10_000 - STRANGERS_MAX - PER_MINUTE
