"""`kairos agent ...` and `kairos gateway ...`: join a fabric, run the daemon, talk to it over its local socket."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kairos.errors import Refused
from kairos.identity.join_token import parse_join_token_untrusted
from kairos_cli import output
from kairos_node.local_api import ask
from kairos_node.state import NodeState, default_directory

_ROLES = {"agent": "endpoint", "gateway": "gateway"}


@dataclass
class _Steps:
    """Shows the steps of an enrollment as they happen, or keeps them for --json. ms: since it began."""

    quiet: bool
    began: float = field(default_factory=time.monotonic)
    seen: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, step: str, what: str) -> None:
        elapsed_ms = round((time.monotonic() - self.began) * 1000, 1)
        self.seen.append({"step": step, "what": what, "ms": elapsed_ms})
        if not self.quiet:
            print(f"{step}  {elapsed_ms:8.1f} ms  {what}", flush=True)


def _enroll(service: str, options: Namespace) -> None:
    from kairos_node.crypto import provider_named
    from kairos_node.enrollment import enroll

    text = sys.stdin.readline() if options.token == "-" else options.token
    role = parse_join_token_untrusted(text).role
    if role != _ROLES[service]:
        other = next(name for name, each in _ROLES.items() if each == role)
        raise Refused("wrong-role", f"this join token is for a {other}; use `kairos {other} enroll`")
    state, steps = _state(service, options), _Steps(quiet=options.json)
    hostname = options.hostname or socket.gethostname()
    posture = _posture() if service == "agent" else {}
    provider = provider_named(options.provider)
    identity = asyncio.run(enroll(text, state, provider, hostname, steps, posture=posture))
    if options.json:
        output.as_json({"node": identity.node, "steps": steps.seen})
    else:
        print(f"enrolled as {identity.node} of tenant {identity.join.tenant}; next: kairos {service} run")


def _posture() -> dict[str, Any]:
    from kairos_agent.posture import collect

    return collect()


def _status(service: str, options: Namespace) -> None:
    status = _ask(service, options, "status")
    if options.json:
        output.as_json(status)
    else:
        _show(status)


def _flows(service: str, options: Namespace) -> None:
    flows = _ask(service, options, "flows")
    if options.json:
        output.as_json(flows)
    else:
        header = ("flow", "verdict", "rule", "program", "packets", "bytes", "age_s", "idle_s")
        output.as_table(header, ([_cell(flow.get(name, "")) for name in header] for flow in flows), "no flows")


def _tell(service: str, verb: str, said: str, options: Namespace) -> None:
    _ask(service, options, verb)
    print(said)


def _ask(service: str, options: Namespace, verb: str, **fields: Any) -> Any:
    try:
        return ask(_state(service, options).socket, verb, **fields)
    except Refused as refused:
        if refused.code == "not-running":
            raise Refused("not-running", f"{refused}: kairos {service} run") from None
        raise


def _state(service: str, options: Namespace) -> NodeState:
    return NodeState(Path(options.state) if options.state else default_directory(service))


def _show(status: dict[str, Any]) -> None:
    """Plain values as fields, lists of records as tables, records as fields under a heading."""
    output.as_fields((name, value) for name, value in status.items() if not isinstance(value, dict | list))
    for name, value in status.items():
        if isinstance(value, dict) and value:
            print(f"\n{name}")
            output.as_fields((key, cell) for key, cell in value.items() if cell)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"\n{name}")
            columns = [key for key, cell in value[0].items() if not _is_record(cell)]
            output.as_table(columns, ([_cell(row.get(column, "")) for column in columns] for row in value), "")
        elif isinstance(value, list) and value:
            print(f"\n{name}\n{output.listed(value)}")


def _is_record(cell: Any) -> bool:
    return isinstance(cell, dict) or (isinstance(cell, list) and any(isinstance(each, dict) for each in cell))


def _cell(value: Any) -> Any:
    return output.listed(value) if isinstance(value, list) else value


def agent_run(options: Namespace) -> int:
    from kairos_agent.service import main

    return main(_config(options), _state("agent", options).directory)


def gateway_run(options: Namespace) -> int:
    from kairos_gateway.service import main

    return main(_config(options), _state("gateway", options).directory)


def _config(options: Namespace) -> Path | None:
    return Path(options.config) if options.config else None


def agent_path(options: Namespace) -> None:
    _ask("agent", options, "path", mode=options.mode)
    print(f"path = {options.mode}")


def agent_posture(options: Namespace) -> None:
    facts = _ask("agent", options, "posture")
    if options.json:
        output.as_json(facts)
    else:
        output.as_fields((name, _cell(value)) for name, value in sorted(facts.items()))


def ask_agent(options: Namespace, verb: str) -> Any:
    """What the agent on this machine answers. Raises Refused."""
    return _ask("agent", options, verb)


_Verb = Callable[[Namespace], None]
agent_enroll: _Verb = partial(_enroll, "agent")
gateway_enroll: _Verb = partial(_enroll, "gateway")
agent_status: _Verb = partial(_status, "agent")
gateway_status: _Verb = partial(_status, "gateway")
agent_flows: _Verb = partial(_flows, "agent")
gateway_flows: _Verb = partial(_flows, "gateway")
agent_rotate: _Verb = partial(_tell, "agent", "rotate", "the device key is a new one")
gateway_rotate: _Verb = partial(_tell, "gateway", "rotate", "the device key is a new one")
agent_down: _Verb = partial(_tell, "agent", "down", "the agent stops")
gateway_down: _Verb = partial(_tell, "gateway", "down", "the gateway stops")
agent_reconnect: _Verb = partial(_tell, "agent", "reconnect", "session and tunnel start anew")
