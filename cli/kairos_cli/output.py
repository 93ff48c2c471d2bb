"""What the verbs print: tables for people, JSON for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec


def as_json(value: Any) -> None:
    """Pretty JSON on standard output; bytes as base64, as in the API."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def as_table(header: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Left-aligned columns; `empty` is said when there is no row."""
    lines = [[str(cell) for cell in row] for row in rows]
    if not lines:
        print(empty)
        return
    table = [list(header), *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def as_fields(fields: Iterable[tuple[str, object]]) -> None:
    """`name  value` lines; empty values are left out."""
    shown = [(name, str(value)) for name, value in fields if value not in ("", None, [], b"")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name.ljust(width)}  {value}")


def moment(unix: float) -> str:
    """UTC to the second, or `-` for never."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(unix)) if unix else "-"


def listed(items: Iterable[object]) -> str:
    """Comma-separated, or `-`."""
    return ", ".join(str(item) for item in items) or "-"


def hex_groups(data: bytes) -> str:
    """A fingerprint as people compare it: hex in groups of four digits."""
    text = data.hex()
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))
