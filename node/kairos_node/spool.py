"""Audit events on their way to the fabric: on disk first, so that neither a crash nor an outage loses one.

A folder of numbered files, JSON lines each. The newest is appended to; drain() sends the oldest first and deletes what the fabric has
taken. An event sent twice is stored once, for its id is the key. When the spool is full the oldest file goes, and the log says how
many events were in it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn, Protocol

import msgspec

from kairos.api.problem import ProblemError
from kairos.audit.event import Event
from kairos.constants import BODY_MAX
from kairos.errors import UNREADABLE, BadMessage
from kairos_node.state import Identity

_log = logging.getLogger(__name__)
FILE_EVENTS = 250  # what is sent at once,
FILE_BYTES = BODY_MAX // 2  # and how large it may be
SPOOL_FILES = 400  # 100,000 events
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


class Spool:
    """Not for two processes at once: the state directory's lock sees to that."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._number = max((int(path.stem) for path in self._files()), default=0) + 1
        self._open: FileIO | None = None
        self._events = 0
        self._bytes = 0

    def record(self, event: Event) -> None:
        """Survives our death when this returns, and the machine's a little later: a sync for every flow would hold the loop.
        A full disk stops no traffic: the event goes to the log instead."""
        line = msgspec.json.encode(event) + b"\n"
        try:
            self._append(line)
        except OSError as error:
            _log.error("audit: not written (%s): %s", error.strerror, line.decode().rstrip())
            self._close()  # behind half a line no other may follow

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
        nothing is lost. Only a file that the fabric calls senseless goes, for it would hold up all others for ever."""
        self._close()
        taken = 0
        for path in self._files():
            events = _read(path)
            try:
                if events:
                    taken += await sender.send_events(events)
            except ProblemError as problem:
                if problem.problem.status not in _SENSELESS:
                    raise
                _log.error("audit: the fabric refuses %d events, they are dropped: %s", len(events), problem)
            _delete(path)
        return taken

    def _append(self, line: bytes) -> None:
        if self._open is None:
            self._make_room()
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._open = os.fdopen(os.open(self._path(self._number), flags, 0o600), "wb", buffering=0)
            self._events = self._bytes = 0
        self._open.write(line)
        self._events += 1
        self._bytes += len(line)
        if self._events >= FILE_EVENTS or self._bytes >= FILE_BYTES:
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

    def _make_room(self) -> None:
        files = self._files()
        if len(files) >= SPOOL_FILES:
            _log.error("audit: the spool is full, the oldest %d events are lost", len(_read(files[0])))
            _delete(files[0])

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012}.jsonl"

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)


def _read(path: Path) -> list[Event]:
    """The events of a file; a last line that a crash cut off is dropped."""
    events = []
    for line in path.read_bytes().splitlines():
        try:
            events.append(msgspec.json.decode(line, type=Event))
        except UNREADABLE:
            _log.warning("audit: half an event at the end of %s", path.name)
    return events
