"""Verbs of the daemons on this machine."""

from __future__ import annotations

import argparse

from kairos_cli.registry.verb import JSON, Verb, arg

_STATE = arg("--state", help="state directory of this node", default=None)


def _node_verbs(group: str, service: str) -> tuple[Verb, ...]:
    return (
        Verb(
            f"{group} enroll",
            f"node:{group}_enroll",
            f"join a fabric as {service} with a join token",
            (
                arg("token", help="join token, or - to read it from standard input"),
                _STATE,
                arg("--hostname", help="name to show for this machine (default: its host name)", default=None),
                arg("--provider", help="crypto library: cryptography (default) or oqs", default="cryptography"),
                JSON,
            ),
        ),
        Verb(
            f"{group} run",
            f"node:{group}_run",
            "run the daemon in the foreground",
            (_STATE, arg("--config", help="TOML configuration file", default=None)),
        ),
        Verb(f"{group} status", f"node:{group}_status", "peers, paths, suite, epochs and counters", (_STATE, JSON)),
        Verb(f"{group} flows", f"node:{group}_flows", "connections, their verdicts and rules", (_STATE, JSON)),
        Verb(f"{group} rotate", f"node:{group}_rotate", "replace the device key with a new one, now", (_STATE,)),
        Verb(f"{group} down", f"node:{group}_down", "stop the daemon and remove what it made", (_STATE,)),
    )


AGENT = (
    *_node_verbs("agent", "an endpoint"),
    Verb(
        "agent posture",
        "node:agent_posture",
        "look at this device's own state now, report it and print it",
        (_STATE, JSON),
    ),
    Verb("agent reconnect", "node:agent_reconnect", "drop session and tunnel and set them up anew", (_STATE,)),
    Verb(
        "agent path",
        "node:agent_path",
        "choose the way of the datagrams until the daemon restarts",
        (arg("mode", help="auto, relay or direct", choices=("auto", "relay", "direct")), _STATE),
    ),
)
EXEC = Verb(
    "exec",
    "execution:run",
    'run a program inside a VNI that the agent keeps in a namespace of its own (isolate = "netns"): it sees only that VNI',
    (
        arg("vni", help="name or number of the VNI"),
        _STATE,
        arg("command", help="the program and its arguments, after --", nargs=argparse.REMAINDER, metavar="-- PROGRAM"),
    ),
)
PROXY = Verb(
    "proxy",
    "proxy:run",
    "VNIs without root: SOCKS5 and HTTP CONNECT on loopback for this user's programs, as in curl -x socks5h://127.0.0.1:1080 URL; "
    "enroll with kairos agent enroll first",
    (
        arg("--vni", help="lead into this VNI (may be repeated; default: all of this device)", action="append"),
        arg(
            "--listen", help="where programs connect to (default 127.0.0.1:1080; port 0: any)", default="127.0.0.1:1080"
        ),
        arg(
            "--let-other-hosts-in",
            help="listen beyond loopback: whoever reaches the port acts in this device's name",
            action="store_true",
        ),
        arg(
            "--idle",
            help="close a stream that is silent for so many seconds (default 3600)",
            type=float,
            default=3600.0,
        ),
        _STATE,
        arg("--config", help="TOML configuration file, as of kairos agent run", default=None),
        arg("--json", help="say where it listens as JSON", action="store_true"),
    ),
)
GATEWAY = _node_verbs("gateway", "a gateway")
