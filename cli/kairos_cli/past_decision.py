"""`kairos why --decision ID`: one that was made, from the record: what both ends said, and which grants all but fitted then.

The bundle that was in force is asked the recorded input again: its grants explain the verdict, and a node that recorded
another verdict than its policy gives is told.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kairos.api.admin import Page
from kairos.audit.event import Event
from kairos.errors import KairosError
from kairos.policy.decision import Decision
from kairos_cli.admin import AdminClient, at
from kairos_cli.fitting_grants import show_grants
from kairos_cli.history import bundle_of
from kairos_cli.output import as_fields, as_json, as_table, moment

_PAGE = 1000
_TOGETHER_S = 60.0  # both ends decide within a round trip; their clocks differ more than that
_KINDS = ("flow.", "verdict.", "session.")


def show(admin: AdminClient, tenant: str, decision: str, as_document: bool) -> None:
    from kairos_node.policy import Engine
    from kairos_node.policy.bundle import unpack_untrusted

    event, others = _find(admin, tenant, decision)
    document, point = event.detail["input"], str(event.detail["point"])
    bundle = unpack_untrusted(bundle_of(admin, tenant, event.policy_version))
    engine = Engine(bundle, event.policy_version, b"")
    again = engine.decide(point, document)
    grants = engine.explain(document) if point in ("egress", "ingress") else []
    if as_document:
        as_json({"decision": event, "other_end": others, "decided_again": again, "grants": grants})
    else:
        _show(event, others, again, grants)


def _find(admin: AdminClient, tenant: str, decision: str) -> tuple[Event, list[Event]]:
    """The event of that id, and what others said of the same connection then. Raises KairosError."""
    for kind in _KINDS:
        events: list[Event] = []
        query: dict[str, str | int] = {"kind": kind, "limit": _PAGE}
        while True:
            page = admin.get(at(tenant, "audit"), Page, **query)
            events += msgspec.convert(page.items, list[Event])
            found = next((each for each in events if each.id == decision), None)
            if found is not None and "input" in found.detail:
                return found, [each for each in events if _is_other_end(each, found)]
            if not page.next:
                break
            query["after"] = page.next
    raise KairosError(f"no decision {decision} is on record; `kairos audit list --kind flow --json` shows the ids")


def _is_other_end(event: Event, of: Event) -> bool:
    """The subject has both ends' addresses and ports."""
    return event.subject == of.subject and event.source != of.source and abs(event.at - of.at) < _TOGETHER_S


def _show(event: Event, others: list[Event], again: Decision, grants: list[dict[str, Any]]) -> None:
    same = (again.allow, again.rule) == (event.outcome == "allow", event.rule)
    if event.rule == "isolation":
        again_text = "policy was not asked: an end was isolated"
    else:
        again_text = "the same" if same else f"{'allow' if again.allow else 'deny'} {again.rule}: not what was recorded"
    as_fields(
        [
            ("decision", event.id),
            ("of", event.subject),
            ("at", moment(event.at)),
            ("policy", f"version {event.policy_version}"),
            ("decided again", again_text),
        ]
    )
    app = event.detail["input"].get("app") or event.detail["input"].get("claims", {}).get("app")
    if app:
        as_fields(
            [
                (
                    "program",
                    f"{app['path'] or 'unknown'} (uid {app['uid']}, {app['unit'] or 'no unit'}, sha256 {app['sha256']})",
                )
            ]
        )
    print()
    rows = [
        (each.source, str(each.detail.get("point", "")), each.outcome, each.rule, each.reason)
        for each in (event, *others)
    ]
    as_table(("WHERE", "POINT", "VERDICT", "RULE", "REASON"), rows, "")
    show_grants(grants)
