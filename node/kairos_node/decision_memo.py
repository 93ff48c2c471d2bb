"""What policy said of a flow holds for the next one like it, as long as the question would be the same.

The question names the second (`now`), so nothing is remembered longer than that; it needs no bound of its own, for what is
remembered was asked within one second.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from kairos.policy.decision import Decision

# All of a flow that policy can see -> its input, and what came of it.
Known = dict[Hashable, tuple[dict[str, Any], Decision]]


class DecisionMemo:
    def __init__(self) -> None:
        self._known: Known = {}
        self._as_of: tuple[object, ...] = ()

    def as_of(self, *state: object) -> Known:
        """What is known in this state of everything beside the flow; of another state nothing is."""
        if state != self._as_of:
            self._known, self._as_of = {}, state
        return self._known

    def forget(self) -> None:
        """Something changed that the state does not show."""
        self._as_of = ()
