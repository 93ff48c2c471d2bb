"""Audit events on their way to the fabric: on disk first, so that neither a crash nor an outage loses one.

A folder of numbered files, JSON lines each. The newest is appended to; drain() sends the oldest first and deletes what the fabric has
taken. An event sent twice is stored once, for its id is the key. When the spool is full the oldest file goes, and the log says how
many events were in it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from kairos.audit.event import Event

_log = logging.getLogger(__name__)
FILE_EVENTS = 250  # what is sent at once
SPOOL_FILES = 400  # 100,000 events


class Sender(Protocol):
    async def send_events(self, events: list[Event]) -> Any: ...


class Spool:
    """Not for two processes at once: the state directory's lock sees to that."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._number = max((int(path.stem) for path in self._files()), default=0) + 1
        self._open: BinaryIO | None = None
        self._count = 0

    def record(self, event: Event) -> None:
        """Survives our death when this returns, and the machine's a little later: a sync for every flow would hold the loop."""
        if self._open is None:
            self._make_room()
            self._open = os.fdopen(
                os.open(self._path(self._number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb"
            )
            self._count = 0
        self._open.write(msgspec.json.encode(event) + b"\n")
        self._open.flush()
        self._count += 1
        if self._count >= FILE_EVENTS:
            self._close()

    async def drain(self, sender: Sender) -> int:
        """Sends all that is there, oldest first; returns how many events. What the sender raises is raised: nothing is lost."""
        self._close()
        sent = 0
        for path in self._files():
            events = _read(path)
            if events:
                await sender.send_events(events)
                sent += len(events)
            _delete(path)
        return sent

    def _close(self) -> None:
        """The next event begins another file."""
        if self._open is not None:
            os.fdatasync(self._open.fileno())
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
        except msgspec.MsgspecError:
            _log.warning("audit: half an event at the end of %s", path.name)
    return events
