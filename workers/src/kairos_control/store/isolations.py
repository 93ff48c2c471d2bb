"""Isolated devices, and the receipts of those who enforce it."""

from __future__ import annotations

from ..ports import LocalDatabase
from ..problems import problem


class IsolationStore:
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

    def clear(self) -> None:
        for table in ("isolations", "receipts"):
            self._local.write(f"DELETE FROM {table}")
