"""How long to wait before trying again: exponential with full jitter, so that a fabric that comes back is not stormed."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_S = 0.25
MOST_S = 30.0


class Backoff:
    """draw: uniform in [0, 1)."""

    def __init__(self, first: float = FIRST_S, most: float = MOST_S, draw: Callable[[], float] = random.random) -> None:
        self._first, self._most, self._draw = first, most, draw
        self._failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure: between half and all of first * 2^failures, at most `most`."""
        ceiling = min(self._most, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return ceiling * (0.5 + self._draw() / 2)

    def reset(self) -> None:
        """It worked: the next failure waits briefly again."""
        self._failures = 0
