"""Verbs for policy: what is in force, and why something was blocked."""

from __future__ import annotations

from kairos_cli.registry.verb import IN_TENANT, Verb, arg

_POLICY_SOURCE = arg("--source", help="folder with Rego and data (default: the shipped policy)", default=None)
_GRANTS = arg("--data", help="grants file that replaces the one in the source", default=None)
POLICY = (
    Verb(
        "policy check",
        "policy:check",
        "compile the policy strictly and load it as a node does",
        (_POLICY_SOURCE, _GRANTS),
    ),
    Verb("policy test", "policy:test", "run the policy's own tests", (_POLICY_SOURCE, _GRANTS)),
    Verb(
        "policy push",
        "policy:push",
        "compile, sign and push the policy to a tenant",
        (
            _POLICY_SOURCE,
            _GRANTS,
            *IN_TENANT,
        ),
    ),
    Verb("policy list", "history:listing", "all policies that were in force, newest first", IN_TENANT),
    Verb(
        "policy diff",
        "history:diff",
        "what differs between the policy in force and a candidate, or between two versions",
        (
            arg("old", help="version (default: the one in force)", type=int, nargs="?", default=0),
            arg("new", help="version (default: the candidate of --source and --data)", type=int, nargs="?", default=0),
            _POLICY_SOURCE,
            _GRANTS,
            *IN_TENANT,
        ),
    ),
    Verb(
        "policy replay",
        "replay:run",
        "make recorded decisions again under a candidate: what would change",
        (
            arg("--since", help="how far back: 30m, 24h, 7d (default 24h)", default="24h"),
            _POLICY_SOURCE,
            _GRANTS,
            *IN_TENANT,
        ),
    ),
    Verb(
        "policy rollback",
        "history:rollback",
        "put an earlier policy in force again, signed as a new version",
        (arg("version", help="version to go back to", type=int), *IN_TENANT),
    ),
    Verb("policy show", "policy:show", "the policy in force at a tenant", IN_TENANT),
    Verb(
        "why",
        "why:run",
        "what policy says of a connection, and which grants all but fit",
        (
            arg("source", help="who begins: node id, name or address", nargs="?"),
            arg("destination", help="who is asked: node id, name or address", nargs="?"),
            arg("port", help="destination port; for icmp the message type", type=int, nargs="?"),
            arg(
                "--proto",
                help="tcp (default), udp, icmp or sctp",
                choices=("tcp", "udp", "icmp", "sctp"),
                default="tcp",
            ),
            arg("--decision", help="instead: a decision that was made, by its id in the audit", metavar="ID"),
            arg("--app", help="program that begins: its path, unit:NAME.service, sha256:HEX, uid:N", default=""),
            arg("--vni", help="network segment (default: the first where both are)", default=""),
            *IN_TENANT,
        ),
    ),
)
