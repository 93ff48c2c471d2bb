"""What every measurement shares: its options, rounds, and figures with their spread.

A measurement goes through its rounds and measures every case once in each, so that a disturbance of the machine meets
all cases alike. A figure is the median over the rounds; the table shows the lowest and the highest beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.plot import Bar, Panel, svg

RESULTS = Path(__file__).parent / "results"
_ROUNDS, _QUICK_ROUNDS = 3, 1


@dataclass
class _Figure:
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Rounds:
    """Iterate over it for the rounds, `add` what each measured, `finish` for the table and the files."""

    def __init__(
        self,
        name: str,
        description: str,
        arguments: list[str] | None = None,
        options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    ) -> None:
        """options: adds a measurement's own; what was given is in `options`."""
        parser = argparse.ArgumentParser(prog=f"./dev bench {name}", description=description.splitlines()[0])
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON")
        parser.add_argument("--save", action="store_true", help=f"keep them as bench/results/{name}.json")
        parser.add_argument("--quick", action="store_true", help="one short round: does it run at all?")
        options(parser)
        self.options = given = parser.parse_args(arguments)
        self.name = name
        self.quick: bool = given.quick
        self._files: list[Path] = [given.json] if given.json else []
        if given.save:
            self._files.append(RESULTS / f"{name}.json")
        self._figures: dict[str, _Figure] = {}
        self._missing: dict[str, str] = {}
        self._machine = machine()

    def __iter__(self) -> Iterator[int]:
        count = _QUICK_ROUNDS if self.quick else _ROUNDS
        for number in range(1, count + 1):
            self.say(f"round {number} of {count}")
            yield number

    def say(self, text: str) -> None:
        """Progress, apart from the result."""
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def add(self, figure: str, value: float, unit: str) -> None:
        """One round's value of a figure."""
        self._figures.setdefault(figure, _Figure(unit)).values.append(value)

    def attempt(self, case: str, figures: Iterator[tuple[str, float, str]], prefix: str = "") -> dict[str, float]:
        """Adds each (figure, value, unit) as it is measured; returns them without the prefix. A case that fails is missing, and the
        others go on: a run takes minutes."""
        measured: dict[str, float] = {}
        try:
            for figure, value, unit in figures:
                measured[figure] = value
                self.add(prefix + figure, value, unit)
        except (RuntimeError, AssertionError, OSError, ValueError, subprocess.SubprocessError) as error:
            self.missing(case, (str(error).splitlines() or [type(error).__name__])[0])
        return measured

    def missing(self, what: str, why: str) -> None:
        """A case that this machine cannot have."""
        self._missing[what] = why
        self.say(f"{what}: {why}")

    def finish(self, pictures: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """pictures: title of a panel -> label of a bar -> figure; beside a saved result as SVG. Ours are named `kairos...`."""
        print(self.table())
        self.save()
        for file in self._files if pictures else ():
            file.with_suffix(".svg").write_text(self._picture(pictures or {}))

    def save(self) -> None:
        """Writes what is measured so far: a long measurement that is stopped leaves that."""
        text = json.dumps(self.document(), indent=2) + "\n"
        for file in self._files:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)

    def _picture(self, pictures: Mapping[str, Mapping[str, str]]) -> str:
        panels = []
        for title, bars in pictures.items():
            there = {label: self._figures[name] for label, name in bars.items() if name in self._figures}
            if there:
                unit = next(iter(there.values())).unit
                drawn = [
                    Bar(label, each.median, min(each.values), max(each.values), label.startswith("kairos"))
                    for label, each in there.items()
                ]
                panels.append(Panel(title, unit, drawn))
        machine = self._machine
        below = f"{machine['cores']} cores, {machine['processor']}, Linux {machine['kernel']}: median of the rounds, lowest to highest"
        return svg(self.name, below, panels)

    def table(self) -> str:
        width = max(map(len, self._figures), default=6)
        lines = [f"{'figure':<{width}}  {'median':>10}  {'lowest':>10}  {'highest':>10}  unit"]
        for name, figure in self._figures.items():
            cells = (figure.median, min(figure.values), max(figure.values))
            lines.append(f"{name:<{width}}  " + "  ".join(f"{_short(cell):>10}" for cell in cells) + f"  {figure.unit}")
        lines += [f"{what:<{width}}  {why}" for what, why in self._missing.items()]
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """`figures` is flat: name -> median; spread and units go by the same names."""
        figures = self._figures
        return {
            "measurement": self.name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": self._machine,
            "rounds": max((len(each.values) for each in figures.values()), default=0),
            "figures": {name: _rounded(each.median) for name, each in figures.items()},
            "spread": {
                name: [_rounded(min(each.values)), _rounded(max(each.values))] for name, each in figures.items()
            },
            "units": {name: each.unit for name, each in figures.items()},
            "missing": self._missing,
        }


def machine() -> dict[str, Any]:
    """What the figures were measured on. load: of the minute before; more than 0.5 makes every figure a lower bound."""
    model = [line.partition(":")[2].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": model[0] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def _read(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
