"""How far this host's clock is from the fabric's. Nothing is decided by it: sessions and refusals travel as seconds from now."""

from __future__ import annotations

import time

from kairos.constants import CLOCK_SKEW_REPORTED_S, CLOCK_SKEW_S


class FabricClock:
    def __init__(self) -> None:
        self.ahead_s: int | None = None  # ours, of the fabric's; None: not heard yet

    def told(self, now: int) -> None:
        """A Welcome came. now: Unix seconds."""
        self.ahead_s = round(time.time() - now)

    def word(self, refused: bool) -> str:
        """For people. refused: the fabric does not take our requests for their time."""
        if refused:
            return f"more than {CLOCK_SKEW_S} s from the fabric's, which refuses this node: set it"
        if self.ahead_s is None:
            return "not compared yet"
        if abs(self.ahead_s) < CLOCK_SKEW_REPORTED_S:
            return "right"
        return f"{abs(self.ahead_s)} s {'ahead of' if self.ahead_s > 0 else 'behind'} the fabric's: set it"
