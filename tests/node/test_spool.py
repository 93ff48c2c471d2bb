"""Audit events survive crashes and outages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kairos.api.problem import ProblemError
from kairos.audit.event import Event
from kairos.constants import BODY_MAX
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


@pytest.mark.parametrize("half", [b'{"id": "cut', b'{"id": "\xc3"}', b'{"detail": ' + b"[" * 5_000])
def test_half_an_event_is_dropped_alone(tmp_path: Path, half: bytes) -> None:
    spool, fabric = Spool(tmp_path), Fabric()
    spool.record(event(1))
    (path,) = tmp_path.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(half)
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


def test_what_the_fabric_will_never_take_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    class Picky(Fabric):
        async def send_events(self, events: list[Event]) -> int:
            if len(events) > 1:
                raise ProblemError("invalid", 422, "no", "nonsense")
            return await super().send_events(events)

    spool, fabric = Spool(tmp_path), Picky()
    spool.record(event(1))
    spool.record(event(2))
    asyncio.run(spool.drain(fabric))
    spool.record(event(3))
    assert asyncio.run(spool.drain(fabric)) == 1
    assert fabric.taken == ids(3)


def test_a_problem_that_passes_loses_nothing(tmp_path: Path) -> None:
    class Failing(Fabric):
        async def send_events(self, events: list[Event]) -> int:
            raise ProblemError("internal", 500, "no", "a defect")

    spool = Spool(tmp_path)
    spool.record(event(1))
    with pytest.raises(ProblemError):
        asyncio.run(spool.drain(Failing()))
    fabric = Fabric()
    asyncio.run(spool.drain(fabric))
    assert fabric.taken == ids(1)


def test_no_file_is_larger_than_a_request_may_be(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in range(40):
        spool.record(msgspec.structs.replace(event(number), reason="x" * 20_000))
    assert all(path.stat().st_size < BODY_MAX for path in tmp_path.glob("*.jsonl"))
    fabric = Fabric()
    assert asyncio.run(spool.drain(fabric)) == 40
    assert fabric.taken == ids(*range(40))


def test_a_disk_that_is_full_stops_nobody(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    spool, fabric = Spool(tmp_path), Fabric()
    full = tmp_path / f"{1:012}.jsonl"
    full.symlink_to("/dev/full")
    spool.record(event(1))
    assert event(1).id in caplog.text
    full.unlink()
    spool.record(event(2))
    asyncio.run(spool.drain(fabric))
    assert fabric.taken == ids(2)


WRITER = """
import sys
from itertools import count
from pathlib import Path
from kairos.audit.event import Event
from kairos_node.spool import Spool

spool = Spool(Path(sys.argv[1]))
for number in count():
    spool.record(Event(id=f"{number:032x}", at=0.0, tenant="acme", source="ep-a", kind="test.event"))
    print(number, flush=True)
"""


def test_what_was_recorded_survives_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen((sys.executable, "-c", WRITER, str(tmp_path)), stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == 700:
                writer.kill()
                break
    fabric = Fabric()
    asyncio.run(Spool(tmp_path).drain(fabric))
    assert fabric.taken[:701] == ids(*range(701))
    assert len(set(fabric.taken)) == len(fabric.taken)
