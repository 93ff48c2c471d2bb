"""Verbs for the record of what happened."""

from __future__ import annotations

from kairos_cli.registry.verb import ADMIN, IN_TENANT, OPERATOR, TENANT, Verb, arg

_ROOT = arg("--root", help="root certificate, DER (default: root.der of the operator directory)", default=None)
AUDIT = (
    Verb(
        "audit list",
        "audit:listing",
        "list audit events, newest first",
        (
            arg("--kind", help="only events of this kind, or kinds that begin with it", default=""),
            arg("--limit", help="at most this many (default 100)", type=int, default=100),
            *IN_TENANT,
        ),
    ),
    Verb(
        "audit tail",
        "audit:tail",
        "show audit events as they come, until interrupted",
        (
            arg("--kind", help="only events of this kind, or kinds that begin with it", default=""),
            arg("--limit", help="begin with at most this many old ones (default 10)", type=int, default=10),
            *IN_TENANT,
        ),
    ),
    Verb(
        "audit search",
        "audit_search:search",
        "find audit events, newest first",
        (
            arg(
                "--device",
                help="told by this node, done by it or to it: node id, or its name if that is unique",
                default="",
            ),
            arg("--kind", help="of this kind, or kinds that begin with it", default=""),
            arg("--actor", help="done by this actor: a node id, admin:NAME, root", default=""),
            arg("--vni", help="number of the network segment", default=""),
            arg("--since", help="how far back: 30m, 24h, 7d", default=""),
            arg("--until", help="up to how long ago: 30m, 24h, 7d", default=""),
            arg("--text", help="with these words anywhere in it, case and all", default=""),
            arg("--limit", help="at most this many (default 100)", type=int, default=100),
            *IN_TENANT,
        ),
    ),
    Verb(
        "audit reconcile",
        "audit_search:reconciled",
        "hold what endpoints tell of their flows against what gateways tell; exit 1 if they differ",
        (
            arg("--since", help="how far back: 30m, 24h, 7d (default 1h)", default="1h"),
            arg("--settle", help="younger reports may still come, and are left out (default 60s)", default="60s"),
            *IN_TENANT,
        ),
    ),
    Verb(
        "audit head",
        "audit:head",
        "the newest signed head of the log; it must go on from the one seen last",
        (_ROOT, *IN_TENANT),
    ),
    Verb(
        "audit prove",
        "audit:prove",
        "prove that an event is in the log",
        (
            arg("event", help="id of the event"),
            arg("--source", help="who told of it, where several sources have an event with this id", default=""),
            _ROOT,
            *IN_TENANT,
        ),
    ),
    Verb(
        "audit retention",
        "audit_search:retention",
        "show how long events are kept, or set it",
        (
            arg("days", help="delete the text of events after so many days; 0: keep it for ever", type=int, nargs="?"),
            *IN_TENANT,
        ),
    ),
    Verb(
        "audit reindex",
        "audit_search:reindex",
        "make the index that searches use again, out of the log",
        IN_TENANT,
    ),
    Verb(
        "audit export",
        "audit:export",
        "fetch the whole log into a folder, or what the folder has not yet",
        (
            arg("folder", help="where to, or what to add to"),
            arg(
                "--format",
                help="jsonl: the events as they are (default); ocsf: beside them, in FOLDER/ocsf, as OCSF 1.3 for a SIEM",
                choices=("jsonl", "ocsf"),
                default="jsonl",
            ),
            _ROOT,
            TENANT,
            OPERATOR,
        ),
    ),
    Verb(
        "audit verify",
        "audit:verify",
        "prove an export, offline: nothing edited, removed, inserted, reordered or cut off",
        (
            arg("folder", help="an export"),
            arg("--head", help="a head that was kept elsewhere; repeat for more", action="append", default=[]),
            _ROOT,
            *ADMIN,
        ),
    ),
)
