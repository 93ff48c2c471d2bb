"""Refused calls, for the audit. A tenant records a bounded number a minute, of bounded size, and counts the rest."""

from __future__ import annotations

from ..ports import Clock
from .journal import Journal

PER_MINUTE = 50
_TEXT_MAX = 80  # characters of what an unauthenticated caller can choose


class Refusals:
    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._minute = 0
        self._count = 0

    def record(self, kind: str, *, actor: str, subject: str, reason: str) -> None:
        """Records it, unless this minute's number is reached."""
        minute = int(self._clock()) // 60
        if minute != self._minute:
            self._record_left_out()
            self._minute, self._count = minute, 0
        self._count += 1
        if self._count <= PER_MINUTE:
            self._journal.record(
                kind, actor=actor[:_TEXT_MAX], subject=subject[:_TEXT_MAX], outcome="deny", reason=reason
            )

    def _record_left_out(self) -> None:
        left_out = self._count - PER_MINUTE
        if left_out > 0:
            self._journal.record("request.flood", actor="", outcome="deny", reason=f"{left_out} more were refused")
