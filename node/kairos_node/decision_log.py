"""Decisions on their way to the audit, so many a minute of each kind and node: a port scan must not drown what else is on record.

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
STRANGERS_MAX = 256  # addresses of no node that are told apart in a minute
_Kind = tuple[str, str, str]  # kind of event, who, rule


class DecisionLog:
    """Minutes begin when `minute` is called: the caller has the clock."""

    def __init__(self, record: Callable[[Event], None]) -> None:
        self._record = record
        self._seen: Counter[_Kind] = Counter()
        self._last: dict[_Kind, Event] = {}
        self._strangers: set[str] = set()

    def report(self, event: Event, node: str) -> bool:
        """node: the authenticated node that this came through; empty where there is none. False: it is only counted."""
        kind = (event.kind, node or self._stranger(event.actor), event.rule)
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
        self._strangers.clear()

    def _stranger(self, address: str) -> str:
        """An address can be forged: those that are too many are one."""
        if len(self._strangers) < STRANGERS_MAX:
            self._strangers.add(address)
        return address if address in self._strangers else ""
