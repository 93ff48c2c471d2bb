"""`kairos audit ...`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from kairos.api.admin import Page
from kairos.audit.event import Event
from kairos.audit.flow_record import LEDGER_WINDOW
from kairos.audit.head import EventProof, SignedHead, verify_event
from kairos.audit.merkle import leaf_hash
from kairos.audit.verification import Report
from kairos.errors import KairosError
from kairos.identity.certificate import Certificate, parse_certificate_untrusted
from kairos_cli.admin import AdminClient, at, client, tenant_of
from kairos_cli.audit_export import as_line, checker, read_head, require_successor, write_ocsf
from kairos_cli.audit_export import export as export_log
from kairos_cli.audit_export import verify as verify_export
from kairos_cli.fabric.operator import directory, write_files
from kairos_cli.output import as_fields, as_json, as_table, moment

_PAGE = 500
_TAIL_EVERY_S = 1.0
HEADER = ("AT", "SOURCE", "KIND", "ACTOR", "SUBJECT", "OUTCOME", "RULE", "REASON")


def listing(options: argparse.Namespace) -> None:
    import msgspec

    admin, path = client(options), at(tenant_of(options), "audit")
    events: list[Event] = []
    query: dict[str, str | int] = kinds(options)
    while len(events) < options.limit:
        page = admin.get(path, Page, limit=min(_PAGE, options.limit - len(events)), **query)
        events += msgspec.convert(page.items, list[Event])
        if not page.next:
            break
        query["after"] = page.next
    if options.json:
        as_json(events)
        return
    as_table(HEADER, map(row, events), "nothing is on record yet")


def tail(options: argparse.Namespace) -> None:
    """Until interrupted. Events that come late from a node's spool come late here."""
    import msgspec

    admin, path = client(options), at(tenant_of(options), "audit")
    seen: set[tuple[str, str]] = set()
    while True:
        events = _news(admin, path, options, seen)
        for event in reversed(events):
            line = msgspec.json.encode(event).decode() if options.json else "  ".join(filter(None, row(event)))
            print(line, flush=True)
        seen.update((event.source, event.id) for event in events)
        time.sleep(_TAIL_EVERY_S)


def _news(admin: AdminClient, path: str, options: argparse.Namespace, seen: set[tuple[str, str]]) -> list[Event]:
    """Newest first, down to one that was seen; the first time a few old ones."""
    import msgspec

    news: list[Event] = []
    query: dict[str, str | int] = kinds(options)
    while True:
        page = admin.get(path, Page, limit=_PAGE if seen else options.limit, **query)
        for event in msgspec.convert(page.items, list[Event]):
            if (event.source, event.id) in seen:
                return news
            news.append(event)
        if not page.next or not seen:
            return news
        query["after"] = page.next


def head(options: argparse.Namespace) -> None:
    """Fetched, checked, and held against the one that was seen last."""
    admin, tenant = client(options), tenant_of(options)
    newest = admin.get(at(tenant, "audit", "head"), SignedHead)
    checker(_root(options))(newest)
    folder = admin.operator.folder / "audit"
    name = f"{tenant}.head.json"
    held = read_head(folder / name) if (folder / name).exists() else None
    if held is not None:
        require_successor(admin, held, newest)
    write_files(folder, [(name, as_line(newest))])
    if options.json:
        as_json(newest)
        return
    as_fields(
        [
            ("tenant", newest.tenant),
            ("events", newest.size),
            ("root", newest.root.hex()),
            ("signed", moment(newest.at)),
            ("issuer", parse_certificate_untrusted(newest.issuer).subject),
            ("goes on from", f"{held.size} events, signed {moment(held.at)}" if held else "no head was seen before"),
        ]
    )


def prove(options: argparse.Namespace) -> None:
    """The event is in the log: checked here, whatever the fabric says."""
    import msgspec

    proof = client(options).get(
        at(tenant_of(options), "audit", "proof"), EventProof, event=options.event, source=options.source
    )
    checker(_root(options))(proof.head)
    verify_event(leaf_hash(proof.line.encode()), proof)
    if options.json:
        as_json(proof)
        return
    event = msgspec.json.decode(proof.line, type=Event)
    if event.id != options.event:
        raise KairosError(f"the fabric proved another event: {event.id}")
    print(proof.line)
    print(
        f"is event {proof.position} of the {proof.head.size} that the fabric signed for at {moment(proof.head.at)}"
        f" ({len(proof.path)} hashes lead to its root {proof.head.root.hex()})"
    )


def export(options: argparse.Namespace) -> None:
    folder = Path(options.folder)
    newest = export_log(client(options), tenant_of(options), folder, checker(_root(options)))
    if options.format == "ocsf":
        print(f"{folder / 'ocsf'} has {write_ocsf(folder)} new records")
    print(
        f"{options.folder} holds all {newest.size} events up to {moment(newest.at)}; kairos audit verify {options.folder}"
    )


def verify(options: argparse.Namespace) -> None:
    kept = [read_head(Path(path)) for path in options.head]
    report = verify_export(Path(options.folder), kept, checker(_root(options)))
    if options.json:
        as_json(report)
    else:
        _tell(report)
    if report.findings:
        first = report.findings[0]
        more = f", and {len(report.findings) - 1} more" if len(report.findings) > 1 else ""
        raise KairosError(f"this is not the log that was signed: {first.text}{more}")


def _tell(report: Report) -> None:
    for finding in report.findings:
        print(f"{finding.code:<12} {finding.text}")
    print(f"tenant {report.tenant}: {report.events} events, {report.heads} sealed segments")
    if report.retired:
        print(
            f"retired: the text of events 0 to {report.retired - 1}, all from before {moment(report.retired_before)}, was deleted by the"
            " tenant's retention, as the log itself records; their hashes stand"
        )
    if report.proven > report.retired:
        print(
            f"proven: events {report.retired} to {report.proven - 1} are those that the fabric signed for: none edited, removed, inserted or reordered"
        )
    for each in report.agreeing:
        print(f"proven: the log goes on from the kept head of {each.size} events, signed {moment(each.at)}")
    if not report.agreeing and not report.findings:
        print(
            "not proven: that no newer events were cut off, and that others were shown the same history;"
            " give heads that nodes keep (audit-head.json in their state directory) with --head"
        )


def _root(options: argparse.Namespace) -> Certificate:
    """--root, or the operator directory's."""
    path = Path(options.root) if options.root else directory(options.dir) / "root.der"
    try:
        return parse_certificate_untrusted(path.read_bytes())
    except FileNotFoundError:
        raise KairosError(f"{path} is missing; name the fabric's root certificate (DER) with --root") from None


def kinds(options: argparse.Namespace) -> dict[str, str | int]:
    """Programs get every kind; people get the windows of flows, which come all the time, only when they ask for them."""
    if options.kind:
        return {"kind": options.kind}
    return {} if options.json else {"without": LEDGER_WINDOW}


def row(event: Event) -> tuple[str, ...]:
    """Of a table under HEADER."""
    return (
        moment(event.at), event.source, event.kind, event.actor, event.subject, event.outcome, event.rule, event.reason
    )  # fmt: skip
