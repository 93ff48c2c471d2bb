"""Every verb of the command, declared in one table: what it is called, takes, does, and where its code is.

Nothing here imports a verb's module; `kairos_cli.main` does when the verb is called. `docs/cli.md` has a heading for each
row, which a test holds true.
"""

from __future__ import annotations

from collections.abc import Iterator

from kairos_cli.registry.admins import ADMINS
from kairos_cli.registry.audit import AUDIT
from kairos_cli.registry.devices import CERTIFICATES, DEVICES, ISOLATION
from kairos_cli.registry.fabric import FABRIC
from kairos_cli.registry.gateways import GATEWAYS
from kairos_cli.registry.interconnects import INTERCONNECTS
from kairos_cli.registry.node import AGENT, EXEC, GATEWAY, PROXY
from kairos_cli.registry.policy import POLICY
from kairos_cli.registry.routes import ROUTES
from kairos_cli.registry.segments import SEGMENTS
from kairos_cli.registry.uplinks import UPLINKS
from kairos_cli.registry.verb import IN_TENANT, JSON, Verb, arg

__all__ = ["GROUPS", "VERBS", "Verb", "in_group"]

GROUPS = {
    "fabric": "make, run and deploy a fabric",
    "admin": "scoped credentials for administrators",
    "tenant": "tenants of the fabric",
    "vni": "isolated network segments of a tenant",
    "member": "who is in a network segment",
    "route": "networks behind endpoints",
    "uplink": "ways out of network segments at gateways",
    "interconnect": "what leads from one network segment into another",
    "token": "join tokens for devices and gateways",
    "device": "devices and gateways that have enrolled",
    "certificate": "certificates of devices and gateways",
    "policy": "check, test and push the tenant's policy",
    "audit": "the record of what happened",
    "agent": "this machine as an endpoint",
    "gateway": "this machine as a gateway, and how gateways share the load",
}

_DEMO = Verb(
    "demo",
    "demo.command:run",
    "the whole fabric on this machine, out of network namespaces",
    (
        arg(
            "story",
            help="whole (default), policy: programs, ends and pushes, felt by traffic; or vni: who can reach whom",
            choices=("whole", "policy", "vni"),
            nargs="?",
            default="whole",
        ),
        arg("--json", help="write the figures to this file", dest="figures", metavar="FILE", default=None),
        arg("--keep", help="leave it running at the end and say how to play with it", action="store_true"),
        arg("--remove", help="remove what a kept demo left, and do nothing else", action="store_true"),
        arg("--quick", help="fewer repetitions: a check that all holds, not a measurement", action="store_true"),
        arg("--suite", help="KR1 (default) or KR5", choices=("KR1", "KR5"), default="KR1"),
    ),
)

VERBS: tuple[Verb, ...] = (
    *FABRIC,
    *ADMINS,
    *SEGMENTS,
    *ROUTES,
    *UPLINKS,
    *INTERCONNECTS,
    *DEVICES,
    *CERTIFICATES,
    *ISOLATION,
    *POLICY,
    *AUDIT,
    *AGENT,
    EXEC,
    PROXY,
    *GATEWAY,
    *GATEWAYS,
    Verb(
        "top",
        "top:top",
        "how the nodes are doing: tunnels, throughput, drops, latencies; refreshes until Ctrl-C",
        (
            arg("--once", help="print it once", action="store_true"),
            arg("--every", help="seconds between two looks (default 5)", type=float, default=5.0),
            arg("--past", help="instead: what was, so far back: 30m, 24h, 7d", metavar="TIME", default=""),
            arg(
                "--by",
                help="with --past: minute (kept a day) or hour (default; kept a month)",
                choices=("minute", "hour"),
                default="hour",
            ),
            arg("--device", help="only of this node: its id, or its name if that is unique", default=""),
            *IN_TENANT,
        ),
    ),
    _DEMO,
    Verb("version", "version:run", "versions of this program and of what it stands on", (JSON,)),
)


def in_group(group: str) -> Iterator[Verb]:
    """The verbs of a group, in table order."""
    return (verb for verb in VERBS if verb.group == group and verb.name != group)
