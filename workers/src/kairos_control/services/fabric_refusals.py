"""Refused calls that belong to no tenant. Any isolate of the Worker answers them, so they are counted in D1: one row
an hour for each route and reason, however many calls there are."""

from __future__ import annotations

import hashlib

from kairos.audit.event import Event

from ..ports import Platform
from ..store import FabricStores
from ..store.fabric_events import FABRIC_ONLY

HOUR_S = 3600
_PATH_PARTS = 3  # `/v1/admins` and what follows: no more of a path that an unauthenticated caller can choose
_TEXT_MAX = 40


class FabricRefusals:
    """Records refused calls of the fabric's own routes."""

    def __init__(self, platform: Platform, store: FabricStores) -> None:
        self._platform, self._store = platform, store

    async def record(self, method: str, path: str, reason: str, actor: str, tenant: str) -> None:
        """actor: empty for an unauthenticated caller; tenant: the only one that the caller's credential is for,
        whose log gets it."""
        hour = int(self._platform.clock()) // HOUR_S * HOUR_S
        subject = f"{method} {'/'.join(path.split('/')[:_PATH_PARTS])}"[:_TEXT_MAX]
        name = hashlib.sha256(f"{hour} {subject} {reason} {actor}".encode()).hexdigest()[:32]
        event = Event(
            name, hour, tenant, "fabric", "request.refused", actor or "unauthenticated", subject, "deny", reason=reason
        )
        await self._store.fabric_events.add(tenant or FABRIC_ONLY, [event])
