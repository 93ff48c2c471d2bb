"""Audit events survive crashes and outages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kairos.audit.event import Event
from kairos_node import spool as module
from kairos_node.spool import Spool


def event(number: int) -> Event:
    return Event(id=f"{number:032x}", at=float(number), tenant="acme", source="ep-a", kind="test.event")


class Fabric:
    """Takes events, or is out of reach."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.reachable = True

    async def send_events(self, events: list[Event]) -> int:
        if not self.reachable:
            raise ConnectionError("out of reach")
        self.taken += [each.id for each in events]
        return len(events)


def ids(*numbers: int) -> list[str]:
    return [event(number).id for number in numbers]


def test_events_arrive_in_order_and_once(tmp_path: Path) -> None:
    spool, fabric = Spool(tmp_path), Fabric()
    for number in range(5):
        spool.record(event(number))
    assert asyncio.run(spool.drain(fabric)) == 5
    assert asyncio.run(spool.drain(fabric)) == 0
    assert fabric.taken == ids(*range(5))


def test_an_outage_loses_nothing(tmp_path: Path) -> None:
    spool, fabric = Spool(tmp_path), Fabric()
    fabric.reachable = False
    spool.record(event(1))
    with pytest.raises(ConnectionError):
        asyncio.run(spool.drain(fabric))
    spool.record(event(2))
    fabric.reachable = True
    asyncio.run(spool.drain(fabric))
    assert fabric.taken == ids(1, 2)


def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    """The first spool is never closed: that is what kill -9 leaves."""
    first = Spool(tmp_path)
    first.record(event(1))
    second, fabric = Spool(tmp_path), Fabric()
    second.record(event(2))
    asyncio.run(second.drain(fabric))
    assert fabric.taken == ids(1, 2)
    asyncio.run(first.drain(fabric))


def test_half_an_event_is_dropped_alone(tmp_path: Path) -> None:
    spool, fabric = Spool(tmp_path), Fabric()
    spool.record(event(1))
    (path,) = tmp_path.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"id": "cut')
    asyncio.run(spool.drain(fabric))
    assert fabric.taken == ids(1)


def test_a_full_spool_drops_its_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_EVENTS", 1)
    monkeypatch.setattr(module, "SPOOL_FILES", 3)
    spool, fabric = Spool(tmp_path), Fabric()
    for number in range(5):
        spool.record(event(number))
    asyncio.run(spool.drain(fabric))
    assert fabric.taken == ids(2, 3, 4)
