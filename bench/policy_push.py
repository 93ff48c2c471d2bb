"""From a push to enforcement: real daemons, each in a network namespace, on a real fabric."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from kairos_cli.admin import AdminClient
from kairos_cli.fabric.operator import Operator
from kairos_cli.policy import compile_bundle, push_bundle
from overlay import GRANTS, TENANT, Host, Overlay, running_overlay, wait_for

_ENDPOINTS, _QUICK_ENDPOINTS = 50, 4
_PUSHES, _QUICK_PUSHES = 6, 2
_AT_ONCE = 5  # so many daemons start together: more wait for each other longer than their tunnels may take
_WAIT_S = 120.0
_STAMP = re.compile(r"^(\S+ \S+),(\d{3}) .*policy version (\d+) is in force")


def pushes(quick: bool) -> Iterator[tuple[str, float]]:
    """For each push: the time by which nineteen in twenty nodes, and all of them, decide by the new policy. It changes the
    grants, as most do."""
    endpoints = _QUICK_ENDPOINTS if quick else _ENDPOINTS
    others = tuple(f"e{number}" for number in range(endpoints - 2))
    with tempfile.TemporaryDirectory() as folder, running_overlay(Path(folder), others=others) as overlay:
        hosts = [overlay.gateway, overlay.alice, overlay.bob, *overlay.others]
        for start in range(0, len(hosts), _AT_ONCE):
            overlay.up(*hosts[start : start + _AT_ONCE])
        admin = AdminClient(Operator.load(overlay.folder / "fabric"))
        for number in range(_QUICK_PUSHES if quick else _PUSHES):
            taken = sorted(_push(overlay, admin, hosts, number))
            yield "push_to_enforced_p95_ms", taken[-(-95 * len(taken) // 100) - 1]
            yield "push_to_enforced_all_ms", taken[-1]


def _push(overlay: Overlay, admin: AdminClient, hosts: list[Host], number: int) -> list[float]:
    """Milliseconds from the request that brings the fabric the bundle to each node's word that it is in force."""
    grants = overlay.folder / "pushed.json"
    extra = {"id": f"push{number}", "from": ["*"], "to": ["*"], "ports": [f"tcp/{9000 + number}"]}
    grants.write_text(json.dumps({**GRANTS, "allow": [*GRANTS["allow"], extra]}))
    bundle = compile_bundle(Path(__file__).parents[1] / "policies", grants)
    began = datetime.now()
    version = push_bundle(admin, TENANT, bundle).version
    return [(_enforcing(host, version) - began).total_seconds() * 1e3 for host in hosts]


def _enforcing(host: Host, version: int) -> datetime:
    moment: datetime = wait_for(f"policy at {host.name}", lambda: _in_force(host, version), _WAIT_S)
    return moment


def _in_force(host: Host, version: int) -> datetime | None:
    """When its log says so."""
    for line in reversed(host.lines):
        match = _STAMP.match(line)
        if match is not None and int(match[3]) == version:
            return datetime.fromisoformat(f"{match[1]}.{match[2]}")
    return None
