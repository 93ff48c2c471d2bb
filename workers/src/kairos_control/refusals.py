"""Who was turned away, for the audit: every refused enrollment, and every request that could not prove what it claimed.

Anyone may be refused, as often as they like, so a tenant records so many a minute and says how many it left out.
"""

from __future__ import annotations

from kairos.api.problem import ProblemError
from kairos.identity.signed_request import DEVICE_HEADER

from .http import Call
from .journal import Journal
from .ports import Clock

PER_MINUTE = 50
_UNPROVEN = (401, 403)


class Refusals:
    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._minute = 0
        self._count = 0

    def record(self, call: Call, error: ProblemError) -> None:
        """The journal gets it, unless it is an operator's mistake or one too many."""
        enrolling = "/enrollments" in call.path
        if not enrolling and error.problem.status not in _UNPROVEN:
            return
        minute = int(self._clock()) // 60
        if minute != self._minute:
            self._note_left_out()
            self._minute, self._count = minute, 0
        self._count += 1
        if self._count <= PER_MINUTE:
            self._journal.record(
                "enrollment.refused" if enrolling else "request.refused",
                actor=(call.actor or call.headers.get(DEVICE_HEADER.lower(), call.source))[:80],
                subject=f"{call.method} {call.path}",
                outcome="deny",
                reason=error.code,
            )

    def _note_left_out(self) -> None:
        left_out = self._count - PER_MINUTE
        if left_out > 0:
            self._journal.record("request.flood", actor="", outcome="deny", reason=f"{left_out} more were refused")
