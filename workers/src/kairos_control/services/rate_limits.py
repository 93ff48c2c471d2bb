"""How often one source, device or join token may call: a budget that refills with time.

Kept in the Tenant object's memory, which an eviction empties: an object that was evicted was not under load. Only what was proven
is counted for a device or a token, so nobody can spend another's budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ports import Clock
from ..problems import problem

_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Budget:
    """`burst` calls at once, and `per_second` for ever."""

    name: str
    burst: int
    per_second: float


SOURCE = Budget("this address", 600, 20)  # an office behind one address renews 4,000 sessions in 200 s
DEVICE = Budget("this device", 600, 10)
SESSION = Budget("this device's sessions", 300, 1)
CERTIFICATE = Budget("this device's certificates", 30, 1 / 600)  # one each 16 h is what it needs
TELEMETRY = Budget("this device's telemetry", 10, 1 / 30)  # one a minute is what it sends
TOKEN = Budget("this join token", 300, 5)


class Limits:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spent: dict[
            tuple[str, str], tuple[float, float]
        ] = {}  # calls not refilled yet, and when that was; oldest first

    def take(self, budget: Budget, who: str, cost: int = 1) -> None:
        """One call of `who`, or so many of what the budget counts. Raises too-many-requests."""
        key, now = (budget.name, who), self._clock()
        spent, at = self._spent.pop(key, (0.0, now))
        spent = max(0.0, spent - max(0.0, now - at) * budget.per_second)
        over = spent + cost - budget.burst
        self._spent[key] = (spent if over > 0 else spent + cost, now)
        if len(self._spent) > _KEPT:
            del self._spent[next(iter(self._spent))]
        if over > 0:
            wait = math.ceil(over / budget.per_second)
            raise problem("too-many-requests", f"{budget.name}: too many now; again in {wait} s", wait)
