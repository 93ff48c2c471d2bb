"""The measurement of the control plane: what it writes into a fabric's state, and what it makes of figures."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from bench.fabric_cost import day_of_a_device, dollars_a_month, dollars_a_relayed_gb, heads_a_day, page, tables
from bench.fabric_population import Member, add_devices, add_tenants, member
from bench.fabric_routes import ROUTES
from fabric_host import default_provider
from kairos.crypto.suites import KR1

STEM = "0" * 64  # as workerd names the database of an object


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A fabric's state with one device, in the project's own schema."""
    folder = tmp_path / "control/d1/x"
    folder.mkdir(parents=True)
    schema = (Path(__file__).parents[2] / "schema.sql").read_text()
    with sqlite3.connect(folder / f"{STEM}.sqlite") as database:
        database.executescript(schema)
        model = _member("model-tenant", 0)
        node, fingerprint, key = model.names
        database.execute("INSERT INTO tenants (tenant, created_at) VALUES ('model-tenant', 1)")
        database.execute(
            "INSERT INTO vnis VALUES (7, 'model-tenant', 'office', '[]', 1380, '', '[]', 1)",
        )
        database.execute(
            "INSERT INTO devices VALUES ('model-tenant', ?, 'endpoint', 'm', 'active', ?, ?, 't1', '[]', '[]', '', 'abcd', 9, 1, '')",
            (node, key, fingerprint),
        )
        database.execute(
            "INSERT INTO leases VALUES (7, 'model-tenant', ?, '10.64.0.0/14', '10.64.0.2/14')",
            (node,),
        )
    return tmp_path


def _member(tenant: str, number: int) -> Member:
    return member(default_provider(), KR1, tenant, number)


def _rows(state: Path, sql: str) -> list[tuple[object, ...]]:
    [file] = state.glob("control/d1/*/*.sqlite")
    with sqlite3.connect(file) as database:
        return database.execute(sql).fetchall()


def test_each_device_of_a_population_has_its_own_keys_serial_and_address(state: Path) -> None:
    members = [_member("model-tenant", number) for number in (1, 2, 3)]
    add_devices(state, _member("model-tenant", 0), members)
    devices = _rows(state, "SELECT node, public_key, key_fingerprint, serial FROM devices")
    assert {node for node, *_ in devices} == {_member("model-tenant", number).node for number in range(4)}
    for column in range(4):
        assert len({device[column] for device in devices}) == 4
    assert {address for [address] in _rows(state, "SELECT address FROM leases")} == {
        "10.64.0.2/14", "10.64.0.11/14", "10.64.0.12/14", "10.64.0.13/14",
    }  # fmt: skip


def test_a_member_of_a_population_is_the_same_each_time() -> None:
    assert _member("acme", 5).names == _member("acme", 5).names
    assert _member("acme", 5).names != _member("acme", 6).names
    assert _member("acme", 5).names != _member("other", 5).names


def test_each_tenant_of_a_population_has_its_own_vni_and_nodes(state: Path) -> None:
    model = [_member("model-tenant", 0)]
    add_tenants(state, model, [[_member("second", 0)], [_member("third", 0)]])
    assert _rows(state, "SELECT tenant, vni FROM vnis ORDER BY vni") == [
        ("model-tenant", 7),
        ("second", 8),
        ("third", 9),
    ]
    assert _rows(state, "SELECT vni FROM leases WHERE tenant = 'third'") == [(9,)]
    assert _rows(state, "SELECT node FROM devices WHERE tenant = 'second'") == [(_member("second", 0).node,)]


def test_a_log_is_sealed_after_a_pause_or_when_a_segment_is_full() -> None:
    assert heads_a_day(0) == 0
    assert heads_a_day(1) == pytest.approx(1, rel=0.01)
    assert heads_a_day(86_400) == pytest.approx(86_400 / 21)
    assert heads_a_day(86_400_000) == pytest.approx(86_400)  # a thousand a second: a segment each second


def test_the_bill_follows_from_what_was_counted() -> None:
    figures = {f"cpu_us_{route.name}_10": 1_000.0 for route in ROUTES} | {"object_rows_written_posture_10": 4.0}
    day = day_of_a_device(figures, 10, 10)
    assert day.requests == pytest.approx(sum(route.a_day for route in ROUTES) + 11)
    assert day.cpu_s == pytest.approx(day.requests / 1_000)
    bill = dollars_a_month(figures, 10, day, 10)
    assert bill["object rows written"] == pytest.approx(2_880 * 4 * 30 * 1e-6)  # $1 a million rows
    assert bill["D1 rows written"] == 0


def test_a_relayed_gigabyte_costs_its_messages_and_its_seconds() -> None:
    assert dollars_a_relayed_gb(1_000_000, 1_000) == pytest.approx(1_000 / 20 * 0.15e-6 + 1.0 * 0.128 * 12.5e-6)


def test_the_tables_say_what_saturates_first() -> None:
    figures = {f"cpu_us_posture_{size}": 10_000.0 for size in (100, 1_000)}
    assert "Saturates first: one Tenant object's CPU, at 3,000 devices." in tables(figures)


def test_the_page_on_size_shows_the_saved_figures() -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs/design/0009-size-on-paper.md").read_text()
    figures = json.loads((root / "bench/results/fabric.json").read_text())["figures"]
    assert text == page(text, figures), "run ./dev bench fabric --tables bench/results/fabric.json"
