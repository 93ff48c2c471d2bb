"""What the demo says while it runs, and at its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kairos_cli.demo.hosts import DemoError

_COLOURS = {"ok": "\033[32m", "FAILED": "\033[31m", "not run": "\033[33m", "dim": "\033[2m"}


@dataclass
class Step:
    title: str
    state: str
    ms: float
    detail: str


@dataclass
class Report:
    """Steps in the order they ran and the figures they left. `figures` is flat: name -> number; details: what else the file says."""

    steps: list[Step] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    _below: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(step.state != "ok" for step in self.steps)

    def heading(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def protocol_step(self, number: str, ms: float, what: str) -> None:
        """One step of docs/protocol.md as it happened; shown below the step of the story that it is part of."""
        self._below.append(f"      {number:<3} {ms:8.1f} ms  {what}")

    def note(self, text: str) -> None:
        """Lines below the step of the story that they come from."""
        self._below += [f"      {line}" for line in text.splitlines()]

    def step(self, title: str, action: Callable[[], str]) -> bool:
        """Runs one step; its detail is what `action` returns. False: it failed, and said why."""
        print(f"  {title} ", end="", flush=True)
        started = time.monotonic()
        try:
            detail, state = action(), "ok"
        except (DemoError, OSError, ValueError, LookupError) as error:
            detail, state = str(error) or type(error).__name__, "FAILED"
        ms = (time.monotonic() - started) * 1000
        self.steps.append(Step(title, state, ms, detail))
        dots = "." * max(3, 46 - len(title))
        print(f"{dots} {_colour(state, state)} {_dim(f'{ms:7.0f} ms')}  {detail}", flush=True)
        for line in self._below:
            print(_dim(line), flush=True)
        self._below.clear()
        return state == "ok"

    def not_run(self, titles: Iterable[str]) -> None:
        """Steps that had no chance after one they need had failed."""
        for title in titles:
            self.steps.append(Step(title, "not run", 0.0, ""))

    def summary(self) -> None:
        self.heading("Summary")
        for name, value in self.figures.items():
            print(f"  {name:<28} {value:10.1f}")
        held = len(self.steps) - self.failed
        print(f"  {held} of {len(self.steps)} steps held" + ("" if not self.failed else ":"))
        for step in self.steps:
            if step.state != "ok":
                print(f"    {_colour(step.state, step.state)} {step.title}  {step.detail}")

    def write(self, path: Path) -> None:
        """The figures and steps as JSON."""
        self.figures["steps_failed"] = self.failed
        document = {"figures": self.figures, "steps": [vars(step) for step in self.steps], **self.details}
        path.write_text(json.dumps(document, indent=2) + "\n")


def _colour(name: str, text: str) -> str:
    return f"{_COLOURS[name]}{text}\033[0m" if sys.stdout.isatty() else text


def _dim(text: str) -> str:
    return _colour("dim", text)
