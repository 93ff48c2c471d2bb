"""What endpoints say of themselves, as far as it is fresh: a report that is late is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kairos.constants import POSTURE_EVERY_S, POSTURE_LATE_S


class Postures:
    """now: the fabric's clock, Unix seconds; reports carry the time at which the fabric got them."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._reports: dict[str, tuple[int, dict[str, Any]]] = {}
        self._late: set[str] = set()
        self._missed: dict[str, int] = {}

    def is_news(self, node: str, at: int, facts: dict[str, Any]) -> bool:
        """A report that is newer than the one we have, or says something else in the same second: a Welcome brings the same
        one again, which is none."""
        known_at, known = self._reports.get(node, (0, {}))
        return at > known_at or (at == known_at and facts != known)

    def learn(self, node: str, at: int, facts: dict[str, Any]) -> bool:
        """True when policy sees something else now. An older report than the one we have changes nothing."""
        known_at, _ = self._reports.get(node, (0, {}))
        if at < known_at:
            return False
        before = self.of(node)
        self._reports[node] = (at, facts)
        self._late.discard(node)
        return self.of(node) != before

    def of(self, node: str) -> dict[str, Any]:
        """The facts, empty when there are none that count."""
        at, facts = self._reports.get(node, (0, {}))
        return facts if self._now() - at <= POSTURE_LATE_S else {}

    def became_late(self) -> set[str]:
        """Nodes whose report has become too old since the last call."""
        late = {node for node, (at, _) in self._reports.items() if self._now() - at > POSTURE_LATE_S}
        news, self._late = late - self._late, late
        return news

    def missed(self) -> set[str]:
        """Nodes that one more report is missing of than at the last call: one when the newest becomes late, and one each 30 s
        of silence after that."""
        silences = {node: self._now() - at - POSTURE_LATE_S for node, (at, _) in self._reports.items()}
        counts = {node: 1 + int(silence // POSTURE_EVERY_S) for node, silence in silences.items() if silence > 0}
        news = {node for node, count in counts.items() if count > self._missed.get(node, 0)}
        self._missed = counts
        return news
