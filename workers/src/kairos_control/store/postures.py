"""The newest posture report of each device, in the SQLite of the tenant's object."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..ports import LocalDatabase, Row


@dataclass(frozen=True, slots=True)
class StoredPosture:
    """The newest report of one device."""

    node: str
    """The device."""
    at: int
    """When the fabric got it, Unix seconds."""
    facts: dict[str, Any]
    """What it reported, by name."""


class PostureStore:
    """The posture reports of one tenant."""

    def __init__(self, local: LocalDatabase) -> None:
        self._local = local

    def put(self, posture: StoredPosture) -> None:
        self._local.write(
            "INSERT INTO postures (node, at, facts) VALUES (?, ?, ?)"
            " ON CONFLICT (node) DO UPDATE SET at = excluded.at, facts = excluded.facts",
            posture.node,
            posture.at,
            json.dumps(posture.facts),
        )

    def one(self, node: str) -> StoredPosture | None:
        rows = self._local.rows("SELECT * FROM postures WHERE node = ?", node)
        return _posture(rows[0]) if rows else None

    def since(self, at: int) -> dict[str, StoredPosture]:
        """All reports that came at or after that time, by node."""
        rows = self._local.rows("SELECT * FROM postures WHERE at >= ?", at)
        return {row["node"]: _posture(row) for row in rows}

    def clear(self) -> None:
        self._local.write("DELETE FROM postures")


def _posture(row: Row) -> StoredPosture:
    return StoredPosture(row["node"], row["at"], json.loads(row["facts"]))
