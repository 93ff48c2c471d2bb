"""Audit events that an earlier release put into a queue. Those that are left in it are written to the fabric's
events in D1, from where each tenant's object copies its own."""

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
