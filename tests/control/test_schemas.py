"""An object's schema is brought up to date once, in a transaction; data that is newer or older than the code is not touched."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from control_plane import ROOT, ControlPlane, SqliteLocal
from kairos.api.problem import ProblemError
from kairos_control.store import database_schema
from kairos_control.store.enrollments import EnrollmentStore
from kairos_control.store.object_schema import MIGRATIONS, Migration, migrate, version_of

NEWEST = MIGRATIONS[-1].number
# What an object had before versions were recorded, when each start ran these.
UNVERSIONED = [statement for statement in MIGRATIONS[0].statements if not statement.startswith("DROP")]


def schema(local: SqliteLocal) -> list[tuple[str, ...]]:
    return local.database.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def unversioned() -> SqliteLocal:
    local = SqliteLocal()
    for statement in UNVERSIONED:
        local.write(statement)
    local.write("CREATE TABLE samples (node TEXT, at INTEGER)")
    local.write("INSERT INTO nonces (nonce, expires_at) VALUES ('n', 7)")
    local.write("INSERT INTO log_events (position, id, line) VALUES (0, 'e', '{}')")
    return local


def test_a_new_object_and_one_without_a_version_come_to_the_same_schema() -> None:
    new, old = SqliteLocal(), unversioned()
    for local in (new, old):
        assert version_of(local) == 0
        migrate(local)
        assert version_of(local) == NEWEST
    assert [tuple(row) for row in schema(new)] == [tuple(row) for row in schema(old)]
    assert old.rows("SELECT * FROM nonces") == [{"nonce": "n", "expires_at": 7}]
    assert old.rows("SELECT * FROM log_events") == [{"position": 0, "id": "e", "line": "{}"}]
    new.database.close()
    old.database.close()


def test_a_migration_is_applied_once() -> None:
    local = SqliteLocal()
    migrate(local)
    following = Migration(NEWEST + 1, "a column", ("ALTER TABLE nonces ADD COLUMN source TEXT NOT NULL DEFAULT ''",))
    for _ in range(3):
        migrate(local, (*MIGRATIONS, following))
    assert [row["number"] for row in local.rows("SELECT number FROM schema_migrations")] == [*range(1, NEWEST + 2)]
    local.database.close()


@pytest.mark.parametrize("local", [SqliteLocal, unversioned])
def test_a_migration_that_fails_changes_nothing(local: type[SqliteLocal]) -> None:
    store = local()
    before = [tuple(row) for row in schema(store)]
    failing = Migration(NEWEST + 1, "fails", ("CREATE TABLE made (x)", "INSERT INTO absent VALUES (1)"))
    with pytest.raises(sqlite3.OperationalError, match="absent"):
        migrate(store, (*MIGRATIONS, failing))
    assert [tuple(row) for row in schema(store)] == before
    migrate(store)
    assert version_of(store) == NEWEST
    store.database.close()


def test_an_object_with_a_newer_schema_refuses_and_stores_nothing(plane: ControlPlane) -> None:
    gateway = plane.joined("gateway")
    local = plane.service("acme").platform.local
    local.write("INSERT INTO schema_migrations (number, name) VALUES (?, 'from tomorrow')", NEWEST + 1)
    plane.restart()
    before = plane.state()
    asks: list[Callable[[], object]] = [
        lambda: plane.admin("GET", "/v1/tenants/acme"),
        lambda: plane.node(gateway, "GET", "/network"),
        lambda: plane.admin("DELETE", "/v1/tenants/acme"),
    ]
    for ask in asks:
        with pytest.raises(ProblemError, match="deploy the newer release") as caught:
            ask()
        assert (caught.value.code, caught.value.problem.status) == ("schema-newer", 503)
    assert plane.state() == before
    assert plane.admin("GET", "/v1/tenants")["items"], "other tenants and the fabric itself are served"


@pytest.mark.parametrize(
    ("change", "code", "advice"),
    [
        ("INSERT INTO d1_migrations (name) VALUES ('9999_tomorrow.sql')", "schema-newer", "deploy the newer release"),
        (f"DELETE FROM d1_migrations WHERE name = '{database_schema.NEWEST}'", "schema-older", "migrations apply"),
        ("DELETE FROM d1_migrations", "schema-older", "no migration"),
        ("DROP TABLE d1_migrations", "schema-older", "no migration"),
    ],
)
def test_a_database_of_another_schema_is_not_served(plane: ControlPlane, change: str, code: str, advice: str) -> None:
    gateway = plane.joined("gateway")
    plane.restart()
    with plane.store.database as database:
        database.execute(change)
    before = plane.state()
    asks: list[Callable[[], object]] = [
        lambda: plane.admin("GET", "/v1/health"),
        lambda: plane.admin("POST", "/v1/tenants", {"tenant": "other"}),
        lambda: plane.node(gateway, "GET", "/network"),
    ]
    for ask in asks:
        with pytest.raises(ProblemError, match=advice) as caught:
            ask()
        assert (caught.value.code, caught.value.problem.status) == (code, 503)
    assert plane.state() == before


def test_the_fabric_serves_as_soon_as_the_migrations_are_applied(plane: ControlPlane) -> None:
    with plane.store.database as database:
        database.execute("DELETE FROM d1_migrations WHERE name = ?", (database_schema.NEWEST,))
    plane.restart()
    with pytest.raises(ProblemError, match="migrations apply"):
        plane.admin("GET", "/v1/health")
    with plane.store.database as database:
        database.execute("INSERT INTO d1_migrations (name) VALUES (?)", (database_schema.NEWEST,))
    assert plane.admin("GET", "/v1/health") == {"status": "ok", "database": database_schema.NEWEST, "object": NEWEST}


def test_what_devices_hold_outlives_the_migration_of_certificates() -> None:
    """Their present certificates, and which of those that have not ended are refused."""
    scripts = sorted((ROOT / "workers/migrations").glob("*.sql"))
    [migration] = [
        path for path in scripts if path.name.endswith("_certificates.sql") and "present_" in path.read_text()
    ]
    before = scripts[: scripts.index(migration)]
    database = sqlite3.connect(":memory:")
    for path in before:
        database.executescript(path.read_text())
    database.execute("INSERT INTO tenants (tenant, created_at) VALUES ('acme', 1)")
    database.execute(
        "INSERT INTO devices (tenant, node, role, name, status, public_key, key_fingerprint, token_id, tags, groups, owner,"
        " serial, not_after, enrolled_at) VALUES ('acme', 'ep-a', 'endpoint', 'n', 'active', 'k', 'f', 't', '[]', '[]', '', 's2',"
        " 9999999999, 1)"
    )
    for serial, der, end in (("s0", "ended", 5), ("s1", "older", 9999999998), ("s2", "present", 9999999999)):
        database.execute("INSERT INTO certificates VALUES (?, 'acme', 'ep-a', ?, 1, ?)", (serial, der, end))
    database.execute("INSERT INTO refused_certificates VALUES ('s1', 77, 'stolen')")
    database.executescript(migration.read_text())
    assert database.execute("SELECT * FROM present_certificates").fetchall() == [("acme", "ep-a", "present")]
    assert database.execute(
        "SELECT serial, node, refused_from, reason FROM certificates ORDER BY serial"
    ).fetchall() == [
        ("s1", "ep-a", 77, "stolen"),
        ("s2", "ep-a", None, ""),
    ]
    database.close()


def test_an_enrollment_that_is_held_outlives_the_migration_of_verdicts() -> None:
    """And one whose challenge is not answered has to ask again."""
    local = SqliteLocal()
    migrate(local, MIGRATIONS[:1])
    for status in ("held", "challenged"):
        local.write(
            "INSERT INTO enrollments VALUES (?1, 'ep-' || ?1, 'endpoint', 't', 'a2V5', 'laptop', '{}', 'cmVxdWVzdA==',"
            " 'Y2hhbGxlbmdl', 9999999999, 0, ?1, 'hold', 'r', 'why', '', 5)",
            status,
        )
    migrate(local)
    store = EnrollmentStore(local)
    held, challenged = store.of_node("ep-held"), store.of_node("ep-challenged")
    assert held is not None
    assert challenged is not None
    assert (held.status, held.public_key, held.name, held.reason) == ("held", b"key", "laptop", "why")
    assert challenged.challenge_expires == 0
    assert store.waiting(9) == [held]
    local.database.close()
