"""Every verb of the command, declared in one table: what it is called, takes, does, and where its code is.

Nothing here imports a verb's module; `kairos_cli.main` does when the verb is called. `docs/cli.md` has a heading for each
row, which a test holds true.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument as argparse takes it."""

    flags: tuple[str, ...]
    help: str
    options: dict[str, Any] = field(default_factory=dict)


def _arg(*flags: str, help: str, **options: Any) -> Argument:
    return Argument(flags, help, options)


@dataclass(frozen=True, slots=True)
class Verb:
    """`name` is what is typed after `kairos`; `handler` is `module:function` below kairos_cli."""

    name: str
    handler: str
    help: str
    arguments: tuple[Argument, ...] = ()

    @property
    def group(self) -> str:
        return self.name.split(" ")[0]


GROUPS = {
    "fabric": "make, run and deploy a fabric",
    "tenant": "tenants of the fabric",
    "vni": "isolated network segments of a tenant",
    "member": "who is in a network segment",
    "token": "join tokens for devices and gateways",
    "device": "devices and gateways that have enrolled",
    "policy": "check, test and push the tenant's policy",
    "audit": "the record of what happened",
    "agent": "this machine as an endpoint",
    "gateway": "this machine as a gateway",
}

JSON = _arg("--json", help="print JSON instead of a table", action="store_true")
OPERATOR = _arg("--dir", help="operator directory (default: $KAIROS_FABRIC or ~/.config/kairos/fabric)", default=None)
TENANT = _arg("--tenant", help="tenant (default: $KAIROS_TENANT)", default=None)
_VNI = _arg("vni", help="name or number of the network segment")
DEVICE = _arg("device", help="node id, or its name if that is unique")
ADMIN = (OPERATOR, JSON)
IN_TENANT = (TENANT, OPERATOR, JSON)

_FABRIC = (
    Verb(
        "fabric init",
        "fabric.init:run",
        "make a new fabric's keys: root CA, policy key, issuing CA, admin credential",
        (
            OPERATOR,
            _arg("--suite", help="KR1 (default) or KR5 (CNSA 2.0 level); fixed for the fabric's life", default="KR1"),
            _arg(
                "--trust-domain", help="name in every certificate (default: kairos.internal)", default="kairos.internal"
            ),
            _arg("--url", help="where nodes reach the fabric (default: http://127.0.0.1:8787)", default=None),
            _arg("--relay-url", help="where nodes reach the relay (default: the fabric's port + 1)", default=None),
        ),
    ),
    Verb(
        "fabric dev",
        "fabric.dev:run",
        "run the fabric on this machine, in the foreground, state on disk",
        (
            OPERATOR,
            _arg("--state", help="where its state lives (default: state/ in the operator directory)", default=None),
            _arg("--host", help="address to listen on (default: from the fabric's URL)", default=None),
            _arg("--port", help="port of the fabric; the relay takes the next", type=int, default=None),
        ),
    ),
    Verb(
        "fabric deploy",
        "fabric.deploy:run",
        "put the fabric into your Cloudflare account: database, secrets, both Workers",
        (OPERATOR, _arg("--dry-run", help="say and check all, change nothing", action="store_true")),
    ),
    Verb("fabric info", "fabric.info:run", "what the fabric says of itself, against what you pinned", ADMIN),
    Verb(
        "fabric renew",
        "fabric.init:renew",
        "certify a new issuing CA key with the root (it lives 90 days)",
        (OPERATOR,),
    ),
)

