"""The protocol steps of one set-up as they happen, for the log and for `status`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypedDict

_log = logging.getLogger(__name__)
_MOST = 16  # a set-up and a little more: rekeys go on for as long as a tunnel lives, and a gateway has many


class Step(TypedDict):
    """ms: since the first step began."""

    step: str
    what: str
    ms: float


class Steps:
    """began: CLOCK_MONOTONIC, in seconds."""

    def __init__(self, peer: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.peer = peer
        self._clock = clock
        self.began = clock()
        self.taken: list[Step] = []

    def note(self, step: str, what: str) -> None:
        ms = round((self._clock() - self.began) * 1000, 2)
        _log.info("%s %s: %s (%.1f ms)", step, self.peer, what, ms)
        if len(self.taken) < _MOST:
            self.taken.append({"step": step, "what": what, "ms": ms})
