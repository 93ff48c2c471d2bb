"""Audit events that an earlier release put into a queue. Those that were in it when this release was deployed go where the fabric's own
events go, and each tenant's object takes them from there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kairos.audit.event import Event

from ..store import FabricStores


def parse(message: object) -> Event:
    """Raises ValueError."""
    try:
        if not isinstance(message, str):
            raise TypeError("the message is not text")
        return msgspec.json.decode(message, type=Event)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError) as error:
        raise ValueError(f"not an audit event: {error}") from None


async def keep(store: FabricStores, events: Sequence[Event]) -> None:
    await store.write_directory([store.fabric_events.adding(event.tenant, event) for event in events])