_RECORDS = (
    Verb(
        "tenant create",
        "tenant:create",
        "create a tenant and push the shipped policy to it",
        (_arg("tenant", help="its name, a DNS label"), *ADMIN),
    ),
    Verb("tenant list", "tenant:listing", "list tenants", ADMIN),
    Verb("tenant show", "tenant:show", "one tenant", (_arg("tenant", help="its name"), *ADMIN)),
    Verb(
        "tenant delete",
        "tenant:delete",
        "delete a tenant and all its records",
        (_arg("tenant", help="its name"), *ADMIN),
    ),
    Verb(
        "vni create",
        "vni:create",
        "create a network segment",
        (
            _arg("name", help="its name, a DNS label"),
            _arg(
                "--prefix",
                help="IPv4 or IPv6 network of its addresses; repeat for more",
                action="append",
                required=True,
            ),
            _arg("--id", help="VNI number, 1 to 16777215 (default: the next free)", type=int, default=0),
            _arg("--mtu", help="inner MTU in bytes (default 1380)", type=int, default=1380),
            _arg("--dns-suffix", help="DNS suffix of its hosts", default=""),
            _arg(
                "--route",
                help="PREFIX=GATEWAY: a network behind a gateway; repeat for more",
                action="append",
                default=[],
            ),
            _arg("--selector", help="tag:X or group:X: who is a member by itself; repeat", action="append", default=[]),
            *IN_TENANT,
        ),
    ),
    Verb(
        "vni set",
        "vni:change",
        "change a network segment; what is not named stays",
        (
            _arg("name", help="its name or number"),
            _arg("--prefix", help="all its prefixes anew; repeat for more", action="append"),
            _arg("--mtu", help="inner MTU in bytes", type=int),
            _arg("--dns-suffix", help="DNS suffix of its hosts"),
            _arg("--route", help="PREFIX=GATEWAY, all routes anew; '' for none", action="append"),
            _arg("--selector", help="tag:X or group:X, all selectors anew; '' for none", action="append"),
            *IN_TENANT,
        ),
    ),
    Verb("vni list", "vni:listing", "list network segments", IN_TENANT),
    Verb("vni show", "vni:show", "one network segment", (_arg("name", help="its name or number"), *IN_TENANT)),
    Verb(
        "vni delete",
        "vni:delete",
        "delete a network segment; its members lose it",
        (_arg("name", help="its name or number"), *IN_TENANT),
    ),
    Verb("member list", "member:listing", "who is in a network segment", (_VNI, *IN_TENANT)),
    Verb(
        "member add",
        "member:add",
        "put a device into a network segment, or give it other addresses there",
        (
            _VNI,
            DEVICE,
            _arg("--address", help="one it must have; repeat for more prefixes", action="append", default=[]),
            *IN_TENANT,
        ),
    ),
    Verb("member remove", "member:remove", "take a device out of a network segment", (_VNI, DEVICE, *IN_TENANT)),
    Verb(
        "apply",
        "apply:apply",
        "make tenants, network segments and members as a TOML file says",
        (
            _arg("file", help="the file", type=Path),
            _arg("--dry-run", help="only print what would change", action="store_true"),
            OPERATOR,
        ),
    ),
    Verb(
        "token create",
        "token:create",
        "make a join token and print it, once; the fabric keeps only a hash of its secret",
        (
            _arg("--role", help="what joins with it", choices=("endpoint", "gateway"), default="endpoint"),
            _arg("--vni", help="network segment it joins; repeat for more", action="append", default=[]),
            _arg("--tag", help="tag the node gets; repeat for more", action="append", default=[]),
            _arg("--group", help="group the node gets; repeat for more", action="append", default=[]),
            _arg("--owner", help="person the node belongs to", default=""),
            _arg("--label", help="a note for the listing", default=""),
            _arg("--uses", help="how many nodes may join with it (default 1)", type=int, default=1),
            _arg("--life", help="how long it is good: 90s, 30m, 1h, 7d (default 1h)", default="1h"),
            *IN_TENANT,
        ),
    ),
    Verb("token list", "token:listing", "list join tokens", IN_TENANT),
    Verb(
        "token show", "token:show", "one join token, without its secret", (_arg("token", help="token id"), *IN_TENANT)
    ),
    Verb(
        "token delete",
        "token:delete",
        "delete a join token: nobody joins with it any more",
        (_arg("token", help="token id"), *IN_TENANT),
    ),
    Verb("device list", "device:listing", "list devices and gateways", IN_TENANT),
    Verb("device show", "device:show", "one device or gateway", (DEVICE, *IN_TENANT)),
    Verb("device approve", "device:approve", "let a held device in", (DEVICE, *IN_TENANT)),
    Verb(
        "device deny",
        "device:deny",
        "turn a held device away",
        (DEVICE, _arg("--reason", help="what it is told", default="denied by the operator"), *IN_TENANT),
    ),
    Verb(
        "device delete", "device:delete", "revoke a device: its certificates and sessions die now", (DEVICE, *IN_TENANT)
    ),
)

_CUT = (
    DEVICE,
    _arg("--reason", help="said to everyone and kept in the audit", required=True),
    _arg("--wait", help="seconds to wait for the receipts (default 5)", type=float, default=5.0),
    *IN_TENANT,
)
_ISOLATION = (
    Verb("posture", "device:posture", "what policy sees of a device's own state", (DEVICE, *IN_TENANT)),
    Verb("isolate", "isolate:isolate", "cut a device off everywhere at once; shows who has enforced it", _CUT),
    Verb("release", "isolate:release", "end a device's isolation", _CUT),
)

_POLICY_SOURCE = _arg("--source", help="folder with Rego and data (default: the shipped policy)", default=None)
_GRANTS = _arg("--data", help="grants file that replaces the one in the source", default=None)
_POLICY = (
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
            _arg("old", help="version (default: the one in force)", type=int, nargs="?", default=0),
            _arg("new", help="version (default: the candidate of --source and --data)", type=int, nargs="?", default=0),
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
            _arg("--since", help="how far back: 30m, 24h, 7d (default 24h)", default="24h"),
            _POLICY_SOURCE,
            _GRANTS,
            *IN_TENANT,
        ),
    ),
    Verb(
        "policy rollback",
        "history:rollback",
        "put an earlier policy in force again, signed as a new version",
        (_arg("version", help="version to go back to", type=int), *IN_TENANT),
    ),
    Verb("policy show", "policy:show", "the policy in force at a tenant", IN_TENANT),
)

