"""Audit events on their way to the fabric: on disk first, so that neither a crash nor an outage loses one.

A folder of numbered files, JSON lines each. The newest is appended to; drain() sends the oldest first and deletes what the fabric has
taken. An event sent twice is stored once, for its id is the key.

Nothing is lost uncounted. What a full or broken disk does not take waits in memory. When the spool is full, the newest events of
the most frequent kind go: a flood must not push out the evidence of how it began.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn, Protocol, Self

import msgspec

from kairos.api.problem import ProblemError
from kairos.audit.event import Event
from kairos.constants import BODY_MAX
from kairos.errors import UNREADABLE, BadMessage
from kairos_node.state import Identity

_log = logging.getLogger(__name__)
FILE_EVENTS = 250  # what is sent at once,
FILE_BYTES = BODY_MAX // 2  # and how large it may be
SPOOL_EVENTS = 100_000
SPOOL_BYTES = 400 * FILE_BYTES
MEMORY_EVENTS = 1_000  # that wait while the disk takes none
_PARTIAL = "partial"  # what becomes a file once it is whole
_DELIVER_EVERY_S = 1.0  # in bursts
_SENSELESS = (400, 413, 422)  # the fabric will never take it, however often it is sent


class Sender(Protocol):
    async def send_events(self, events: list[Event]) -> int: ...


def event_of(identity: Identity, kind: str, **said: Any) -> Event:
    """What happens at a node now, under its name. said: the other fields of Event."""
    return Event(
        id=secrets.token_hex(16),
        at=time.time(),
        tenant=identity.join.tenant,
        source=identity.node,
        kind=kind,
        suite=identity.suite.name,
        **said,
    )


@dataclass(slots=True)
class _Amount:
    """Of a file, or of all."""

    kinds: Counter[str] = field(default_factory=Counter)
    """Events, by kind."""
    size: int = 0
    """Bytes."""

    @classmethod
    def of(cls, events: list[Event]) -> _Amount:
        return cls(Counter(event.kind for event in events), sum(len(_line(event)) for event in events))

    def add(self, kind: str, size: int) -> None:
        self.kinds[kind] += 1
        self.size += size

    def __iadd__(self, other: _Amount) -> Self:
        self.kinds.update(other.kinds)
        self.size += other.size
        return self

    def __isub__(self, other: _Amount) -> Self:
        self.kinds.subtract(other.kinds)
        self.size -= other.size
        return self


class Spool:
    """Not for two processes at once: the state directory's lock sees to that."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._files = {path: _Amount.of(_read(path)) for path in sorted(folder.glob("*.jsonl"))}  # oldest first
        self._all = _Amount()
        for amount in self._files.values():
            self._all += amount
        self._number = max((int(path.stem) for path in self._files), default=0) + 1
        self._open: FileIO | None = None
        self._sending: Path | None = None
        self._delivered: set[Path] = set()  # and not deleted, because the disk refused that
        self._memory: deque[Event] = deque()  # which the disk did not take
        self.lost: Counter[str] = Counter()
        """Events that were dropped since the start, by kind: the spool was full, or both disk and memory were."""

    @property
    def waiting(self) -> int:
        """Events that the fabric has yet to take."""
        return self._all.kinds.total() + len(self._memory)

    @property
    def disk_refuses(self) -> bool:
        """Events wait in memory, where a crash loses them."""
        return bool(self._memory)

    def record(self, event: Event) -> None:
        """Survives our death when this returns, and the machine's a little later: a sync for every flow would hold the loop.
        A disk that takes nothing stops no traffic: the event waits in memory."""
        self._memory.append(event)
        try:
            while self._memory:
                if self._make_room(self._memory[0].kind):
                    self._append(self._memory[0])
                else:
                    self._lose(self._memory[0].kind, 1, "the spool is full")
                self._memory.popleft()
        except OSError as error:
            if len(self._memory) == 1:
                _log.error("audit: the disk takes no events (%s), they wait in memory", error.strerror)
            elif len(self._memory) > MEMORY_EVENTS:
                self._lose(self._memory.pop().kind, 1, f"the disk takes none ({error.strerror}), and memory is full")

    async def deliver(self, sender: Sender) -> NoReturn:
        """For ever; what the fabric does not take now waits on disk."""
        while True:
            await asyncio.sleep(_DELIVER_EVERY_S)
            try:
                await self.drain(sender)
            except (ConnectionError, ProblemError, BadMessage) as error:
                _log.debug("audit events wait: %s", error)

    async def drain(self, sender: Sender) -> int:
        """Sends all that is there, oldest first; returns how many events the fabric took. What the sender raises is raised:
        nothing is lost. Only an event that the fabric calls senseless goes, for it would hold up all others for ever."""
        for path in list(self._delivered):
            self._delete(path)
        taken = 0
        for path in list(self._files):
            if path == self._path(self._number):
                self._close()
            taken += await self._send_file(sender, path)
        while self._memory:
            events = [self._memory.popleft() for _ in range(min(FILE_EVENTS, len(self._memory)))]
            try:
                taken += await _send(sender, events)
            except BaseException:
                self._memory.extendleft(reversed(events))
                raise
        return taken

    async def _send_file(self, sender: Sender, path: Path) -> int:
        try:
            events = _read(path)
        except FileNotFoundError:
            events = []  # somebody has cleaned up
        except OSError as error:
            _log.error("audit: %s is not read (%s)", path.name, error.strerror)
            return 0
        self._sending = path
        try:
            taken = await _send(sender, events) if events else 0
        finally:
            self._sending = None
        self._all -= self._files.pop(path)
        self._delete(path)
        return taken

    def _append(self, event: Event) -> None:
        """Raises OSError; then the file is as it was before."""
        line, path = _line(event), self._path(self._number)
        if self._open is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._open = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
            self._files[path] = _Amount()
        file = self._files[path]
        try:
            if self._open.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._cut_off(file.size)
            raise
        file.add(event.kind, len(line))
        self._all.add(event.kind, len(line))
        if file.kinds.total() >= FILE_EVENTS or file.size >= FILE_BYTES:
            self._close()

    def _cut_off(self, size: int) -> None:
        """Half a line: behind it no other may follow."""
        assert self._open is not None
        try:
            os.ftruncate(self._open.fileno(), size)
        except OSError:
            self._close()

    def _close(self) -> None:
        """The next event begins another file."""
        if self._open is not None:
            try:
                os.fdatasync(self._open.fileno())
            except OSError as error:
                _log.error("audit: not synced (%s)", error.strerror)
            self._open.close()
            self._open = None
            self._number += 1

    def _make_room(self, kind: str) -> bool:
        """Whether an event of this kind may be added. Raises OSError."""
        while self._all.kinds.total() >= SPOOL_EVENTS or self._all.size >= SPOOL_BYTES:
            ((noisiest, _),) = self._all.kinds.most_common(1)
            if kind == noisiest or not self._thin(noisiest):
                return False
        return True

    def _thin(self, kind: str) -> bool:
        """Drops the newest events of this kind: those of one file. False: there are none that could go. Raises OSError."""
        holding = [path for path, file in self._files.items() if file.kinds[kind] and path != self._sending]
        if not holding:
            return False
        path = holding[-1]
        if path == self._path(self._number):
            self._close()
        before, left = self._files[path], [event for event in _read(path) if event.kind != kind]
        if left:
            partial = self._folder / _PARTIAL
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.writelines(map(_line, left))
            partial.replace(path)
            self._files[path] = _Amount.of(left)
            self._all += self._files[path]
        else:
            del self._files[path]
            self._delete(path)
        self._all -= before
        self._lose(kind, before.kinds[kind], "the spool is full")
        return True

    def _lose(self, kind: str, count: int, why: str) -> None:
        if not self.lost:
            _log.error("audit: events are lost: %s", why)
        self.lost[kind] += count

    def _delete(self, path: Path) -> None:
        """What the disk does not let go is not sent again, as long as we live."""
        try:
            path.unlink(missing_ok=True)
            self._delivered.discard(path)
        except OSError as error:
            if path not in self._delivered:
                _log.error("audit: %s is not deleted (%s)", path.name, error.strerror)
            self._delivered.add(path)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012}.jsonl"


async def _send(sender: Sender, events: list[Event]) -> int:
    """A batch that the fabric calls senseless is sent again in halves, down to the event that is."""
    try:
        return await sender.send_events(events)
    except ProblemError as problem:
        if problem.problem.status not in _SENSELESS:
            raise
        if len(events) == 1:
            _log.error("audit: the fabric refuses event %s, it is dropped: %s", events[0].id, problem)
            return 0
    middle = len(events) // 2
    return await _send(sender, events[:middle]) + await _send(sender, events[middle:])


def _line(event: Event) -> bytes:
    return msgspec.json.encode(event) + b"\n"


def _read(path: Path) -> list[Event]:
    """The events of a file; a last line that a crash cut off is dropped."""
    events = []
    for line in path.read_bytes().splitlines():
        try:
            events.append(msgspec.json.decode(line, type=Event))
        except UNREADABLE:
            _log.warning("audit: half an event at the end of %s", path.name)
    return events
