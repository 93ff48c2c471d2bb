"""The audit events that nodes send. Their number and size are bounded, and their source is the authenticated sender."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from kairos.audit.event import Event
from kairos.identity.spiffe import is_gateway

from ..problems import problem
from .audit_log import AuditLog
from .rate_limits import Budget, Limits

BATCH_MAX = 500
EVENT_MAX = 16 * 1024
EVENT_COST = 512  # bytes that an event takes of a budget at least: its row in the index and its leaf cost so much, however small it is
ENDPOINT = Budget("this device's audit events", 16 << 20, 4096)  # bytes: 16 MiB at once, 350 MB a day
GATEWAY = Budget("this gateway's audit events", 64 << 20, 65_536)  # it records the flows of all its devices
_ID = re.compile("[0-9a-f]{32}")


class AuditIntake:
    """Takes the events of one tenant's nodes."""

    def __init__(self, tenant: str, log: AuditLog, limits: Limits) -> None:
        self._tenant, self._log, self._limits = tenant, log, limits

    async def take(self, node: str, events: Sequence[Event], size: int) -> None:
        """Events of `node`, which came in `size` bytes. They are in the log when this returns.

        Raises invalid (nothing was taken), too-many-requests.
        """
        if len(events) > BATCH_MAX:
            raise problem("invalid", f"at most {BATCH_MAX} events at once")
        own = [msgspec.structs.replace(event, tenant=self._tenant, source=node) for event in events]
        for event in own:
            if not _ID.fullmatch(event.id) or len(msgspec.json.encode(event)) > EVENT_MAX:
                raise problem("invalid", f"an event has an id of 32 hex digits and at most {EVENT_MAX} bytes")
        self._limits.take(GATEWAY if is_gateway(node) else ENDPOINT, node, max(size, EVENT_COST * len(own)))
        await self._log.append(own)