_ROOT = _arg("--root", help="root certificate, DER (default: root.der of the operator directory)", default=None)
_AUDIT_LOG = (
    Verb(
        "audit tail",
        "audit:tail",
        "show audit events as they come, until interrupted",
        (
            _arg("--kind", help="only events of this kind, or kinds that begin with it", default=""),
            _arg("--limit", help="begin with at most this many old ones (default 10)", type=int, default=10),
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
        (_arg("event", help="id of the event"), _ROOT, *IN_TENANT),
    ),
    Verb(
        "audit export",
        "audit:export",
        "fetch the whole log into a folder, or what the folder has not yet",
        (_arg("folder", help="where to, or what to add to"), _ROOT, TENANT, OPERATOR),
    ),
    Verb(
        "audit verify",
        "audit:verify",
        "prove an export, offline: nothing edited, removed, inserted, reordered or cut off",
        (
            _arg("folder", help="an export"),
            _arg("--head", help="a head that was kept elsewhere; repeat for more", action="append", default=[]),
            _ROOT,
            *ADMIN,
        ),
    ),
)

_STATE = _arg("--state", help="state directory of this node", default=None)


def _node_verbs(group: str, service: str) -> tuple[Verb, ...]:
    return (
        Verb(
            f"{group} enroll",
            f"node:{group}_enroll",
            f"join a fabric as {service} with a join token",
            (
                _arg("token", help="join token, or - to read it from standard input"),
                _STATE,
                _arg("--hostname", help="name to show for this machine (default: its host name)", default=None),
                _arg("--provider", help="crypto library: cryptography (default) or oqs", default="cryptography"),
                JSON,
            ),
        ),
        Verb(
            f"{group} run",
            f"node:{group}_run",
            "run the daemon in the foreground",
            (_STATE, _arg("--config", help="TOML configuration file", default=None)),
        ),
        Verb(f"{group} status", f"node:{group}_status", "peers, paths, suite, epochs and counters", (_STATE, JSON)),
        Verb(f"{group} flows", f"node:{group}_flows", "connections, their verdicts and rules", (_STATE, JSON)),
        Verb(f"{group} rotate", f"node:{group}_rotate", "replace the device key with a new one, now", (_STATE,)),
        Verb(f"{group} down", f"node:{group}_down", "stop the daemon and remove what it made", (_STATE,)),
    )


VERBS: tuple[Verb, ...] = (
    *_FABRIC,
    *_RECORDS,
    *_ISOLATION,
    *_POLICY,
    Verb(
        "audit list",
        "audit:listing",
        "list audit events, newest first",
        (
            _arg("--kind", help="only events of this kind, or kinds that begin with it", default=""),
            _arg("--limit", help="at most this many (default 100)", type=int, default=100),
            *IN_TENANT,
        ),
    ),
    Verb(
        "why",
        "why:run",
        "what policy says of a connection, and which grants all but fit",
        (
            _arg("source", help="who begins: node id, name or address"),
            _arg("destination", help="who is asked: node id, name or address"),
            _arg("port", help="destination port; for icmp the message type", type=int),
            _arg(
                "--proto",
                help="tcp (default), udp, icmp or sctp",
                choices=("tcp", "udp", "icmp", "sctp"),
                default="tcp",
            ),
            _arg("--app", help="program that begins: its path, or unit:NAME.service", default=""),
            _arg("--vni", help="network segment (default: the first where both are)", default=""),
            *IN_TENANT,
        ),
    ),
    *_AUDIT_LOG,
    *_node_verbs("agent", "an endpoint"),
    Verb("agent reconnect", "node:agent_reconnect", "drop session and tunnel and set them up anew", (_STATE,)),
    Verb(
        "agent path",
        "node:agent_path",
        "choose the way of the datagrams until the daemon restarts",
        (_arg("mode", help="auto, relay or direct", choices=("auto", "relay", "direct")), _STATE),
    ),
    *_node_verbs("gateway", "a gateway"),
    Verb(
        "demo",
        "demo.story:run",
        "the whole fabric on this machine, out of network namespaces",
        (
            _arg("--json", help="write the figures to this file", dest="figures", metavar="FILE", default=None),
            _arg("--keep", help="leave it running at the end and say how to play with it", action="store_true"),
            _arg("--remove", help="remove what a kept demo left, and do nothing else", action="store_true"),
            _arg("--quick", help="fewer repetitions: a check that all holds, not a measurement", action="store_true"),
            _arg("--suite", help="KR1 (default) or KR5", choices=("KR1", "KR5"), default="KR1"),
        ),
    ),
    Verb("version", "version:run", "versions of this program and of what it stands on", (JSON,)),
)


def in_group(group: str) -> Iterator[Verb]:
    """The verbs of a group, in table order."""
    return (verb for verb in VERBS if verb.group == group and verb.name != group)
