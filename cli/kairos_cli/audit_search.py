"""`kairos audit search`, `reconcile`, `retention` and `reindex`: the record, asked, how long it is kept, and its index."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import msgspec

from kairos.api.admin import AuditRetention, Page
from kairos.api.operations import Reindexed
from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW
from kairos.audit.reconciliation import MARGIN_S, Discrepancy, Reconciliation, reconcile
from kairos.errors import KairosError
from kairos_cli.admin import AdminClient, at, client, tenant_of
from kairos_cli.audit import HEADER, kinds, row
from kairos_cli.device import node_of
from kairos_cli.duration import seconds
from kairos_cli.output import as_fields, as_json, as_table, moment

_PAGE, _EVENTS_MAX = 500, 100_000
_COLUMNS = ("KIND", "NODE", "FLOW", "OPENED", "LAST", "PACKETS", "BYTES", "TOLD BY")
_SAYS = {
    "hidden": "does not name it",
    "silent": "has told nothing of that time",
    "understated": "names far fewer bytes",
}


def search(options: argparse.Namespace) -> None:
    """Newest first."""
    admin, tenant, now = client(options), tenant_of(options), time.time()
    query: dict[str, str | int] = {**kinds(options), "actor": options.actor, "vni": options.vni, "text": options.text}
    query["device"] = node_of(admin, tenant, options.device) if options.device else ""
    query["since"] = str(int(now - seconds("--since", options.since))) if options.since else ""
    query["until"] = str(int(now - seconds("--until", options.until))) if options.until else ""
    events = found(admin, tenant, options.limit, **{name: value for name, value in query.items() if value})
    if options.json:
        as_json(list(events))
        return
    as_table(HEADER, map(row, events), "nothing on record fits")


def found(admin: AdminClient, tenant: str, limit: int, **query: str | int) -> Iterator[Event]:
    """What fits the query, newest first, page by page."""
    left = limit
    while left > 0:
        page = admin.get(at(tenant, "audit"), Page, limit=min(_PAGE, left), **query)
        yield from msgspec.convert(page.items, list[Event])
        left -= len(page.items)
        if not page.next:
            return
        query["after"] = page.next


def reconciled(options: argparse.Namespace) -> None:
    """Exits with 1 when one end tells of a flow and the other does not."""
    admin, tenant = client(options), tenant_of(options)
    until = time.time() - seconds("--settle", options.settle)
    since = until - seconds("--since", options.since)
    events = found(admin, tenant, _EVENTS_MAX, kind=LEDGER_WINDOW, since=str(int(since - MARGIN_S)))
    result = reconcile(events, since, until)
    if options.json:
        as_json(result)
    else:
        _tell(result)
    if result.discrepancies:
        first = result.discrepancies[0]
        raise KairosError(f"the two ends of {len(result.discrepancies)} flows do not tell the same: {_said(first)}")


def retention(options: argparse.Namespace) -> None:
    admin, path = client(options), at(tenant_of(options), "audit", "retention")
    if options.days is None:
        kept = admin.get(path, AuditRetention)
    else:
        kept = admin.send("PUT", path, AuditRetention(options.days), AuditRetention)
    if options.json:
        as_json(kept)
        return
    fields: list[tuple[str, object]] = [("kept for", f"{kept.days} days" if kept.days else "ever")]
    if kept.retired:
        fields.append(("retired", f"{kept.retired} events, sealed before {moment(kept.before)}"))
    as_fields(fields)


def reindex(options: argparse.Namespace) -> None:
    """Step by step, the newest segments first."""
    admin, path = client(options), at(tenant_of(options), "audit", "reindex")
    step = admin.send("POST", path, {}, Reindexed)
    segments = step.segments
    while step.next:
        step = admin.send("POST", f"{path}?before={step.next}", {}, Reindexed)
        segments += step.segments
    if options.json:
        as_json({"segments": segments})
    else:
        as_fields([("indexed again", f"{segments} segments")])


def _tell(result: Reconciliation) -> None:
    rows = [
        (each.kind, each.node, each.flow, moment(each.opened), moment(each.last), each.packets, each.bytes, each.told_by)
        for each in result.discrepancies
    ]  # fmt: skip
    as_table(_COLUMNS, rows, "both ends agree")
    print(
        f"{moment(result.since)} to {moment(result.until)}: {result.windows} reports of {result.flows} flows,"
        f" {result.agreed} confirmed by the other end"
    )
    if result.unknown:
        print(f"unknown: {result.unknown} may be among those that a full report had no room for")


def _said(each: Discrepancy) -> str:
    return f"{each.told_by} had packets of {each.flow} from {each.node}, which {_SAYS[each.kind]}"
