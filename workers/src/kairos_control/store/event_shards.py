"""Over how many event shards the events sockets of the tenant's endpoints are spread."""

from __future__ import annotations

from ..ports import LocalDatabase


class EventShardStore:
    """One row of the object's SQLite. It outlives a tenant that is deleted: its shards may still have sockets to close."""

    def __init__(self, local: LocalDatabase) -> None:
        self._local = local

    def get(self) -> tuple[int, int]:
        """(how many shards take new sockets, how many may have sockets). The second is larger after the first was lowered, until
        the others have closed theirs."""
        for row in self._local.rows("SELECT count, in_use FROM event_shards"):
            return row["count"], row["in_use"]
        return 0, 0

    def set(self, count: int, in_use: int) -> None:
        self._local.write(
            "INSERT INTO event_shards (single, count, in_use) VALUES (1, ?, ?)"
            " ON CONFLICT (single) DO UPDATE SET count = excluded.count, in_use = excluded.in_use",
            count,
            in_use,
        )
