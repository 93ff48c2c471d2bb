"""How endpoints behave, as their gateway sees it: what isolation rules are asked about."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kairos.constants import REPORTS_MAX
from kairos_dataplane import Offences

_MINUTE_S = 60.0


@dataclass(slots=True)
class _Record:
    """seen: by data plane session, the offences that are counted already; counted: when and what, the last minute's."""

    seen: dict[int, Offences] = field(default_factory=dict)
    counted: deque[tuple[float, Counter[str]]] = field(default_factory=deque)
    reports: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=REPORTS_MAX))


class Conduct:
    """By node. Times are the event loop's."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def offended(self, node: str, sessions: Mapping[int, Offences], now: float) -> None:
        """sessions: all that the node has in the data plane, with what was counted since they began."""
        record = self._of(node)
        fresh: Counter[str] = Counter()
        for session, offences in sessions.items():
            known = record.seen.get(session, Offences(0, 0, 0))
            fresh["forged"] += offences.forged - known.forged
            fresh["replayed"] += offences.replayed - known.replayed
            fresh["spoofed"] += offences.spoofed - known.spoofed
        record.seen = dict(sessions)
        if any(fresh.values()):
            record.counted.append((now, fresh))

    def taken_over(self, node: str, now: float) -> None:
        """Its tunnel was replaced by another one while it was in use."""
        self._of(node).counted.append((now, Counter(duplicates=1)))

    def reported(self, node: str, facts: dict[str, Any]) -> None:
        """A posture report came; an empty one: it is late."""
        self._of(node).reports.appendleft(facts)

    def counts(self, node: str, now: float) -> dict[str, int]:
        """What was counted in the last minute."""
        counted = self._of(node).counted
        while counted and counted[0][0] <= now - _MINUTE_S:
            counted.popleft()
        total = sum((each for _, each in counted), Counter[str]())
        return {name: total[name] for name in ("forged", "replayed", "spoofed", "duplicates")}

    def reports(self, node: str) -> list[dict[str, Any]]:
        """Newest first."""
        return list(self._of(node).reports)

    def forget(self, node: str) -> None:
        """It was released, or is no more: it starts anew."""
        self._records.pop(node, None)

    def _of(self, node: str) -> _Record:
        return self._records.setdefault(node, _Record())
