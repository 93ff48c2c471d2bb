"""Isolated devices, and the receipts of those who enforce it, in the SQLite of the tenant's object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from kairos.api.push import IsolationState

from ..ports import LocalDatabase, Row
from ..problems import problem
from .columns import b64, unb64


@dataclass(frozen=True, slots=True)
class StoredIsolation:
    """The newest isolation of one device."""

    id: str
    """The same from the isolation to its release."""
    node: str
    """The isolated device."""
    state: IsolationState
    """Isolated, or released since."""
    reason: str
    """Why, for a person."""
    at: int
    """When it began, Unix seconds."""
    expected: list[str]
    """The enforcement points of which a receipt is due."""


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """An enforcement point's signed statement that it has enforced a state."""

    point: str
    """A node, or `relay`."""
    state: IsolationState
    """The state that was enforced."""
    at_ms: int
    """When it was enforced, Unix milliseconds by the clock of the point."""
    signature: bytes
    """By the key of the enforcement point; of the relay, by the issuing key."""
    issuer: str = ""
    """Of the relay's: the id of the issuing certificate whose key signed it."""


class IsolationStore:
    """The isolations of one tenant."""

    def __init__(self, local: LocalDatabase) -> None:
        self._local = local

    def reason(self, node: str) -> str | None:
        """Why the device is isolated; None when it is not."""
        rows = self._local.rows("SELECT reason FROM isolations WHERE node = ? AND state = 'isolated'", node)
        return str(rows[0]["reason"]) if rows else None

    def refuse(self, node: str) -> None:
        """Raises isolated: an isolated device gets nothing until it is released."""
        reason = self.reason(node)
        if reason is not None:
            raise problem("isolated", reason or "ask your operator")

    def one(self, node: str) -> StoredIsolation | None:
        rows = self._local.rows("SELECT * FROM isolations WHERE node = ?", node)
        return _isolation(rows[0]) if rows else None

    def in_force(self) -> list[StoredIsolation]:
        """All devices that are isolated now."""
        rows = self._local.rows("SELECT * FROM isolations WHERE state = 'isolated' ORDER BY node")
        return [_isolation(row) for row in rows]

    def begin(self, isolation: StoredIsolation) -> None:
        self._local.write(
            "INSERT INTO isolations (node, id, state, reason, at, expected) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (node) DO UPDATE SET id = excluded.id, state = excluded.state, reason = excluded.reason,"
            " at = excluded.at, expected = excluded.expected",
            isolation.node,
            isolation.id,
            isolation.state,
            isolation.reason,
            isolation.at,
            json.dumps(isolation.expected),
        )

    def release(self, node: str) -> None:
        self._local.write("UPDATE isolations SET state = 'released' WHERE node = ?", node)

    def expect(self, node: str, points: Sequence[str]) -> None:
        """Receipts of these enforcement points are due."""
        self._local.write("UPDATE isolations SET expected = ? WHERE node = ?", json.dumps(list(points)), node)

    def is_known(self, isolation: str) -> bool:
        """Whether there is an isolation of that id."""
        return bool(self._local.rows("SELECT 1 FROM isolations WHERE id = ?", isolation))

    def add_receipt(self, isolation: str, receipt: StoredReceipt) -> None:
        """Keeps the first receipt of each enforcement point and state."""
        self._local.write(
            "INSERT INTO receipts (id, point, state, at_ms, signature, issuer) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            isolation,
            receipt.point,
            receipt.state,
            receipt.at_ms,
            b64(receipt.signature),
            receipt.issuer,
        )

    def receipts(self, isolation: str, state: IsolationState) -> list[StoredReceipt]:
        rows = self._local.rows("SELECT * FROM receipts WHERE id = ? AND state = ? ORDER BY at_ms", isolation, state)
        return [
            StoredReceipt(row["point"], row["state"], row["at_ms"], unb64(row["signature"]), row["issuer"])
            for row in rows
        ]

    def clear(self) -> None:
        for table in ("isolations", "receipts"):
            self._local.write(f"DELETE FROM {table}")


def _isolation(row: Row) -> StoredIsolation:
    state: IsolationState = "isolated" if row["state"] == "isolated" else "released"
    return StoredIsolation(row["id"], row["node"], state, row["reason"], row["at"], json.loads(row["expected"]))
