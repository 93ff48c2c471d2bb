"""Posture reports: the newest of each device is kept and pushed to the gateways, whose policy reads it
(docs/protocol.md §8)."""

from __future__ import annotations

from typing import Any

import msgspec

from kairos.api.admin import PostureRecord
from kairos.api.push import PostureNotice
from kairos.constants import POSTURE_LATE_S, POSTURE_MAX

from ..ports import TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store.postures import StoredPosture
from .pushes import Pushes
from .rate_limits import POSTURE, Limits


def check_posture(facts: dict[str, Any]) -> None:
    """Raises invalid for a report that is too large."""
    if len(msgspec.json.encode(facts)) > POSTURE_MAX:
        raise problem("invalid", f"posture: at most {POSTURE_MAX} bytes of JSON")


class Postures:
    """The posture reports of one tenant's devices."""

    def __init__(self, platform: TenantPlatform, store: Stores, pushes: Pushes, limits: Limits) -> None:
        self._limits = limits
        self._platform = platform
        self._store = store
        self._pushes = pushes

    def report(self, node: str, facts: dict[str, Any]) -> None:
        """Keeps a report and passes it on to the gateways. Raises invalid, too-many-requests."""
        self._limits.take(POSTURE, node)
        at = self.learn(node, facts)
        self._pushes.to_gateways(PostureNotice(node, at, facts))

    def show(self, node: str) -> PostureRecord:
        """The newest report as policy sees it. Raises not-found."""
        posture = self._store.postures.one(node)
        if posture is None:
            raise problem("not-found", f"{node} has not reported its posture")
        late = self._platform.clock() - posture.at > POSTURE_LATE_S
        return PostureRecord(node, posture.at, late, posture.facts)

    def learn(self, node: str, facts: dict[str, Any]) -> int:
        """Keeps a report without passing it on; returns when it came, Unix seconds. Raises invalid."""
        check_posture(facts)
        at = int(self._platform.clock())
        self._store.postures.put(StoredPosture(node, at, facts))
        return at
