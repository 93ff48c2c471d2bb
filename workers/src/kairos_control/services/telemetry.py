"""How nodes are doing. The newest sample of each is in the tenant's own SQLite, for whoever looks now; all of them go through a queue
of their own into D1: minutes for a day, hours for a month. Nothing is decided by them, and one that is lost is lost."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kairos.api.telemetry import Measured, Sample, SampleRecord, TelemetryRecord

from ..http.call import Call, Reply, reply
from ..http.paging import window
from ..ports import Platform, Row, TenantPlatform
from ..problems import problem
from ..store.bulk import bulks
from .rate_limits import TELEMETRY, Limits

LIVE_S = 3600
MINUTES_KEPT_S, HOURS_KEPT_S = 24 * 3600, 30 * 24 * 3600
_LATE_S = 3600  # what the queue delivers later than that is in no hour
_HOUR_S = 3600
_SAMPLE_MAX = 8 * 1024
_VALUES = (
    "relay", "direct", "tx_bytes_per_s", "rx_bytes_per_s", "decisions", "decision_ms", "handshakes", "handshake_ms", "cpu",
    "memory_bytes", "drops",
)  # fmt: skip
_INSERT = (
    f"INSERT INTO telemetry_minutes (tenant, node, at, {', '.join(_VALUES)}) SELECT "
    + ", ".join(f"json_extract(value, '$.{name}')" for name in ("tenant", "node", "at"))
    + ", "
    + ", ".join(f"json_extract(value, '$.sample.{name}')" for name in _VALUES)
    + " FROM json_each(?) WHERE true ON CONFLICT DO NOTHING"
)
# From the minutes each time, so that a batch that came twice or late changes nothing or is counted at the next turn.
_ROLL_UP = """
INSERT OR REPLACE INTO telemetry_hours (tenant, node, at, samples, relay, direct, tx_bytes_per_s, rx_bytes_per_s, decisions, decision_ms,
  decision_ms_max, handshakes, handshake_ms, handshake_ms_max, cpu, memory_bytes, drops)
SELECT tenant, node, hour, count(*), avg(relay), avg(direct), avg(tx_bytes_per_s), avg(rx_bytes_per_s),
  sum(decisions), coalesce(sum(decisions * decision_ms) / nullif(sum(decisions), 0), 0), max(decision_ms),
  sum(handshakes), coalesce(sum(handshakes * handshake_ms) / nullif(sum(handshakes), 0), 0), max(handshake_ms),
  avg(cpu), max(memory_bytes),
  (SELECT json_group_object(name, total) FROM (
    SELECT each.key AS name, sum(each.value) AS total FROM telemetry_minutes d, json_each(d.drops) each
    WHERE d.tenant = m.tenant AND d.node = m.node AND d.at >= m.hour AND d.at < m.hour + 3600 GROUP BY each.key))
FROM (SELECT *, at / 3600 * 3600 AS hour FROM telemetry_minutes WHERE tenant = ? AND at >= ?) m
GROUP BY node, hour
"""
_HISTORY = {
    "minute": "SELECT node, at, 1 AS samples, *, decision_ms AS decision_ms_max, handshake_ms AS handshake_ms_max"
    " FROM telemetry_minutes",
    "hour": "SELECT * FROM telemetry_hours",
}


class Telemetry:
    def __init__(self, platform: TenantPlatform, limits: Limits) -> None:
        self._platform = platform
        self._limits = limits

    async def take(self, call: Call) -> Reply:
        node, now, sample = call.node.node, int(self._platform.clock()), call.decode(Sample)
        self._limits.take(TELEMETRY, node)
        body = msgspec.json.encode(sample).decode()
        if len(body) > _SAMPLE_MAX:
            raise problem("invalid", f"a sample has at most {_SAMPLE_MAX} bytes of JSON")
        self._platform.local.write(
            "INSERT INTO newest_samples (node, at, body) VALUES (?, ?, ?)"
            " ON CONFLICT (node) DO UPDATE SET at = excluded.at, body = excluded.body",
            node, now, body,
        )  # fmt: skip
        measured = Measured(self._platform.tenant, node, now, sample)
        try:
            await self._platform.telemetry.send([msgspec.to_builtins(measured)])
        except Exception as error:  # whatever the queue's bridge makes of an outage
            print(f"telemetry of {node}: {error}")
        return reply(None)

    async def show(self, call: Call) -> Reply:
        """The newest of each node that sent one within the hour."""
        view = window(call)
        rows = self._platform.local.rows(
            "SELECT * FROM newest_samples WHERE at >= ? AND node > ? ORDER BY node LIMIT ?",
            int(self._platform.clock()) - LIVE_S,
            view.after,
            view.fetch,
        )
        return view.page_of_rows(rows, "node", _newest)

    async def history(self, call: Call) -> Reply:
        """By the time, then the node. ?by=minute or hour, ?since= Unix seconds, ?node= only of that one."""
        view, query = window(call), call.query
        by, since = query.get("by", "hour"), query.get("since", "0")
        if by not in _HISTORY or not since.isdecimal() or len(since) > 12:
            raise problem("invalid", "by: minute or hour; since: Unix seconds")
        rows = await self._platform.database.rows(
            f"SELECT * FROM (SELECT *, printf('%012d %s', at, node) AS place FROM ({_HISTORY[by]}"
            " WHERE tenant = ?1 AND at >= ?2 AND ?3 IN ('', node))) WHERE place > ?4 ORDER BY place LIMIT ?5",
            self._platform.tenant, int(since), query.get("node", ""), view.after, view.fetch,
        )  # fmt: skip
        return view.page_of_rows(rows, "place", _record)

    async def sweep(self) -> None:
        """Hours out of the minutes that are there; what is too old goes."""
        now, tenant = int(self._platform.clock()), self._platform.tenant
        began = (now - _LATE_S) // _HOUR_S * _HOUR_S
        await self._platform.database.write(
            [
                (_ROLL_UP, (tenant, began)),
                ("DELETE FROM telemetry_minutes WHERE tenant = ? AND at < ?", (tenant, now - MINUTES_KEPT_S)),
                ("DELETE FROM telemetry_hours WHERE tenant = ? AND at < ?", (tenant, now - HOURS_KEPT_S)),
            ]
        )
        self._platform.local.write("DELETE FROM newest_samples WHERE at < ?", now - LIVE_S)


async def consume(platform: Platform, messages: Sequence[str]) -> None:
    """One batch of the queue, each the JSON of a Measured; what came before changes nothing."""
    measured = [msgspec.json.decode(message, type=Measured) for message in messages]
    rows = [msgspec.to_builtins(each) for each in measured]
    await platform.database.write([(_INSERT, (bulk,)) for bulk in bulks(rows)])


def _newest(row: Row) -> SampleRecord:
    return SampleRecord(row["node"], row["at"], msgspec.json.decode(row["body"], type=Sample))


def _record(row: Row) -> TelemetryRecord:
    return msgspec.convert({**row, "drops": msgspec.json.decode(row["drops"])}, TelemetryRecord, strict=False)
