"""Schemas in workerd: an object records its version, and data from a newer release is refused, told plainly and left as it is."""

from __future__ import annotations

import asyncio
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fabric_host import FabricHost, default_provider, running_fabric
from kairos.api.problem import Problem
from kairos_control.store.object_schema import MIGRATIONS
from kairos_node.state import NodeState

NEWEST = MIGRATIONS[-1].number


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FabricHost]:
    folder = tmp_path_factory.mktemp("schemas")
    with running_fabric(folder) as host:
        host.tenant("acme")
        asyncio.run(host.first_gateway("acme", NodeState(folder / "gateway"), default_provider()))
        yield host


def databases(host: FabricHost, place: str) -> list[Path]:
    """The SQLite files of D1 (`d1/...`) or of a class of objects (`do/...`), without those of the runtime itself."""
    found = [path for path in (host.fabric.state / place).glob("*.sqlite") if path.stem != "metadata"]
    assert found, f"no database in {place}"
    return found


def changed(path: Path, sql: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(path)) as database, database:
        return database.execute(sql, values).fetchall()


def contents(path: Path) -> list[str]:
    """What a refusal must not change. The runtime's own tables are no part of it."""
    with closing(sqlite3.connect(path)) as database:
        return [line for line in database.iterdump() if "_cf_" not in line]


def problem_of(host: FabricHost, method: str, path: str) -> Problem:
    request = urllib.request.Request(
        host.operator.url + path,
        method=method,
        data=b"{}" if method == "POST" else None,
        headers={"Authorization": f"Bearer {host.operator.admin_token}"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=20)
    with caught.value as answer:
        assert answer.headers["Retry-After"] == "60"
        return msgspec.json.decode(answer.read(), type=Problem)


def test_an_object_records_its_version(host: FabricHost) -> None:
    [path] = databases(host, "control/do/kairos-fabric-Tenant")
    assert changed(path, "SELECT number FROM schema_migrations") == [(each.number,) for each in MIGRATIONS]


def test_an_object_from_a_newer_release_is_refused_and_left_as_it_is(host: FabricHost) -> None:
    [path] = databases(host, "control/do/kairos-fabric-Tenant")
    host.fabric.stop()
    changed(path, "INSERT INTO schema_migrations (number, name) VALUES (?, 'tomorrow')", NEWEST + 1)
    host.fabric.start()
    before = contents(path)
    for method, target in (
        ("GET", "/v1/tenants/acme/devices"),
        ("POST", "/v1/tenants/acme/tokens"),
        ("DELETE", "/v1/tenants/acme"),
        ("GET", "/v1/tenants/acme/events"),
    ):
        problem = problem_of(host, method, target)
        assert (problem.code, problem.status) == ("schema-newer", 503)
        assert f"schema {NEWEST + 1}" in problem.detail
        assert "deploy the newer release" in problem.detail
    assert contents(path) == before
    assert "Traceback" not in host.fabric.log("control")
    host.tenant_without_vni("other")  # the rest of the fabric is served
    host.fabric.stop()
    changed(path, "DELETE FROM schema_migrations WHERE number = ?", NEWEST + 1)
    host.fabric.start()
    assert len(host.admin("GET", "/acme/devices")["items"]) == 1


def test_a_database_from_a_newer_release_is_refused_and_left_as_it_is(host: FabricHost) -> None:
    [path] = databases(host, "control/d1/miniflare-D1DatabaseObject")
    host.fabric.stop()
    changed(path, "INSERT INTO d1_migrations (name) VALUES ('9999_tomorrow.sql')")
    host.fabric.start()
    before = contents(path)
    for method, target in (("GET", "/v1/health"), ("POST", "/v1/tenants"), ("GET", "/v1/tenants/acme/devices")):
        problem = problem_of(host, method, target)
        assert (problem.code, problem.status) == ("schema-newer", 503)
        assert "9999_tomorrow.sql" in problem.detail
    assert contents(path) == before
    assert "Traceback" not in host.fabric.log("control")
    changed(path, "DELETE FROM d1_migrations WHERE name = '9999_tomorrow.sql'")
    assert len(host.admin("GET", "/acme/devices")["items"]) == 1, "it serves at once, without a restart"
