"""Audit events survive crashes and outages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from small_disk import fill, small_disk

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


def named(number: int, kind: str) -> Event:
    return msgspec.structs.replace(event(number), kind=kind)


def test_a_full_spool_drops_the_newest_of_the_most_frequent_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_EVENTS", 2)
    monkeypatch.setattr(module, "SPOOL_EVENTS", 6)
    spool, fabric = Spool(tmp_path), Fabric()
    spool.record(named(0, "session.opened"))
    for number in range(1, 9):
        spool.record(named(number, "flow.denied"))  # a flood: 6, 7 and 8 find no room
    spool.record(named(9, "policy.refused"))  # 4 and 5, which are the newest in the spool, make room for it
    assert spool.lost == {"flow.denied": 5}
    assert spool.waiting == 5
    asyncio.run(spool.drain(fabric))
    assert fabric.taken == ids(0, 1, 2, 3, 9)
    assert spool.waiting == 0


def test_what_is_lost_is_counted_after_a_restart_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPOOL_EVENTS", 3)
    first = Spool(tmp_path)
    for number in range(3):
        first.record(named(number, "flow.denied"))
    first._close()
    again, fabric = Spool(tmp_path), Fabric()
    again.record(named(3, "flow.denied"))
    again.record(named(4, "node.isolated"))
    assert again.lost == {"flow.denied": 4}
    asyncio.run(again.drain(fabric))
    assert fabric.taken == ids(4)


def test_an_outage_with_an_event_now_and_then_fills_files_and_does_not_begin_one_each_time(tmp_path: Path) -> None:
    spool, fabric = Spool(tmp_path), Fabric()
    fabric.reachable = False
    for number in range(100):
        spool.record(event(number))
        with pytest.raises(ConnectionError):
            asyncio.run(spool.drain(fabric))
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    fabric.reachable = True
    asyncio.run(spool.drain(fabric))
    assert fabric.taken == ids(*range(100))


def test_what_the_fabric_will_never_take_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    class Picky(Fabric):
        async def send_events(self, events: list[Event]) -> int:
            if event(2) in events:
                raise ProblemError("invalid", 422, "no", "nonsense")
            return await super().send_events(events)

    spool, fabric = Spool(tmp_path), Picky()
    for number in range(5):
        spool.record(event(number))
    assert asyncio.run(spool.drain(fabric)) == 4
    spool.record(event(5))
    assert asyncio.run(spool.drain(fabric)) == 1
    assert fabric.taken == ids(0, 1, 3, 4, 5)


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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as made:
        yield made


def test_events_that_a_full_disk_does_not_take_wait_in_memory(caplog: pytest.LogCaptureFixture, disk: Path) -> None:
    spool, fabric = Spool(disk / "spool"), Fabric()
    ballast = fill(disk)
    for number in range(300):
        spool.record(event(number))
    assert spool.disk_refuses
    assert spool.waiting == 300
    assert not spool.lost
    assert "No space left" in caplog.text
    ballast.unlink()
    spool.record(event(300))
    assert not spool.disk_refuses
    asyncio.run(spool.drain(fabric))
    assert fabric.taken == ids(*range(301))


def test_events_in_memory_reach_the_fabric_while_the_disk_is_full(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_EVENTS", 20)
    spool, fabric = Spool(disk / "spool"), Fabric()
    fill(disk)
    fabric.reachable = False
    for number in range(30):
        spool.record(event(number))
    with pytest.raises(ConnectionError):
        asyncio.run(spool.drain(fabric))
    assert spool.lost == {"test.event": 10}
    fabric.reachable = True
    assert asyncio.run(spool.drain(fabric)) == 20
    assert fabric.taken == ids(*range(20))


def test_a_disk_that_became_read_only_repeats_nothing(disk: Path) -> None:
    spool, fabric = Spool(disk / "spool"), Fabric()
    spool.record(event(1))
    spool.record(event(2))
    spool._close()
    subprocess.run(("mount", "-o", "remount,ro", disk), check=True)
    for _ in range(2):
        spool.record(event(3))
        asyncio.run(spool.drain(fabric))
    assert fabric.taken == ids(1, 2, 3, 3)
    subprocess.run(("mount", "-o", "remount,rw", disk), check=True)
    asyncio.run(spool.drain(fabric))
    assert fabric.taken == ids(1, 2, 3, 3)
    assert list((disk / "spool").iterdir()) == []


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
