"""Who can reach whom: every pair of places by every protocol and version of IP, as policy has it and as it was seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kairos_cli.demo.segments import MAY, PLACES, Place

PROTOCOLS = ("tcp", "udp", "icmp")
FIRST_NUMBER = 20_000  # below the ports that a kernel picks by itself
REACHED = "reached"
NOT_REACHED = frozenset({"silence", "refused", "prohibited", "unreachable"})


@dataclass(frozen=True, slots=True)
class Cell:
    """number: its source port, or the identity of its echo, by which its packets are known wherever they turn up."""

    number: int
    source: Place
    target: Place
    protocol: str
    version: int

    @property
    def address(self) -> str:
        return self.target.called_by(self.source)[self.version == 6]

    @property
    def allowed(self) -> bool:
        """By policy."""
        over4, over6 = MAY.get((self.source.name, self.target.name), ("", ""))
        return self.protocol in (over6 if self.version == 6 else over4).split()

    def __str__(self) -> str:
        return f"{self.source.name} to {self.target.name}, {self.protocol} over IPv{self.version}"


def every_cell() -> dict[int, Cell]:
    """By number."""
    ways = (
        (source, target, protocol, version)
        for source in PLACES
        for target in PLACES
        if source is not target
        for protocol in PROTOCOLS
        for version in (4, 6)
    )
    return {number: Cell(number, *way) for number, way in enumerate(ways, FIRST_NUMBER)}


@dataclass(frozen=True, slots=True)
class Watch:
    """A point at which packets are looked at. ends: the places whose traffic may pass it; a denied packet that gets here on its
    way to one of them has got too far."""

    name: str
    ends: tuple[str, ...]

    def leaked(self, cells: Mapping[int, Cell], seen: Iterable[Mapping[str, Any]]) -> int:
        """Packets that must not be here. seen: of each cell and direction, as demo.place tells it."""
        return sum(each["packets"] for each in seen if self._is_foreign(cells[each["cell"]], each["forward"]))

    def _is_foreign(self, cell: Cell, forward: bool) -> bool:
        if not {cell.source.name, cell.target.name} & set(self.ends):
            return True
        return forward and cell.target.name in self.ends and not cell.allowed


def mismatches(cells: Iterable[Cell], outcomes: Mapping[int, str]) -> list[str]:
    """The cells on which policy and what was seen differ. A missing outcome is one, and an answer of somebody
    else, and an error that no network makes."""
    found = []
    for cell in cells:
        outcome = outcomes.get(cell.number, "not tried")
        if not (outcome == REACHED if cell.allowed else outcome in NOT_REACHED):
            found.append(f"{cell}: policy says {'yes' if cell.allowed else 'no'}, seen: {outcome}")
    return found


def drawing(cells: Iterable[Cell], outcomes: Mapping[int, str]) -> str:
    """A row for each source. What was seen: tcp, udp, icmp over IPv4, then over IPv6; `!` where policy says otherwise."""
    marks: dict[tuple[str, str], str] = {}
    for cell in cells:
        wrong = bool(mismatches([cell], outcomes))
        letter = "!" if wrong else cell.protocol[0] if cell.allowed else "-"
        pair = (cell.source.name, cell.target.name)
        marks[pair] = marks.get(pair, "") + letter
    names = [place.name for place in PLACES]
    width = max(map(len, names)) + 1
    lines = [" " * width + "".join(f"{name:>{width}}" for name in names)]
    for source in names:
        row = (_mark(marks.get((source, target), "")) for target in names)
        lines.append(f"{source:<{width}}" + "".join(f"{mark:>{width}}" for mark in row))
    return "\n".join(lines)


def _mark(letters: str) -> str:
    """Cells come by protocol, then by version."""
    if not letters.strip("-"):
        return "." if letters else ""
    return f"{letters[0::2]} {letters[1::2]}"
