"""Decisions on their way to the audit, so many a minute of each kind: a port scan must not drown what else is on record.

Nothing is left out in silence. What is one too many is counted, and the count is an event of its own when the minute ends.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable

import msgspec

from kairos.audit.event import Event

PER_MINUTE = 30
MINUTE_S = 60.0
_Kind = tuple[str, str, str]  # kind of event, actor, rule


class DecisionLog:
    """Minutes begin when `minute` is called: the caller has the clock."""

    def __init__(self, record: Callable[[Event], None]) -> None:
        self._record = record
        self._seen: Counter[_Kind] = Counter()
        self._last: dict[_Kind, Event] = {}

    def report(self, event: Event) -> bool:
        """False: it is only counted."""
        kind = (event.kind, event.actor, event.rule)
        self._seen[kind] += 1
        if self._seen[kind] > PER_MINUTE:
            self._last[kind] = event
            return False
        self._record(event)
        return True

    def minute(self) -> None:
        """A minute is over: the rest of it is told."""
        for kind, event in self._last.items():
            more = self._seen[kind] - PER_MINUTE
            detail = {**event.detail, "repeated": more}
            self._record(msgspec.structs.replace(event, id=secrets.token_hex(16), detail=detail))
        self._seen.clear()
        self._last.clear()
