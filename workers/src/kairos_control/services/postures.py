"""What devices say of themselves: the newest report of each, passed on to the gateways that judge by it (docs/protocol.md §8)."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from kairos.api.admin import PostureRecord
from kairos.api.push import PostureNotice
from kairos.api.session import PostureReport
from kairos.constants import POSTURE_LATE_S, POSTURE_MAX

from ..http.call import Call, Reply, reply
from ..ports import TenantPlatform
from ..problems import problem
from .pushes import Pushes


def check_posture(posture: dict[str, Any]) -> None:
    """Raises invalid for one that is no report but a burden."""
    if len(msgspec.json.encode(posture)) > POSTURE_MAX:
        raise problem("invalid", f"posture: at most {POSTURE_MAX} bytes of JSON")


class Postures:
    def __init__(self, platform: TenantPlatform, pushes: Pushes) -> None:
        self._platform = platform
        self._pushes = pushes

    async def report(self, call: Call) -> Reply:
        facts, node = call.decode(PostureReport).facts, call.node.node
        at = self.learn(node, facts)
        self._pushes.to_gateways(PostureNotice(node, at, facts))
        return reply(None)

    async def show(self, call: Call) -> Reply:
        """What policy sees of a device."""
        node = call.parameters["node"]
        rows = self._platform.local.rows("SELECT * FROM postures WHERE node = ?", node)
        if not rows:
            raise problem("not-found", f"{node} has not reported its posture")
        at = rows[0]["at"]
        late = self._platform.clock() - at > POSTURE_LATE_S
        return reply(PostureRecord(node, at, late, json.loads(rows[0]["facts"])))

    def learn(self, node: str, facts: dict[str, Any]) -> int:
        """Keeps it; when it came, Unix seconds. Raises invalid."""
        check_posture(facts)
        at = int(self._platform.clock())
        self._platform.local.write(
            "INSERT INTO postures (node, at, facts) VALUES (?, ?, ?)"
            " ON CONFLICT (node) DO UPDATE SET at = excluded.at, facts = excluded.facts",
            node, at, json.dumps(facts),
        )  # fmt: skip
        return at

    def newest(self, node: str) -> tuple[dict[str, Any], int]:
        """(facts, when they came); nothing at 0."""
        rows = self._platform.local.rows("SELECT * FROM postures WHERE node = ?", node)
        return (json.loads(rows[0]["facts"]), rows[0]["at"]) if rows else ({}, 0)
