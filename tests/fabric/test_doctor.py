"""`kairos fabric doctor`: each thing that can be wrong is named, and what to do."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from fabric_files import change, database_of

from fabric_host import FabricHost, running_fabric
from kairos_cli.admin import AdminClient
from kairos_cli.fabric import upgrade
from kairos_cli.fabric.doctor import Finding, clock, examine, of_metrics
from kairos_control.store import database_schema, object_schema

NOW = 1_800_000_000
DAY_S = 86_400


def states(findings: list[Finding]) -> dict[str, str]:
    return {each.what: each.state for each in findings}


def test_a_fabric_that_is_well_and_one_that_is_not(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_fabric(tmp_path_factory.mktemp("doctor") / "fabric") as host:
        admin, now = AdminClient(host.operator), time.time()
        well = states(list(examine(admin, now)))
        assert {well[each] for each in ("control plane", "relay", "version", "schemas", "issuing CA", "root CA")} == {
            "ok"
        }
        [schemas] = [each for each in examine(admin, now) if each.what == "schemas"]
        assert schemas.detail == f"database {database_schema.NEWEST}, objects {object_schema.MIGRATIONS[-1].number}"
        upgrade.await_health(host.operator, database_schema.NEWEST)
        monkeypatch.setattr(upgrade, "_HEALTH_S", 0.1)  # one look
        with pytest.raises(upgrade.UpgradeError, match=f"with database {database_schema.NEWEST}"):
            upgrade.await_health(host.operator, "9999_tomorrow.sql")
        late = {each.what: each for each in examine(admin, now + 80 * DAY_S)}
        assert late["issuing CA"].state == "look"
        assert "kairos fabric renew" in late["issuing CA"].detail
        assert late["clock, control plane"].state == "unknown"
        assert states(list(examine(admin, now + 91 * DAY_S)))["issuing CA"] == "wrong"
        newer(host)
        refusing = {each.what: each for each in examine(admin, now)}["control plane"]
        assert (refusing.state, "deploy the newer release" in refusing.detail) == ("wrong", True)
        silent(host)
        assert states(list(examine(admin, now)))["relay"] == "wrong"


def newer(host: FabricHost) -> None:
    """Its database becomes that of a later release."""
    host.fabric.kill("control")
    change(database_of(host.fabric.state), "INSERT INTO d1_migrations (name) VALUES ('9999_tomorrow.sql')")
    host.fabric.restart("control")


def silent(host: FabricHost) -> None:
    host.fabric.kill("relay")


@pytest.mark.parametrize(("off_s", "state"), [(0, "ok"), (-100, "ok"), (200, "wrong"), (-86_400, "wrong")])
def test_this_machines_clock_is_compared(off_s: int, state: str) -> None:
    assert clock("relay", formatdate(NOW, usegmt=True), NOW + off_s).state == state


def test_the_gauges_are_judged() -> None:
    text = """# TYPE kairos_fabric_queue_waiting gauge
kairos_fabric_queue_waiting{queue="events"} 3
kairos_fabric_queue_waiting{queue="telemetry"} 20000
kairos_fabric_dead_letters{queue="events"} 0
kairos_fabric_dead_letters{queue="sweeps"} 2
kairos_fabric_database_bytes{database="0"} 9.1e+09
kairos_fabric_database_bytes{database="1"} 1000000
kairos_fabric_certificate_end_seconds{tenant="acme"} 1799999999
"""
    assert states(list(of_metrics(text, NOW))) == {
        "queue events": "ok",
        "queue telemetry": "look",
        "dead letters events": "ok",
        "dead letters sweeps": "wrong",
        "database 0": "wrong",
        "database 1": "ok",
        "devices": "look",
    }


def test_what_a_fabric_does_not_say_is_unknown() -> None:
    assert set(states(list(of_metrics("", NOW))).values()) == {"unknown"}
