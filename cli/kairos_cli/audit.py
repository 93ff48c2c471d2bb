"""`kairos audit ...`."""

from __future__ import annotations

import argparse

from kairos.api.admin import Page
from kairos.audit.event import Event
from kairos_cli.admin import at, client, tenant_of
from kairos_cli.output import as_json, as_table, moment

_PAGE = 500


def listing(options: argparse.Namespace) -> None:
    import msgspec

    admin, path = client(options), at(tenant_of(options), "audit")
    events: list[Event] = []
    query: dict[str, str | int] = {"kind": options.kind} if options.kind else {}
    while len(events) < options.limit:
        page = admin.get(path, Page, limit=min(_PAGE, options.limit - len(events)), **query)
        events += msgspec.convert(page.items, list[Event])
        if not page.next:
            break
        query["after"] = page.next
    if options.json:
        as_json(events)
        return
    rows = [
        (moment(each.at), each.source, each.kind, each.actor, each.subject, each.outcome, each.rule, each.reason)
        for each in events
    ]
    as_table(
        ("AT", "SOURCE", "KIND", "ACTOR", "SUBJECT", "OUTCOME", "RULE", "REASON"), rows, "nothing is on record yet"
    )
