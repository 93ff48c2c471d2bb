"""Audit events that an earlier release put into a queue. Those that are left in it are written to the fabric's
events in D1, from where each tenant's object copies its own."""

from __future__ import annotations

from collections.abc import Sequence

from kairos.audit.event import Event

from ..store import FabricStores


async def keep(store: FabricStores, events: Sequence[Event]) -> None:
    await store.write_directory([store.fabric_events.adding(event.tenant, event) for event in events])
