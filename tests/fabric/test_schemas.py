"""Schemas in workerd: an object records its version, and data from a newer release is refused, told plainly and left as it is."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from fabric_files import change, database_of, read, relay_objects, tenant_objects

from fabric_host import FabricHost, client_of, default_provider, running_fabric
from kairos.api.problem import Problem
from kairos.api.session import SessionRequest
from kairos_cli.fabric.settings import Worker
from kairos_control.store.object_schema import MIGRATIONS
from kairos_node.state import NodeState

NEWEST = MIGRATIONS[-1].number


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FabricHost]:
    folder = tmp_path_factory.mktemp("schemas")
    with running_fabric(folder) as host:
        host.tenant("acme")
        asyncio.run(host.first_gateway("acme", gateway_state(folder), default_provider()))
        yield host


def gateway_state(folder: Path) -> NodeState:
    return NodeState(folder / "gateway")


@contextmanager
def stopped(host: FabricHost, worker: Worker) -> Iterator[None]:
    host.fabric.kill(worker)
    yield
    host.fabric.restart(worker)


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
    path = tenant_objects(host.fabric.state)["acme"]
    assert read(path, "SELECT number FROM schema_migrations") == [(each.number,) for each in MIGRATIONS]


def test_an_object_from_a_newer_release_is_refused_and_left_as_it_is(host: FabricHost) -> None:
    path = tenant_objects(host.fabric.state)["acme"]
    with stopped(host, "control"):
        change(path, "INSERT INTO schema_migrations (number, name) VALUES (?, 'tomorrow')", NEWEST + 1)
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
    with stopped(host, "control"):
        change(path, "DELETE FROM schema_migrations WHERE number = ?", NEWEST + 1)
    assert len(host.admin("GET", "/acme/devices")["items"]) == 1


def test_a_database_from_a_newer_release_is_refused_and_left_as_it_is(host: FabricHost) -> None:
    path = database_of(host.fabric.state)
    with stopped(host, "control"):
        change(path, "INSERT INTO d1_migrations (name) VALUES ('9999_tomorrow.sql')")
    before = contents(path)
    for method, target in (("GET", "/v1/health"), ("POST", "/v1/tenants"), ("GET", "/v1/tenants/acme/devices")):
        problem = problem_of(host, method, target)
        assert (problem.code, problem.status) == ("schema-newer", 503)
        assert "9999_tomorrow.sql" in problem.detail
    assert contents(path) == before
    assert "Traceback" not in host.fabric.log("control")
    change(path, "DELETE FROM d1_migrations WHERE name = '9999_tomorrow.sql'")
    assert len(host.admin("GET", "/acme/devices")["items"]) == 1, "it serves at once, without a restart"


async def at_the_relay(host: FabricHost) -> int:
    """The status with which the gateway is let in there: 101, or why not."""
    identity = gateway_state(host.operator.folder).identity(default_provider(), time.time())
    async with client_of(identity) as client, aiohttp.ClientSession() as http:
        grant = await client.open_session(SessionRequest({}))
        try:
            headers = {"Authorization": f"Bearer {grant.token}"}
            async with http.ws_connect(grant.gateways[0].relay_url, headers=headers):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status


def test_a_relay_object_from_a_newer_release_is_refused(host: FabricHost) -> None:
    assert asyncio.run(at_the_relay(host)) == 101
    [path] = relay_objects(host.fabric.state)
    assert read(path, "SELECT value FROM _cf_KV WHERE key = 'schema'") == [(integer(1),)]
    with stopped(host, "relay"):
        change(path, "UPDATE _cf_KV SET value = ? WHERE key = 'schema'", integer(2))
    before = read(path, "SELECT * FROM _cf_KV ORDER BY key")
    assert asyncio.run(at_the_relay(host)) == 503
    assert read(path, "SELECT * FROM _cf_KV ORDER BY key") == before
    with stopped(host, "relay"):
        change(path, "DELETE FROM _cf_KV WHERE key = 'schema'")
    assert asyncio.run(at_the_relay(host)) == 101, "an object from before the version was recorded has version 1"
    assert read(path, "SELECT value FROM _cf_KV WHERE key = 'schema'") == [(integer(1),)]


def integer(value: int) -> bytes:
    """As V8 serializes a small one: a header, `I`, and the zigzag number."""
    return bytes((0xFF, 0x0F, ord("I"), 2 * value))
