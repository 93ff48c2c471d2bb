"""The schema of a Tenant object's SQLite: numbered migrations, and the record of those that were applied.

A change of the schema is one more migration at the end of MIGRATIONS. A migration that was released never changes,
because objects exist to which it was applied (docs/design/0028-versioned-schemas.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ports import LocalDatabase
from ..problems import problem

_RETRY_S = 60


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from a schema to the next."""

    number: int
    """The version that the schema has after it: 1 for the first, without gaps."""

    name: str
    """What it is for, in a word or two; recorded with the number."""

    statements: tuple[str, ...]
    """SQL, one statement each, applied in this order."""


MIGRATIONS = (
    # Objects from before versions were recorded have these tables, and perhaps `samples`, without a version.
    Migration(
        1,
        "adopt",
        (
            "CREATE TABLE IF NOT EXISTS nonces (nonce TEXT PRIMARY KEY, expires_at INTEGER NOT NULL)",
            "CREATE INDEX IF NOT EXISTS nonces_by_end ON nonces (expires_at)",
            "CREATE TABLE IF NOT EXISTS enrollments (enrollment TEXT PRIMARY KEY, node TEXT NOT NULL UNIQUE, role TEXT NOT NULL,"
            " token_id TEXT NOT NULL, public_key TEXT NOT NULL, name TEXT NOT NULL, posture TEXT NOT NULL, request TEXT NOT NULL,"
            " challenge TEXT NOT NULL, challenge_expires INTEGER NOT NULL, answered INTEGER NOT NULL, status TEXT NOT NULL,"
            " outcome TEXT NOT NULL, rule TEXT NOT NULL, reason TEXT NOT NULL, certificate TEXT NOT NULL, created_at INTEGER NOT NULL)",
            "CREATE TABLE IF NOT EXISTS sessions (session TEXT PRIMARY KEY, token_hash TEXT NOT NULL UNIQUE, node TEXT NOT NULL,"
            " role TEXT NOT NULL, gateways TEXT NOT NULL, vnis TEXT NOT NULL, posture TEXT NOT NULL, expires_at INTEGER NOT NULL)",
            "CREATE TABLE IF NOT EXISTS isolations (node TEXT PRIMARY KEY, id TEXT NOT NULL, state TEXT NOT NULL,"
            " reason TEXT NOT NULL, at INTEGER NOT NULL, expected TEXT NOT NULL)",
            "CREATE TABLE IF NOT EXISTS receipts (id TEXT NOT NULL, point TEXT NOT NULL, state TEXT NOT NULL, at_ms INTEGER NOT NULL,"
            " signature TEXT NOT NULL, PRIMARY KEY (id, point, state))",
            "CREATE TABLE IF NOT EXISTS postures (node TEXT PRIMARY KEY, at INTEGER NOT NULL, facts TEXT NOT NULL)",
            "DROP TABLE IF EXISTS samples",
            "CREATE TABLE IF NOT EXISTS newest_samples (node TEXT PRIMARY KEY, at INTEGER NOT NULL, body TEXT NOT NULL) WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS log_events (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, line TEXT NOT NULL)",
            "CREATE TABLE IF NOT EXISTS log_nodes (level INTEGER NOT NULL, place INTEGER NOT NULL, hash TEXT NOT NULL,"
            " PRIMARY KEY (level, place)) WITHOUT ROWID",
            "CREATE TABLE IF NOT EXISTS log_head (single INTEGER PRIMARY KEY CHECK (single = 1), head TEXT NOT NULL)",
            "CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, event TEXT NOT NULL, sent_at REAL NOT NULL)",
        ),
    ),
    # Every question of a call in the steady state has its index, and a request is recorded by one row instead of three:
    # rows written are what an object costs most. `nonces` stays until what it holds has ended.
    Migration(
        2,
        "indexes",
        (
            "CREATE TABLE requests_seen (ends_at INTEGER NOT NULL, nonce TEXT NOT NULL, PRIMARY KEY (ends_at, nonce)) WITHOUT ROWID",
            "CREATE INDEX sessions_by_node ON sessions (node)",
            "CREATE INDEX sessions_by_end ON sessions (expires_at)",
            "CREATE INDEX isolations_by_id ON isolations (id)",
        ),
    ),
    # A challenge that is not answered when this is applied has to be asked for again.
    Migration(
        3,
        "verdicts",
        (
            "ALTER TABLE enrollments DROP COLUMN posture",
            "ALTER TABLE enrollments DROP COLUMN request",
            "ALTER TABLE enrollments DROP COLUMN challenge",
            "ALTER TABLE enrollments ADD COLUMN to_be_signed TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE enrollments ADD COLUMN verdict_for TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE enrollments ADD COLUMN policy_version INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE enrollments ADD COLUMN judged_at INTEGER NOT NULL DEFAULT 0",
            "UPDATE enrollments SET challenge_expires = 0",
            "CREATE INDEX enrollments_by_end ON enrollments (status, challenge_expires)",
            "CREATE INDEX enrollments_by_token ON enrollments (token_id)",
        ),
    ),
    # From here on `log_events.id` is an event's id and source, "ID/SOURCE", and nothing is added to `outbox`.
    Migration(
        4,
        "audit index",
        (
            "CREATE TABLE log_unindexed (first INTEGER PRIMARY KEY, size INTEGER NOT NULL, sha256 TEXT NOT NULL, at INTEGER NOT NULL)",
            "CREATE TABLE fabric_mark (single INTEGER PRIMARY KEY CHECK (single = 1), seq INTEGER NOT NULL)",
        ),
    ),
    # `receipts.issuer` names the certificate of the key that signed the relay's receipt. Those from before have none.
    Migration(
        5,
        "issuers",
        (
            "CREATE TABLE issuers (id TEXT PRIMARY KEY, certificate TEXT NOT NULL, not_after INTEGER NOT NULL)",
            "ALTER TABLE receipts ADD COLUMN issuer TEXT NOT NULL DEFAULT ''",
        ),
    ),
    # Each database numbers its events for itself.
    Migration(
        6,
        "databases",
        (
            "CREATE TABLE fabric_marks (database TEXT PRIMARY KEY, seq INTEGER NOT NULL)",
            "INSERT INTO fabric_marks (database, seq) SELECT 'DB', seq FROM fabric_mark",
            "DROP TABLE fabric_mark",
        ),
    ),
    # Without a row the object holds the events sockets of all nodes itself.
    Migration(
        7,
        "event shards",
        (
            "CREATE TABLE event_shards (single INTEGER PRIMARY KEY CHECK (single = 1), count INTEGER NOT NULL,"
            " in_use INTEGER NOT NULL)",
        ),
    ),
)

# A table: a Durable Object's SQLite refuses PRAGMA user_version.
_RECORD = "CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)"


def version_of(local: LocalDatabase) -> int:
    """The number of the newest migration that was applied; 0 if none was recorded."""
    if not local.rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'"):
        return 0
    [row] = local.rows("SELECT coalesce(max(number), 0) AS version FROM schema_migrations")
    version: int = row["version"]
    return version


def migrate(local: LocalDatabase, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Applies the migrations that this object lacks, all in one transaction. Raises a ProblemError, schema-newer,
    and writes nothing if the object has one that this code does not know."""
    version, newest = version_of(local), migrations[-1].number
    if version > newest:
        raise problem(
            "schema-newer",
            f"the tenant's object has schema {version}, this release of the fabric knows {newest}: deploy the newer release",
            _RETRY_S,
        )
    if version < newest:
        local.transaction(lambda: _apply(local, migrations[version:]))


def _apply(local: LocalDatabase, missing: tuple[Migration, ...]) -> None:
    local.write(_RECORD)
    for migration in missing:
        for statement in migration.statements:
            local.write(statement)
        local.write("INSERT INTO schema_migrations (number, name) VALUES (?, ?)", migration.number, migration.name)
