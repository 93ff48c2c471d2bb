"""`kairos policy replay`: recorded decisions made again under a candidate; what would change."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec

from kairos.api.admin import Page
from kairos.audit.event import Event
from kairos_cli.admin import AdminClient, at, client, tenant_of
from kairos_cli.duration import seconds
from kairos_cli.output import as_json, as_table
from kairos_cli.policy import compile_bundle, source_of

_PAGE = 1000


@dataclass(frozen=True)
class Change:
    """Decisions that differ in the same way: `allow grant:web` became `deny deny:default`, `count` times."""

    point: str
    was: str
    would_be: str
    count: int
    example: str


def run(options: argparse.Namespace) -> None:
    from kairos_node.policy.bundle import unpack_untrusted
    from kairos_node.policy.engine import Engine

    admin, tenant = client(options), tenant_of(options)
    candidate = Engine(unpack_untrusted(compile_bundle(*source_of(options))), 0, b"")
    events = _recorded(admin, tenant, time.time() - seconds("--since", options.since))
    changes = _changes(candidate, events)
    if options.json:
        as_json({"decisions": len(events), "changes": changes})
        return
    rows = [(each.count, each.point, each.was, each.would_be, each.example) for each in changes]
    print(f"{len(events)} recorded decisions, {sum(each.count for each in changes)} of them would change.")
    if rows:
        as_table(("COUNT", "POINT", "WAS", "WOULD BE", "FOR EXAMPLE"), rows, "")


def _recorded(admin: AdminClient, tenant: str, since: float) -> list[Event]:
    """Flow decisions with their input, newest first."""
    events: list[Event] = []
    query: dict[str, str | int] = {"kind": "flow.", "limit": _PAGE}
    while True:
        page = admin.get(at(tenant, "audit"), Page, **query)
        found = msgspec.convert(page.items, list[Event])
        events += [each for each in found if each.at >= since and "input" in each.detail]
        if not page.next or found[-1].at < since:
            return events
        query["after"] = page.next


def _changes(candidate: Any, events: list[Event]) -> list[Change]:
    """A decision counts as changed when its verdict is another; a rule of another name is none."""
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], str] = {}
    for event in events:
        decision = candidate.decide(event.detail["point"], event.detail["input"])
        outcome = "allow" if decision.allow else "deny"
        if outcome != event.outcome:
            key = (event.detail["point"], f"{event.outcome} {event.rule}", f"{outcome} {decision.rule}")
            counts[key] += int(event.detail.get("repeated", 1))
            examples.setdefault(key, event.subject)
    return [Change(*key, count, examples[key]) for key, count in counts.most_common()]
