"""Tenants in several databases: each works in its own, and one that is moved has all that it had, whatever dies on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from control_plane import ANSWER_S, ControlPlane, Crash, Device
from kairos.api.admin import Tenant
from kairos.api.problem import ProblemError
from kairos.api.session import SessionGrant
from kairos.api.telemetry import Measured, Sample
from kairos_control.fabric import FabricServices
from kairos_control.ports import DIRECTORY
from kairos_control.services import admission, relocation, telemetry
from kairos_control.store.placements import PlacementStore
from kairos_control.store.tenant_database import TenantDatabase

ACME = "/v1/tenants/acme"
LISTS = (
    "devices",
    "tokens",
    "certificates",
    "gateways",
    "vnis",
    "routes",
    "admins",
    "policy/versions",
    "interconnects",
)
# Tables of the directory and of the schema itself.
ELSEWHERE = {
    "tenants",
    "placements",
    "admins",
    "fabric_events",
    "dead_letters",
    "audit_states",
    "ledger_checks",
    "d1_migrations",
    "vni_numbers",
}


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    monkeypatch.setattr(admission, "ADMISSION_WAIT_S", ANSWER_S)
    plane = ControlPlane(shards=2)
    yield plane
    plane.close()


def refused(code: str) -> pytest.RaisesExc[ProblemError]:
    return pytest.RaisesExc(ProblemError, check=lambda error: error.code == code)


def create(plane: ControlPlane, name: str, shard: str = "") -> Tenant:
    made: Tenant = plane.admin("POST", "/v1/tenants", {"tenant": name, "shard": shard}, Tenant)
    return made


def furnish(plane: ControlPlane) -> tuple[Device, SessionGrant]:
    """Tenant acme with something in each table: a gateway, a device that had several addresses, and its session."""
    for number, name in enumerate(("office", "lab")):
        vni = {"name": name, "prefixes": [f"10.{number}.0.0/24"], "selectors": ["tag:x"]}
        plane.admin("POST", f"{ACME}/vnis", vni)
    gateway = plane.joined("gateway")
    device = plane.joined(uses=5)
    plane.admin("PUT", f"{ACME}/gateways/{gateway.node}", {"priority": 1, "weight": 1})
    for address in ("10.0.0.77", "10.0.0.33", "10.0.0.99"):
        plane.admin("PUT", f"{ACME}/vnis/office/members/{device.node}", {"addresses": [address]})
    plane.admin("POST", f"{ACME}/interconnects", {"a": "office", "b": "lab"})
    route = {"prefix": "172.16.0.0/24", "node": device.node, "approved": True}
    plane.admin("PUT", f"{ACME}/vnis/office/routes", route)
    plane.admin("PUT", f"{ACME}/audit/retention", {"days": 30})
    sample = Sample(1, 0, 1.5, 2.5, {"x": 1}, 3, 4.5, 5, 6.5, 1, "0.1", 0.25, 1000)
    asyncio.run(telemetry.keep(plane.platform, [Measured("acme", device.node, int(plane.now), sample)]))
    plane.seal()
    return device, plane.node(device, "POST", "/sessions", {"posture": {}}, SessionGrant)


def records(plane: ControlPlane, shard: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that one database has of tenants, without what is of the directory."""
    database = plane.databases.by_name[shard].database
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = {
        table: sorted((tuple(row) for row in database.execute(f"SELECT * FROM {table}")), key=repr)
        for table in tables
        if table not in ELSEWHERE and not table.startswith("sqlite")
    }
    return {table: found for table, found in rows.items() if found}


def answers(plane: ControlPlane) -> dict[str, Any]:
    return {name: plane.admin("GET", f"{ACME}/{name}")["items"] for name in LISTS}


def finish(plane: ControlPlane) -> None:
    """The alarm and the cron come until nothing is left to do."""
    for _ in range(200):
        if asyncio.run(plane.service("acme").relocation.step()):
            return
    raise AssertionError("the move does not end")


def test_new_tenants_go_where_the_fewest_are_or_where_they_are_told(plane: ControlPlane) -> None:
    assert [create(plane, f"t{number}").shard for number in range(4)] == ["DB", "DB_1", "DB_2", "DB"]
    assert create(plane, "told", "DB_2").shard == "DB_2"
    with refused("invalid"):
        create(plane, "nowhere", "DB_9")
    with refused("exists"):
        create(plane, "told", "DB_1")
    shown = plane.admin("GET", "/v1/tenants")["items"]
    assert {each["tenant"]: each.get("shard", DIRECTORY) for each in shown} == {
        "t0": "DB", "t1": "DB_1", "t2": "DB_2", "t3": "DB", "told": "DB_2"
    }  # fmt: skip


