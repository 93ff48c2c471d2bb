"""What this node tells the fabric of itself each minute (`kairos top`)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import kairos
from kairos.api.telemetry import UPLINKS_MAX, Sample, UplinkReport
from kairos_node.metrics import Timings


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    cpu_s: float
    counters: Mapping[str, int]
    decisions: tuple[int, float]
    handshakes: tuple[int, float]


class Telemetry:
    """Differences between one look and the next."""

    def __init__(self, timings: Timings, counters: Mapping[str, int], now: float) -> None:
        """now: any clock that only goes forward, seconds."""
        self._timings = timings
        self._seen = self._look(counters, now)

    def sample(self, status: Mapping[str, Any], now: float) -> Sample:
        """status: what the local API answers to `status`."""
        before, self._seen = self._seen, self._look(status["counters"], now)
        grown = {name: value - before.counters.get(name, 0) for name, value in self._seen.counters.items()}
        paths = [each["path"] for each in status["tunnels"] if each["state"] == "established"]
        seconds = max(now - before.at, 1e-3)
        decisions, decision_ms = _mean_ms(before.decisions, self._seen.decisions)
        handshakes, handshake_ms = _mean_ms(before.handshakes, self._seen.handshakes)
        return Sample(
            relay=paths.count("relay"),
            direct=paths.count("direct"),
            tx_bytes_per_s=round(grown["tx_bytes"] / seconds, 1),
            rx_bytes_per_s=round(grown["rx_bytes"] / seconds, 1),
            drops={name.removeprefix("drop_"): n for name, n in grown.items() if name.startswith("drop_") and n > 0},
            decisions=decisions,
            decision_ms=decision_ms,
            handshakes=handshakes,
            handshake_ms=handshake_ms,
            policy_version=status["policy_version"],
            version=kairos.__version__,
            cpu=round((self._seen.cpu_s - before.cpu_s) / seconds, 4),
            memory_bytes=_memory_bytes(),
            uplinks=msgspec.convert(status.get("uplinks", [])[:UPLINKS_MAX], list[UplinkReport]),
        )

    def _look(self, counters: Mapping[str, int], now: float) -> _Seen:
        points = [each.total for each in self._timings.decisions.values()]
        decisions = sum(count for count, _ in points), sum(seconds for _, seconds in points)
        return _Seen(now, time.process_time(), dict(counters), decisions, self._timings.handshakes.total)


def _mean_ms(before: tuple[int, float], after: tuple[int, float]) -> tuple[int, float]:
    count = after[0] - before[0]
    return count, round((after[1] - before[1]) / count * 1000, 3) if count else 0.0


def _memory_bytes() -> int:
    """What this process holds, proc(5): the second number of statm is in pages."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
