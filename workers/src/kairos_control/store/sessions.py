"""Sessions, in the SQLite of the tenant's object. Of a token only the hash is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from kairos.api.enrollment import Role

from ..ports import LocalDatabase, Row


@dataclass(frozen=True, slots=True)
class StoredSession:
    """One session of a node."""

    session: str
    """Its id: 128 random bits, in hex."""
    token_hash: str
    """SHA-256 of its token, in hex."""
    node: str
    """The node that opened it."""
    role: Role
    """The role of the node."""
    gateways: list[str]
    """The gateways whose relay socket its token opens."""
    vnis: list[int]
    """The numbers of the VNIs that the node is a member of."""
    expires_at: int
    """Unix seconds."""


class SessionStore:
    """The sessions of one tenant."""

    def __init__(self, local: LocalDatabase) -> None:
        self._local = local

    def put(self, session: StoredSession) -> None:
        """A new session, or a new token and a new end for one that is there."""
        self._local.write(
            "INSERT INTO sessions (session, token_hash, node, role, gateways, vnis, posture, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?, '{}', ?) ON CONFLICT (session) DO UPDATE SET token_hash = excluded.token_hash,"
            " gateways = excluded.gateways, vnis = excluded.vnis, expires_at = excluded.expires_at",
            session.session,
            session.token_hash,
            session.node,
            session.role,
            json.dumps(session.gateways),
            json.dumps(session.vnis),
            session.expires_at,
        )

    def keep_newest(self, node: str, count: int) -> None:
        """Deletes all but the `count` sessions of the node that end last."""
        self._local.write(
            "DELETE FROM sessions WHERE node = ? AND session NOT IN"
            " (SELECT session FROM sessions WHERE node = ? ORDER BY expires_at DESC, rowid DESC LIMIT ?)",
            node,
            node,
            count,
        )

    def by_token(self, token_hash: str, now: int) -> StoredSession | None:
        """The session that has not ended at `now` and whose token has this hash."""
        rows = self._local.rows("SELECT * FROM sessions WHERE token_hash = ? AND expires_at > ?", token_hash, now)
        return _session(rows[0]) if rows else None

    def one(self, session: str, node: str, now: int) -> StoredSession | None:
        """The session of that id and node, if it has not ended at `now`."""
        rows = self._local.rows(
            "SELECT * FROM sessions WHERE session = ? AND node = ? AND expires_at > ?", session, node, now
        )
        return _session(rows[0]) if rows else None

    def of_node(self, node: str, now: int) -> list[StoredSession]:
        """Those that have not ended at `now`."""
        return self._live("node = ?", node, now)

    def of_endpoints(self, now: int) -> list[StoredSession]:
        """Those of all endpoints that have not ended at `now`."""
        return self._live("role = ?", "endpoint", now)

    def set_vnis(self, node: str, vnis: Sequence[int]) -> None:
        """Every session of the node is for these VNIs from now on."""
        self._local.write("UPDATE sessions SET vnis = ? WHERE node = ?", json.dumps(list(vnis)), node)

    def delete(self, session: str) -> None:
        self._local.write("DELETE FROM sessions WHERE session = ?", session)

    def delete_of(self, node: str) -> None:
        self._local.write("DELETE FROM sessions WHERE node = ?", node)

    def clear(self) -> None:
        self._local.write("DELETE FROM sessions")

    def delete_ended(self, now: int) -> None:
        self._local.write("DELETE FROM sessions WHERE expires_at <= ?", now)

    def _live(self, condition: str, value: str, now: int) -> list[StoredSession]:
        rows = self._local.rows(f"SELECT * FROM sessions WHERE {condition} AND expires_at > ?", value, now)
        return [_session(row) for row in rows]


def _session(row: Row) -> StoredSession:
    return StoredSession(
        row["session"],
        row["token_hash"],
        row["node"],
        row["role"],
        json.loads(row["gateways"]),
        json.loads(row["vnis"]),
        row["expires_at"],
    )
