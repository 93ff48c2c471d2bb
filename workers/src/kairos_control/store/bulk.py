"""Many rows in one statement: `... SELECT json_extract(value, '$[0]'), ... FROM json_each(?)`. A call for each row costs more than the row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

_VALUE_MAX = 1_000_000  # D1 and an object's SQLite take values of 2 MB


def bulks(rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> Iterator[str]:
    """JSON arrays of rows, in their order, none too large for one value."""
    bulk: list[str] = []
    size = 0
    for row in rows:
        text = msgspec.json.encode(row).decode()
        if bulk and size + len(text) > _VALUE_MAX:
            yield f"[{','.join(bulk)}]"
            bulk, size = [], 0
        bulk.append(text)
        size += len(text) + 1
    if bulk:
        yield f"[{','.join(bulk)}]"


def columns(count: int) -> str:
    """The columns of such a row, to select."""
    return ", ".join(f"json_extract(value, '$[{at}]')" for at in range(count))