def test_a_tenant_of_another_database_works_and_the_directory_has_none_of_its_records(plane: ControlPlane) -> None:
    create(plane, "acme", "DB_1")
    device, _ = furnish(plane)
    assert records(plane, "DB") == records(plane, "DB_2") == {}
    tables = [table.name for table in plane.service("acme").store.tables]
    assert len(tables) == len(set(tables))
    assert set(tables) == set(records(plane, "DB_1")) | {"policies", "telemetry_hours"}
    schema = plane.store.database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
    )
    assert {*tables, *ELSEWHERE} == {name for (name,) in schema}, "a table that no store names would not be moved"
    assert plane.node(device, "GET", "/network")
    assert 'kairos_fabric_devices{tenant="acme",role="endpoint",status="active"} 1' in metrics(plane)
    assert plane.sweep().status == 200
    plane.admin("DELETE", ACME)
    kept = {table.name for table in plane.service("acme").store.tables if table.outlives}
    assert set(records(plane, "DB_1")) <= kept
    with refused("invalid"):
        create(plane, "acme", "DB_2")
    assert create(plane, "acme").shard == "DB_1", "its audit is there"
    assert plane.admin("GET", f"{ACME}/audit/retention")["days"] == 30


def metrics(plane: ControlPlane) -> str:
    return asyncio.run(FabricServices(plane.platform, plane.limits).metrics.text())


@pytest.mark.parametrize(("source", "target"), [("DB", "DB_1"), ("DB_1", "DB"), ("DB_1", "DB_2")])
def test_a_tenant_that_is_moved_has_all_that_it_had(
    plane: ControlPlane, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relocation, "PAGE", 2)  # so that most tables have several pages
    create(plane, "acme", source)
    device, session = furnish(plane)
    plane.admin("POST", "/v1/tenants", {"tenant": "other", "shard": source})
    before, said, log = records(plane, source), answers(plane), plane.events()
    network = plane.node(device, "GET", "/network")
    plane.admin("POST", f"{ACME}/move", {"shard": target})
    finish(plane)
    assert records(plane, target) == before
    assert records(plane, source) == {}
    assert answers(plane) == said
    assert plane.node(device, "GET", "/network") == network
    moved = plane.admin("GET", ACME, type_=Tenant)
    assert (moved.shard, moved.moving_to) == (target, "")
    renewed = plane.node(device, "POST", "/sessions", {"posture": {}, "renews": session.session}, SessionGrant)
    assert renewed.session == session.session
    events = plane.events()
    assert events[: len(log)] == log
    assert [each.kind for each in events if each.kind.startswith("tenant.")] == [
        "tenant.created",
        "tenant.moving",
        "tenant.moved",
    ]
    assert {row["name"] for row in plane.admin("GET", f"{ACME}/vnis")["items"]} == {"office", "lab"}
    plane.restart()
    assert answers(plane) == said
    plane.admin("PUT", f"{ACME}/vnis/office/members/{device.node}", {"addresses": []})
    [lease] = [
        each for each in plane.admin("GET", f"{ACME}/vnis/office/members")["items"] if each["node"] == device.node
    ]
    assert lease["addresses"] == ["10.0.0.99/24"]


