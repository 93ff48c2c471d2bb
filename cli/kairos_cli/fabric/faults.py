"""Faults of the local Workers: limits of Cloudflare that were exceeded, and uncaught exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from kairos_cli.fabric.settings import WORKERS, Worker


@dataclass(frozen=True, slots=True)
class Fault:
    """A line of the host's report (workers/local/limits.mjs)."""

    kind: Literal["limit", "exception"]
    """A limit that was exceeded, or an exception that nobody caught."""
    place: str
    """The handler and, of a limit, the binding."""
    name: str = ""
    """Of a limit: its name in cloudflare_limits."""
    value: float = 0
    """Of a limit: what was tried; 0 where only the platform knows."""
    limit: float = 0
    """Of a limit: what is allowed."""
    text: str = ""
    """Of an exception: its traceback."""

    def __str__(self) -> str:
        if self.kind == "limit":
            return f"limit: {self.name}: {self.place}: {self.value:,.0f} > {self.limit:,.0f}"
        return f"uncaught in {self.place}: {self.text.strip()}"


class FaultLog:
    """The faults of both Workers since the fabric's start, in files of its state directory."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._shown: dict[Worker, int] = {}

    def path(self, worker: Worker) -> Path:
        return self._state / f"{worker}.faults"

    def clear(self) -> None:
        for worker in WORKERS:
            self.path(worker).write_bytes(b"")
            self.path(worker).with_suffix(".most.json").unlink(missing_ok=True)
        self._shown.clear()

    def all(self) -> list[Fault]:
        return [fault for worker in WORKERS for fault in self._read(worker)]

    def new(self) -> list[Fault]:
        """Those that this call is the first to return."""
        found: list[Fault] = []
        for worker in WORKERS:
            faults = self._read(worker)
            found += faults[self._shown.get(worker, 0) :]
            self._shown[worker] = len(faults)
        return found

    def _read(self, worker: Worker) -> list[Fault]:
        path = self.path(worker)
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [msgspec.json.decode(line, type=Fault) for line in lines]
