"""Telemetry of nodes. The newest sample of each node is in the SQLite of the tenant's object; all samples go through
a queue into D1, where minutes are kept for a day and hours for a month. Nothing depends on them, so a lost sample is
not sent again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

from kairos.api.telemetry import UPLINKS_MAX, Measured, Sample, SampleRecord, TelemetryRecord

from ..ports import Platform, TenantPlatform
from ..problems import problem
from ..store import Stores
from ..store import telemetry as samples
from ..store.placements import PlacementStore
from ..store.tenant_database import database_of
from .rate_limits import TELEMETRY, Limits

LIVE_S = 3600
MINUTES_KEPT_S, HOURS_KEPT_S = 24 * 3600, 30 * 24 * 3600
SAMPLE_MAX = 8 * 1024
"""Bytes of a sample's JSON."""
_LATE_S = 3600  # samples that the queue delivers later are left out of the hours
_HOUR_S = 3600


class Telemetry:
    """The samples of one tenant's nodes."""

    def __init__(self, platform: TenantPlatform, store: Stores, limits: Limits) -> None:
        self._platform, self._store, self._limits = platform, store.telemetry, limits

    async def take(self, node: str, sample: Sample) -> None:
        """A sample of `node`. Raises invalid, too-many-requests."""
        self._limits.take(TELEMETRY, node)
        if len(msgspec.json.encode(sample)) > SAMPLE_MAX or len(sample.uplinks) > UPLINKS_MAX:
            raise problem("invalid", f"a sample has at most {SAMPLE_MAX} bytes of JSON and {UPLINKS_MAX} uplinks")
        if not all(0 <= number <= samples.NUMBER_MAX for number in _numbers(sample)):
            raise problem("invalid", f"the numbers of a sample are between 0 and {samples.NUMBER_MAX}")
        now = int(self._platform.clock())
        self._store.keep_newest(node, now, sample)
        try:
            await self._platform.telemetry.send(
                [msgspec.to_builtins(Measured(self._platform.tenant, node, now, sample))]
            )
        except Exception as error:  # any type: the bridge decides what an outage of the queue becomes
            print(f"telemetry of {node}: {error}")

    def newest(self, after: str, count: int) -> list[SampleRecord]:
        """The newest of each node that sent one within the hour."""
        return self._store.newest(int(self._platform.clock()) - LIVE_S, after, count)

    async def history(self, by: str, since: int, node: str, after: str, count: int) -> list[TelemetryRecord]:
        return await self._store.history(by, since, node, after, count)

    async def sweep(self) -> None:
        """Makes hours out of the minutes that are there, and deletes what is too old."""
        now = int(self._platform.clock())
        await self._store.roll_up((now - _LATE_S) // _HOUR_S * _HOUR_S)
        await self._store.delete_old(now - MINUTES_KEPT_S, now - HOURS_KEPT_S, now - LIVE_S)


async def keep(platform: Platform, measured: Sequence[Measured]) -> None:
    """One batch of the queue; what came before changes nothing. A sample of a tenant that is being moved is dropped."""
    placements = await PlacementStore(platform.databases.directory).of_each(each.tenant for each in measured)
    by_shard: dict[str, list[Measured]] = {}
    for each in measured:
        placement = placements[each.tenant]
        if not placement.moving_to:
            by_shard.setdefault(placement.shard, []).append(each)
    for shard, those in by_shard.items():
        await samples.add(database_of(platform.databases, shard), those)


def _numbers(sample: Sample) -> Iterator[float]:
    for name in sample.__struct_fields__:
        value = getattr(sample, name)
        if isinstance(value, int | float):
            yield value if math.isfinite(value) else -1
    yield from sample.drops.values()
