"""Kills and stops parts of a fabric at random moments, by a seed, while nodes record events; and counts what the log then has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
from event_source import KIND, enough, taken

from fabric_host import TENANT, FabricHost, Gatekeeper, default_provider
from kairos.audit.event import Event
from kairos_node.enrollment import enroll
from kairos_node.state import Identity, NodeState

_CALM_S = 1.0  # in which each source records events that nothing disturbs
_SETTLED_S = 150.0  # a node that was stopped connects again and delivers what it kept


class Source:
    """One node that records events, in a process of its own."""

    def __init__(self, state: NodeState, count: int) -> None:
        self.state, self._count = state, count
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def done(self) -> bool:
        return len(taken(self.state)) >= self._count

    def start(self) -> None:
        script = Path(__file__).with_name("event_source.py")
        self._process = subprocess.Popen((sys.executable, str(script), str(self.state.directory), str(self._count)))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def enrolled_sources(host: FabricHost, folder: Path, count: int) -> Iterator[tuple[Identity, list[Source]]]:
    """A gateway, and it and an endpoint as sources of so many events each, which have not begun."""
    states = [NodeState(folder / name) for name in ("gateway", "endpoint")]
    gateway = asyncio.run(host.first_gateway(TENANT, states[0], default_provider()))
    with Gatekeeper(gateway, lambda _: ("allow", "")):
        token = str(host.token(TENANT, "endpoint"))
        asyncio.run(enroll(token, states[1], default_provider(), "laptop", lambda *_: None))
    sources = [Source(state, count) for state in states]
    try:
        yield gateway, sources
    finally:
        for source in sources:
            source.kill()


@dataclass(frozen=True)
class Losses:
    """ids that the log lacks, ids it has twice, and neighbours of one source that it has the other way round."""

    missing: int
    duplicate: int
    misplaced: int


def storm(host: FabricHost, sources: Sequence[Source], dice: random.Random, faults: int) -> list[str]:
    """Faults one after the other, until there were so many and every source has recorded all it should. What was done."""
    done: list[str] = []
    targets: dict[str, Callable[[], None]] = {
        "kill control": lambda: _kill_worker(host, "control"),
        "stop control": lambda: _stop_group(host.fabric.group("control"), dice.uniform(0.1, 0.8)),
        "kill relay": lambda: _kill_worker(host, "relay"),
        "stop relay": lambda: _stop_group(host.fabric.group("relay"), dice.uniform(0.1, 0.4)),
    }
    for number, source in enumerate(sources):
        targets[f"kill source {number}"] = lambda source=source: _kill_source(source)  # type: ignore[misc]
        targets[f"stop source {number}"] = lambda source=source: _stop_source(source, dice)  # type: ignore[misc]
    order: list[str] = []
    while len(done) < faults or not all(source.done for source in sources):
        order = order or dice.sample(sorted(targets), len(targets))  # each kind comes before one comes again
        wait_for(_never, dice.uniform(0.05, 0.8))
        if len(done) < faults:
            targets[order[-1]]()
            done.append(order.pop())
    wait_for(_never, _CALM_S)
    for source in sources:
        enough(source.state).touch()
    return done


def losses(events: Sequence[Event], sources: Sequence[Source]) -> Losses:
    """events: the log, in its order."""
    place = {event.id: at for at, event in reversed(list(enumerate(events)))}
    count = Counter(event.id for event in events)
    missing = misplaced = 0
    for source in sources:
        ids = taken(source.state)
        places = [place[each] for each in ids if each in place]
        missing += len(ids) - len(places)
        misplaced += sum(one > other for one, other in pairwise(places))
    return Losses(missing, sum(count.values()) - len(count), misplaced)


def events_of(lines: bytes) -> list[Event]:
    return [
        each for each in (msgspec.json.decode(line, type=Event) for line in lines.splitlines()) if each.kind == KIND
    ]


def await_all(log: Callable[[], Sequence[Event]], sources: Sequence[Source]) -> Losses:
    """As soon as nothing is missing, or when nothing more comes."""
    found = Losses(-1, 0, 0)

    def complete() -> bool:
        nonlocal found
        with contextlib.suppress(OSError):  # a busy fabric answers late: not yet
            found = losses(log(), sources)
        return not found.missing

    wait_for(complete, _SETTLED_S)
    return found


def wait_for(ready: Callable[[], bool], seconds: float) -> None:
    """Returns when it is ready, or when so much time is over: also how a fault's random moment is waited for."""
    deadline = time.monotonic() + seconds
    while not ready() and time.monotonic() < deadline:
        time.sleep(min(0.3, max(0.0, deadline - time.monotonic())))


def _never() -> bool:
    return False


def _kill_worker(host: FabricHost, worker: str) -> None:
    host.fabric.kill(worker)  # type: ignore[arg-type]
    host.fabric.restart(worker)  # type: ignore[arg-type]


def _stop_group(group: int, seconds: float) -> None:
    os.killpg(group, signal.SIGSTOP)
    try:
        wait_for(_never, seconds)
    finally:
        os.killpg(group, signal.SIGCONT)


def _kill_source(source: Source) -> None:
    source.kill()
    source.start()


def _stop_source(source: Source, dice: random.Random) -> None:
    source.signal(signal.SIGSTOP)
    wait_for(_never, dice.uniform(0.1, 0.5))
    source.signal(signal.SIGCONT)
