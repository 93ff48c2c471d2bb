"""Where the local fabric keeps its data: miniflare's SQLite files, one for D1 and one for each Durable Object."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

_KEYS = "SELECT 1 FROM sqlite_master WHERE name = '_cf_KV'"


def database_of(state: Path) -> Path:
    """The file of D1."""
    [path] = _objects(state / "control/d1/miniflare-D1DatabaseObject")
    return path


def tenant_objects(state: Path) -> dict[str, Path]:
    """The file of each Tenant object, by the tenant's name."""
    found = {}
    for path in _objects(state / "control/do/kairos-fabric-Tenant"):
        # workerd keeps the values of storage.kv as V8 serializes them: a header, then the text's length and its bytes.
        for (value,) in read(path, "SELECT value FROM _cf_KV WHERE key = 'tenant'"):
            found[bytes(value[4:]).decode()] = path
    return found


def relay_objects(state: Path) -> list[Path]:
    """The files of the Relay objects that hold something."""
    return [path for path in _objects(state / "relay/do/kairos-relay-Relay") if read(path, _KEYS)]


def read(path: Path, sql: str, *values: Any) -> list[Any]:
    """The rows of one statement. The fabric may be running."""
    with closing(sqlite3.connect(path, timeout=20)) as opened, opened:
        return opened.execute(sql, values).fetchall()


change = read


def _objects(folder: Path) -> list[Path]:
    """Without the file of the runtime's alarms."""
    return [path for path in sorted(folder.glob("*.sqlite")) if path.stem != "metadata"]
