"""A flood of decisions stays a trickle in the audit, and nothing is left out in silence."""

from __future__ import annotations

from kairos.audit.event import Event
from kairos_node.decision_log import PER_MINUTE, DecisionLog


def event(number: int, kind: str = "flow.denied", actor: str = "ep-a", rule: str = "deny:default") -> Event:
    return Event(f"{number:032x}", float(number), "acme", "gw-a", kind, actor, rule=rule, detail={"vni": 1})


def test_a_port_scan_is_some_events_and_a_count() -> None:
    recorded: list[Event] = []
    log = DecisionLog(recorded.append)
    told = [log.report(event(number)) for number in range(1000)]
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
        log.report(event(number))
    assert log.report(event(1000, actor="ep-b"))
    assert log.report(event(1001, rule="deny:no-ssh"))
    assert log.report(event(1002, kind="flow.allowed", rule="grant:web"))


def test_a_quiet_minute_says_nothing_and_the_next_begins_anew() -> None:
    recorded: list[Event] = []
    log = DecisionLog(recorded.append)
    for number in range(PER_MINUTE):
        log.report(event(number))
    log.minute()
    assert len(recorded) == PER_MINUTE
    assert log.report(event(99))
