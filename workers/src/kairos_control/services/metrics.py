"""The fabric's metrics in the text format of Prometheus (docs/operations.md lists the names)."""

from __future__ import annotations

from ..ports import Platform
from ..store import FabricStores
from ..store.metrics import GAUGES, Gauge, MetricsStore


class Metrics:
    """The fabric's metrics."""

    def __init__(self, platform: Platform, store: FabricStores) -> None:
        self._platform, self._store = platform, store

    async def text(self, only: str = "") -> str:
        """In the text format of Prometheus. only: the one tenant that the caller may see; empty: all, and the fabric
        itself."""
        lines: list[str] = []
        for gauge in GAUGES:
            lines += _heading(gauge.name, gauge.text)
            lines += [_sample(gauge.name, labels, value) for labels, value in await self._values(gauge, only)]
        if not only:
            lines += await self._of_the_fabric()
        return "\n".join(lines) + "\n"

    async def _values(self, gauge: Gauge, only: str) -> list[tuple[dict[str, str], float]]:
        """Of each tenant, what the database says that has its records."""
        found: list[tuple[dict[str, str], float]] = []
        if gauge.in_directory or len(self._store.databases.names) == 1:
            return list(await self._store.metrics.values(gauge, only))
        for name, database in self._store.each().items():
            values = list(await MetricsStore(database).values(gauge, only))
            placements = await self._store.placements.of_each(labels["tenant"] for labels, _ in values)
            found += [each for each in values if placements[each[0]["tenant"]].shard == name]
        return found

    async def _of_the_fabric(self) -> list[str]:
        issuer, waiting = "kairos_fabric_issuer_end_seconds", "kairos_fabric_queue_waiting"
        lines = _heading(issuer, "When the certificate of the issuing key ends, Unix time.")
        lines.append(_sample(issuer, {}, self._platform.settings.issuer.certificate.not_after))
        lines += _heading(waiting, "Messages in a queue.")
        for name, queue in (("telemetry", self._platform.telemetry), ("sweeps", self._platform.sweeps)):
            count = await queue.waiting()
            lines += [] if count is None else [_sample(waiting, {"queue": name}, count)]
        dead = "kairos_fabric_dead_letters"
        lines += _heading(dead, "Queue messages that could not be handled, of those that are kept.")
        counts = dict.fromkeys(("telemetry", "sweeps"), 0) | {
            name.removeprefix("kairos-"): count for name, count in await self._store.dead_letters.counts()
        }
        lines += [_sample(dead, {"queue": name}, count) for name, count in counts.items()]
        size = "kairos_fabric_database_bytes"
        lines += _heading(size, "Size of a D1 database.")
        for name, database in self._store.each().items():
            lines.append(_sample(size, {"database": name}, await database.size()))
        return lines


def _heading(name: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge"]


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    """Labels are names of tenants and queues and words of our own, so none needs an escape."""
    named = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{named}}} {value}" if named else f"{name} {value}"
