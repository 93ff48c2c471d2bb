"""How nodes are doing: the samples of the last hour, in the tenant's own SQLite. Nothing is decided by them."""

from __future__ import annotations

import msgspec

from kairos.api.telemetry import Sample, SampleRecord

from .http import Call, Reply, reply
from .paging import window
from .ports import Row, TenantPlatform
from .problems import problem

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS samples (node TEXT NOT NULL, minute INTEGER NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL,"
    " PRIMARY KEY (node, minute)) WITHOUT ROWID",
)
KEPT_S = 3600
_SAMPLE_MAX = 8 * 1024


class Telemetry:
    def __init__(self, platform: TenantPlatform) -> None:
        self._platform = platform

    async def take(self, call: Call) -> Reply:
        """One a minute counts, the newest: a node that sends more takes no more room."""
        assert call.device is not None
        body = msgspec.json.encode(call.decode(Sample)).decode()
        if len(body) > _SAMPLE_MAX:
            raise problem("invalid", f"a sample has at most {_SAMPLE_MAX} bytes of JSON")
        node, now = call.device["node"], int(self._platform.clock())
        self._platform.local.write(
            "INSERT INTO samples (node, minute, at, body) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (node, minute) DO UPDATE SET at = excluded.at, body = excluded.body",
            node, now // 60, now, body,
        )  # fmt: skip
        self._platform.local.write("DELETE FROM samples WHERE node = ? AND at < ?", node, now - KEPT_S)
        return reply(None)

    async def show(self, call: Call) -> Reply:
        """The newest of each node that sent one within the hour."""
        view = window(call)
        rows = self._platform.local.rows(
            "SELECT node, max(at) AS at, body FROM samples WHERE at >= ? AND node > ? GROUP BY node ORDER BY node LIMIT ?",
            int(self._platform.clock()) - KEPT_S,
            view.after,
            view.fetch,
        )
        return view.page(rows, "node", _record)

    def sweep(self) -> None:
        """Those of nodes that came no more."""
        self._platform.local.write("DELETE FROM samples WHERE at < ?", int(self._platform.clock()) - KEPT_S)


def _record(row: Row) -> SampleRecord:
    return SampleRecord(row["node"], row["at"], msgspec.json.decode(row["body"], type=Sample))
