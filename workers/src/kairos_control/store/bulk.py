"""Many rows in one statement: `... SELECT json_extract(value, '$[0]'), ... FROM json_each(?)`. A call costs more
than a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

VALUE_MAX = 1_000_000
"""Bytes of one array. A value of D1 and of an object's SQLite has at most 2,000,000
(https://developers.cloudflare.com/d1/platform/limits/,
https://developers.cloudflare.com/durable-objects/platform/limits/)."""


def bulks(rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> Iterator[str]:
    """JSON arrays of rows, in their order, each of at most VALUE_MAX bytes of UTF-8 unless a single row is longer."""
    bulk: list[bytes] = []
    size = 2
    for row in rows:
        text = msgspec.json.encode(row)
        if bulk and size + len(text) > VALUE_MAX:
            yield _array(bulk)
            bulk, size = [], 2
        bulk.append(text)
        size += len(text) + 1
    if bulk:
        yield _array(bulk)


def columns(count: int) -> str:
    """The columns of such a row, to select."""
    return ", ".join(f"json_extract(value, '$[{at}]')" for at in range(count))


def _array(rows: Sequence[bytes]) -> str:
    return f"[{b','.join(rows).decode()}]"
