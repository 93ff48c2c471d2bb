"""Samples of nodes: the newest of each in the object's SQLite, minutes and hours of all of them in D1."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kairos.api.telemetry import Measured, Sample, SampleRecord, TelemetryRecord

from ..ports import Database, LocalDatabase, Row
from .bulk import bulks
from .tables import Table

NUMBER_MAX = 10**12
"""Every number of a sample is cut to this, so that no sum of them overflows SQLite's 64 bits."""

_VALUES = (
    "relay", "direct", "tx_bytes_per_s", "rx_bytes_per_s", "decisions", "decision_ms", "handshakes", "handshake_ms", "cpu",
    "memory_bytes",
)  # fmt: skip
_INSERT = (
    f"INSERT INTO telemetry_minutes (tenant, node, at, {', '.join(_VALUES)}, drops) SELECT "
    + ", ".join(f"json_extract(value, '$.{name}')" for name in ("tenant", "node", "at"))
    + ", "
    + ", ".join(f"max(0, min({NUMBER_MAX}, json_extract(value, '$.sample.{name}')))" for name in _VALUES)
    + ", json_extract(value, '$.sample.drops') FROM json_each(?) WHERE true ON CONFLICT DO NOTHING"
)


def _sum(what: str) -> str:
    """total() adds in floating point, where sum() of integers raises an error when it overflows."""
    return f"CAST(min(total({what}), 9e15) AS INTEGER)"


def _mean(value: str, weight: str) -> str:
    return f"coalesce(total({value} * 1.0 * {weight}) / nullif(total({weight}), 0), 0)"


# Hours are always computed from the minutes, so a batch that came twice changes nothing and a late one is counted the
# next time.
_ROLL_UP = f"""
INSERT OR REPLACE INTO telemetry_hours (tenant, node, at, samples, relay, direct, tx_bytes_per_s, rx_bytes_per_s, decisions, decision_ms,
  decision_ms_max, handshakes, handshake_ms, handshake_ms_max, cpu, memory_bytes, drops)
SELECT tenant, node, hour, count(*), avg(relay), avg(direct), avg(tx_bytes_per_s), avg(rx_bytes_per_s),
  {_sum("decisions")}, {_mean("decision_ms", "decisions")}, max(decision_ms),
  {_sum("handshakes")}, {_mean("handshake_ms", "handshakes")}, max(handshake_ms),
  avg(cpu), max(memory_bytes),
  (SELECT json_group_object(name, total) FROM (
    SELECT each.key AS name, {_sum(f"min(each.value, {NUMBER_MAX})")} AS total FROM telemetry_minutes d, json_each(d.drops) each
    WHERE d.tenant = m.tenant AND d.node = m.node AND d.at >= m.hour AND d.at < m.hour + 3600 GROUP BY each.key))
FROM (SELECT *, at / 3600 * 3600 AS hour FROM telemetry_minutes WHERE tenant = ? AND at >= ?) m
GROUP BY node, hour
"""
_HISTORY = {
    "minute": "SELECT node, at, 1 AS samples, *, decision_ms AS decision_ms_max, handshake_ms AS handshake_ms_max"
    " FROM telemetry_minutes",
    "hour": "SELECT * FROM telemetry_hours",
}


class TelemetryStore:
    """The samples of one tenant."""

    TABLES = (
        Table("telemetry_minutes", ("node", "at")),
        Table("telemetry_hours", ("node", "at")),
    )

    def __init__(self, database: Database, local: LocalDatabase, tenant: str) -> None:
        self._database, self._local, self._tenant = database, local, tenant

    def keep_newest(self, node: str, at: int, sample: Sample) -> None:
        self._local.write(
            "INSERT INTO newest_samples (node, at, body) VALUES (?, ?, ?)"
            " ON CONFLICT (node) DO UPDATE SET at = excluded.at, body = excluded.body",
            node, at, msgspec.json.encode(sample).decode(),
        )  # fmt: skip

    def newest(self, since: int, after: str, count: int) -> list[SampleRecord]:
        """Of each node that sent one since then, by node."""
        rows = self._local.rows(
            "SELECT * FROM newest_samples WHERE at >= ? AND node > ? ORDER BY node LIMIT ?", since, after, count
        )
        return [SampleRecord(row["node"], row["at"], msgspec.json.decode(row["body"], type=Sample)) for row in rows]

    async def history(self, by: str, since: int, node: str, after: str, count: int) -> list[TelemetryRecord]:
        """By time, then node. by: `minute` or `hour`; node: only of this one; after: place() of the record before."""
        rows = await self._database.rows(
            f"SELECT * FROM (SELECT *, printf('%012d %s', at, node) AS place FROM ({_HISTORY[by]}"
            " WHERE tenant = ?1 AND at >= ?2 AND ?3 IN ('', node))) WHERE place > ?4 ORDER BY place LIMIT ?5",
            self._tenant, since, node, after, count,
        )  # fmt: skip
        return [_record(row) for row in rows]

    async def roll_up(self, since: int) -> None:
        """Makes the hours from `since` on out of the minutes that are there."""
        await self._database.write([(_ROLL_UP, (self._tenant, since))])

    async def delete_old(self, minutes_before: int, hours_before: int, newest_before: int) -> None:
        """What is older than these Unix times."""
        await self._database.write(
            [
                ("DELETE FROM telemetry_minutes WHERE tenant = ? AND at < ?", (self._tenant, minutes_before)),
                ("DELETE FROM telemetry_hours WHERE tenant = ? AND at < ?", (self._tenant, hours_before)),
            ]
        )
        self._local.write("DELETE FROM newest_samples WHERE at < ?", newest_before)

    def clear(self) -> None:
        self._local.write("DELETE FROM newest_samples")


async def add(database: Database, measured: Sequence[Measured]) -> None:
    """Samples of any tenants, as minutes. One that is there already changes nothing."""
    rows = [msgspec.to_builtins(each) for each in measured]
    await database.write([(_INSERT, (bulk,)) for bulk in bulks(rows)])


def place(record: TelemetryRecord) -> str:
    """The cursor of a history."""
    return f"{record.at:012} {record.node}"


def _record(row: Row) -> TelemetryRecord:
    return msgspec.convert({**row, "drops": msgspec.json.decode(row["drops"])}, TelemetryRecord, strict=False)
