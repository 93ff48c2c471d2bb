"""A tenant's audit log in the SQLite of its object: the events that are not in R2 and the index yet, the Merkle tree
over all of them, and the newest signed head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from kairos.audit.event import Event
from kairos.audit.head import SignedHead

from ..ports import LocalDatabase
from .bulk import bulks, columns
from .columns import b64, unb64

_KNOWN = f"SELECT id FROM log_events WHERE id IN (SELECT {columns(1)} FROM json_each(?))"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One event at its place in the log."""

    position: int
    """Its place in the log, from 0 on."""
    key: str
    """By key_of()."""
    line: str
    """The event as JSON, exactly as its leaf was hashed."""


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A segment that was sealed: its events are one object in R2."""

    first: int
    """The position of its first event."""
    size: int
    """Of the log with this segment: its events are first to size - 1."""
    sha256: str
    """Of the object, in hex."""
    at: int
    """When it was sealed, Unix seconds by the fabric's clock."""


class AuditLogStore:
    """The log of one tenant."""

    def __init__(self, local: LocalDatabase) -> None:
        self._local = local

    def transaction(self, change: Callable[[], None]) -> None:
        """All that `change` writes, or nothing of it."""
        self._local.transaction(change)

    @property
    def size(self) -> int:
        """How many events the log has, sealed or not."""
        [row] = self._local.rows("SELECT coalesce(max(position) + 1, 0) AS size FROM log_events")
        size: int = row["size"]
        return size

    def known(self, events: Sequence[Event]) -> set[str]:
        """The keys of those of these events that the log has."""
        keys = {key: key_of(event) for event in events for key in _keys(event)}
        found = (row["id"] for bulk in bulks([key] for key in keys) for row in self._local.rows(_KNOWN, bulk))
        return {keys[key] for key in found}

    def add(self, entries: Sequence[LogEntry], nodes: Mapping[tuple[int, int], bytes]) -> None:
        """nodes: the complete subtrees, by level and place, that these entries finish."""
        for bulk in bulks([level, place, b64(value)] for (level, place), value in nodes.items()):
            self._local.write(
                f"INSERT OR REPLACE INTO log_nodes (level, place, hash) SELECT {columns(3)} FROM json_each(?)", bulk
            )
        for bulk in bulks([each.position, each.key, each.line] for each in entries):
            self._local.write(
                f"INSERT INTO log_events (position, id, line) SELECT {columns(3)} FROM json_each(?)", bulk
            )

    def node(self, level: int, place: int) -> bytes:
        """The hash of a complete subtree."""
        [row] = self._local.rows("SELECT hash FROM log_nodes WHERE level = ? AND place = ?", level, place)
        return unb64(row["hash"])

    def leaves(self, first: int, size: int) -> bytes:
        """The leaf hashes of the events first to size - 1, one after the other."""
        rows = self._local.rows(
            "SELECT hash FROM log_nodes WHERE level = 0 AND place >= ? AND place < ? ORDER BY place", first, size
        )
        return b"".join(unb64(row["hash"]) for row in rows)

    def positions(self, id_: str) -> list[tuple[int, str]]:
        """Position and source of the events with this id, one of each source; the source is empty where it was not
        recorded."""
        rows = self._local.rows(
            "SELECT position, id FROM log_events WHERE id = ?1 OR (id > ?1 || '/' AND id < ?1 || '0') ORDER BY position",
            id_,
        )
        return [(row["position"], row["id"].partition("/")[2]) for row in rows]

    def lines(self, first: int, count: int, bytes_max: int) -> list[str]:
        """The text of at most `count` events from `first` on that are not in the index yet: the first one, and as
        many more as have `bytes_max` bytes together with it."""
        rows = self._local.rows(
            "SELECT line FROM log_events WHERE position IN (SELECT position FROM (SELECT position, row_number() OVER places AS number,"
            " sum(length(CAST(line AS BLOB)) + 1) OVER places AS bytes FROM"
            " (SELECT position, line FROM log_events WHERE position >= ? ORDER BY position LIMIT ?)"
            " WINDOW places AS (ORDER BY position)) WHERE number = 1 OR bytes <= ?) ORDER BY position",
            first, count, bytes_max,
        )  # fmt: skip
        return [row["line"] for row in rows]

    def newest_lines(self, low: int, before: int, count: int) -> list[tuple[int, str]]:
        """Position and text of at most `count` events from `low` on and below `before`, the newest first."""
        rows = self._local.rows(
            "SELECT position, line FROM log_events WHERE position >= ? AND position < ? ORDER BY position DESC LIMIT ?",
            low, before, count,
        )  # fmt: skip
        return [(row["position"], row["line"]) for row in rows]

    # -- sealing and indexing ------------------------------------------------------------------------------------------

    def head(self) -> SignedHead | None:
        rows = self._local.rows("SELECT head FROM log_head")
        return msgspec.json.decode(rows[0]["head"], type=SignedHead) if rows else None

    def seal(self, file: SealedFile, head: SignedHead) -> None:
        """Stores the head as the newest, and the segment as not yet indexed."""

        def change() -> None:
            self._local.write(
                "INSERT OR REPLACE INTO log_head (single, head) VALUES (1, ?)", msgspec.json.encode(head).decode()
            )
            self._local.write(
                "INSERT OR REPLACE INTO log_unindexed (first, size, sha256, at) VALUES (?, ?, ?, ?)",
                file.first, file.size, file.sha256, file.at,
            )  # fmt: skip

        self.transaction(change)

    def unindexed(self) -> SealedFile | None:
        """The oldest segment that the index does not have."""
        rows = self._local.rows("SELECT first, size, sha256, at FROM log_unindexed ORDER BY first LIMIT 1")
        return SealedFile(**rows[0]) if rows else None

    def indexed(self, file: SealedFile) -> None:
        """The index has this segment: the object no longer needs its text."""

        def change() -> None:
            self._local.write("DELETE FROM log_unindexed WHERE first = ?", file.first)
            self._local.write(
                "UPDATE log_events SET line = '' WHERE position >= ? AND position < ?", file.first, file.size
            )

        self.transaction(change)

    # -- the outbox of earlier releases --------------------------------------------------------------------------------

    def outbox(self, count: int) -> list[Event]:
        """Events that an earlier release had not brought to the log yet, oldest first."""
        rows = self._local.rows("SELECT event FROM outbox ORDER BY rowid LIMIT ?", count)
        return [msgspec.json.decode(row["event"], type=Event) for row in rows]

    def clear_outbox(self, count: int) -> None:
        """Deletes the first `count` of them."""
        self._local.write("DELETE FROM outbox WHERE rowid IN (SELECT rowid FROM outbox ORDER BY rowid LIMIT ?)", count)

    # -- the fabric's own events ---------------------------------------------------------------------------------------

    def fabric_mark(self, database: str) -> int:
        """Up to which number the events that are kept in this database were copied into this log."""
        rows = self._local.rows("SELECT seq FROM fabric_marks WHERE database = ?", database)
        return int(rows[0]["seq"]) if rows else 0

    def set_fabric_mark(self, database: str, seq: int) -> None:
        self._local.write("INSERT OR REPLACE INTO fabric_marks (database, seq) VALUES (?, ?)", database, seq)


def key_of(event: Event) -> str:
    """The name of an event in its tenant's log. Each source chooses its own ids, so no source can take the id of
    another's event."""
    return f"{event.id}/{event.source}"


def _keys(event: Event) -> tuple[str, ...]:
    """The keys under which the log may have the event. Events of an earlier release have only their id as the key;
    such a key never makes an event of the fabric count as known."""
    return (key_of(event),) if event.source == "fabric" else (key_of(event), event.id)
