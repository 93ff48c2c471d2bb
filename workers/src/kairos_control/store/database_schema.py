"""Checks that the D1 database has the schema of this release. wrangler applies `workers/migrations` and records them
in `d1_migrations` (https://developers.cloudflare.com/d1/reference/migrations/); the local fabric does the same."""

from __future__ import annotations

from ..ports import DIRECTORY, Database
from ..problems import problem

NEWEST = "0015_placements.sql"
"""The last file of `workers/migrations`. Names begin with a number of four digits, so they sort as text."""

_RETRY_S = 60
_APPLY = "wrangler d1 migrations apply kairos --remote"


async def require(database: Database, name: str = DIRECTORY) -> None:
    """Raises a ProblemError, schema-newer or schema-older, unless NEWEST is the last migration that was applied. name: the binding."""
    recorded = await database.first("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'd1_migrations'")
    applied = await last_applied(database) if recorded else ""
    if applied > NEWEST:
        raise problem(
            "schema-newer",
            f"the database {name} has migration {applied}, this release of the fabric knows {NEWEST}: deploy the newer release",
            _RETRY_S,
        )
    if applied < NEWEST:
        raise problem(
            "schema-older",
            f"the database {name} has {f'migration {applied}' if applied else 'no migration'}, this release of the fabric needs {NEWEST}:"
            f" `kairos fabric deploy` applies it, and so does `{_APPLY}`",
            _RETRY_S,
        )


async def last_applied(database: Database) -> str:
    """Of a database that has migrations: the newest one. One read."""
    row = await database.first("SELECT coalesce(max(name), '') AS name FROM d1_migrations")
    return str(row["name"]) if row else ""