def test_a_move_that_dies_at_any_statement_is_finished(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies before each batch of either database in turn, and once in every two goes on with a new object."""
    monkeypatch.setattr(relocation, "PAGE", 3)
    create(plane, "acme", "DB_1")
    furnish(plane)
    before, said = records(plane, "DB_1"), answers(plane)
    died, home, away = 0, "DB_1", "DB_2"
    for name in ("DB", "DB_1", "DB_2"):
        for batch in range(1, 100):
            plane.databases.by_name[name].dies_in = batch
            try:
                plane.admin("POST", f"{ACME}/move", {"shard": away})
                finish(plane)
            except Crash:
                died += 1
                plane.restart()
                truth = plane.admin("GET", ACME, type_=Tenant)
                assert records(plane, truth.shard) == before
                assert answers(plane) == said
                if truth.shard == home:
                    plane.admin("POST", f"{ACME}/move", {"shard": away})
                finish(plane)
            survived, plane.databases.by_name[name].dies_in = plane.databases.by_name[name].dies_in > 0, 0
            assert records(plane, away) == before
            assert records(plane, home) == {}
            assert answers(plane) == said
            home, away = away, home
            if survived:
                break
        else:
            raise AssertionError("a move is not so many batches")
    assert died > 20
    kinds = [each.kind for each in plane.events()]
    assert kinds.count("tenant.moved") >= died


def test_nothing_changes_while_the_records_are_copied(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relocation, "PAGE", 1)
    create(plane, "acme", "DB_1")
    device, _ = furnish(plane)
    moving = plane.admin("POST", f"{ACME}/move", {"shard": "DB_2"}, Tenant)
    assert (moving.shard, moving.moving_to) == ("DB_1", "DB_2")
    before = records(plane, "DB_1")
    with refused("moving"):
        plane.admin("POST", f"{ACME}/vnis", {"name": "new", "prefixes": ["10.5.0.0/24"]})
    with refused("moving"):
        plane.admin("DELETE", ACME)
    with refused("moving"):
        plane.admin("POST", f"{ACME}/move", {"shard": "DB"})
    assert plane.node(device, "GET", "/network"), "and reading goes on"
    assert plane.node(device, "POST", "/sessions", {"posture": {}}), "and so do sessions"
    asyncio.run(FabricServices(plane.platform, plane.limits).housekeeping.delete_ended())
    assert plane.sweep().status == 200
    assert records(plane, "DB_1") == before
    for _ in range(300):
        if "acme" in plane.alarms and not plane.admin("GET", ACME, type_=Tenant).moving_to:
            break
        asyncio.run(plane.service("acme").lifecycle.alarm())
    finish(plane)
    assert plane.admin("GET", ACME, type_=Tenant).shard == "DB_2"
    plane.admin("POST", f"{ACME}/vnis", {"name": "new", "prefixes": ["10.5.0.0/24"]})


def test_a_number_that_another_tenant_has_there_is_told_before_anything_is_copied(plane: ControlPlane) -> None:
    for name, shard in (("acme", "DB_1"), ("other", "DB_2")):
        create(plane, name, shard)
        plane.admin("POST", f"/v1/tenants/{name}/vnis", {"name": "office", "vni": 4711, "prefixes": ["10.0.0.0/24"]})
    before = records(plane, "DB_2")
    with pytest.raises(ProblemError, match="4711"):
        plane.admin("POST", f"{ACME}/move", {"shard": "DB_2"})
    assert records(plane, "DB_2") == before
    assert plane.admin("GET", ACME, type_=Tenant).moving_to == ""
    plane.admin("POST", f"{ACME}/vnis", {"name": "more", "prefixes": ["10.5.0.0/24"]})


def test_a_copy_that_differs_is_given_up_and_deleted(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relocation, "PAGE", 1)
    create(plane, "acme", "DB_1")
    furnish(plane)
    before = records(plane, "DB_1")
    plane.admin("POST", f"{ACME}/move", {"shard": "DB_2"})
    with plane.databases.by_name["DB_2"].database as database:
        database.execute("UPDATE devices SET name = 'another'")
    finish(plane)
    assert records(plane, "DB_1") == before
    assert records(plane, "DB_2") == {}
    assert plane.admin("GET", ACME, type_=Tenant).shard == "DB_1"
    [failed] = plane.audited("tenant.move-failed")
    assert "devices" in failed["reason"]
    plane.admin("POST", f"{ACME}/move", {"shard": "DB_2"})
    finish(plane)
    assert records(plane, "DB_2") == before


def test_a_tenant_that_was_never_placed_is_in_the_directory(plane: ControlPlane) -> None:
    """As all tenants of earlier releases are."""
    create(plane, "acme", "DB")
    with plane.store.database as database:
        database.execute("DELETE FROM placements")
    device, _ = furnish(plane)
    assert plane.admin("GET", ACME, type_=Tenant).shard == DIRECTORY
    assert plane.node(device, "GET", "/network")
    before = records(plane, "DB")
    plane.admin("POST", f"{ACME}/move", {"shard": "DB_1"})
    finish(plane)
    assert records(plane, "DB_1") == before


def test_a_database_that_is_no_longer_bound_is_named(plane: ControlPlane) -> None:
    create(plane, "acme", "DB_2")
    plane.restart()
    del plane.databases.by_name["DB_2"]
    with pytest.raises(ProblemError, match="DB_2"):
        plane.admin("GET", f"{ACME}/vnis")


def test_a_creation_or_deletion_that_dies_between_two_databases_is_made_again(plane: ControlPlane) -> None:
    plane.store.dies_in = 1
    with pytest.raises(Crash):
        create(plane, "acme", "DB_1")
    with refused("not-found"):
        plane.admin("GET", ACME)
    create(plane, "acme", "DB_1")
    furnish(plane)
    plane.store.dies_in = 1
    with pytest.raises(Crash):
        plane.admin("DELETE", ACME)
    plane.restart()
    plane.admin("DELETE", ACME)
    with refused("not-found"):
        plane.admin("GET", ACME)
    create(plane, "acme")
    assert not any(answers(plane).values())


def test_a_placement_that_was_read_before_a_change_is_read_again(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that asked where the records are, just before they begin to move, is refused."""
    create(plane, "acme", "DB_1")
    read, delayed = plane.store.first, asyncio.Event()

    async def slow(sql: str, *values: Any) -> Any:
        monkeypatch.setattr(plane.store, "first", read)
        row = await read(sql, *values)
        await delayed.wait()
        return row

    async def run() -> None:
        home = TenantDatabase(plane.databases, "acme")
        monkeypatch.setattr(plane.store, "first", slow)
        late = asyncio.create_task(home.write([("DELETE FROM devices", ())]))
        await asyncio.sleep(0)
        await plane.store.write([PlacementStore.depart("acme", "DB_2")])
        assert (await home.changed()).moving_to == "DB_2"
        delayed.set()
        with refused("moving"):
            await late

    asyncio.run(run())
