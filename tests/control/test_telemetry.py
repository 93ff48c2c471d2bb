"""Telemetry at the fabric: the newest of each node for whoever looks now, minutes and hours of all of them, in bounded room."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from control_plane import ADMIN_TOKEN, INTERNAL_KEY, ControlPlane, Device
from kairos.api.admin import Page
from kairos.api.problem import ProblemError
from kairos.api.telemetry import Measured, Sample, TelemetryRecord
from kairos_control import queues
from kairos_control.http.call import Call
from kairos_control.services import telemetry
from kairos_node.metrics import Timings
from kairos_node.telemetry import Telemetry

SAMPLE = Sample(1, 2, 1000.0, 2000.0, {"auth": 3}, 7, 0.2, 1, 12.5, 4, "0.1.0")


def shown(plane: ControlPlane) -> list[tuple[str, int, int]]:
    page = plane.admin("GET", "/v1/tenants/acme/telemetry", None, Page[Any])
    return [(item["node"], item["at"], item["sample"]["relay"]) for item in page.items]


def test_the_newest_of_each_node_for_an_hour(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    for relay in (1, 2):
        plane.node(device, "POST", "/telemetry", Sample(relay, 0, 0.0, 0.0, {}, 0, 0.0, 0, 0.0, 4, "x"))
    plane.node(gateway, "POST", "/telemetry", SAMPLE)
    first = int(plane.now)
    assert shown(plane) == sorted([(device.node, first, 2), (gateway.node, first, 1)])
    plane.now += 60
    plane.node(device, "POST", "/telemetry", SAMPLE)
    assert shown(plane) == sorted([(device.node, first + 60, 1), (gateway.node, first, 1)])
    plane.now = first + 3601
    assert [node for node, _, _ in shown(plane)] == [device.node]


def past(plane: ControlPlane, by: str, **query: str) -> list[TelemetryRecord]:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    page = plane.admin("GET", f"/v1/tenants/acme/telemetry/history?by={by}&{asked}", None, Page[Any])
    return [msgspec.convert(item, TelemetryRecord) for item in page.items]


def deliver(plane: ControlPlane) -> None:
    """All that was ever sent, so most of it once more: queues do that."""
    messages = [msgspec.json.encode(message).decode() for message in plane.telemetry.messages]
    asyncio.run(telemetry.keep(plane.platform, [queues.parse(message, Measured, "a sample") for message in messages]))


def sweep(plane: ControlPlane) -> None:
    plane.send(Call("POST", "/internal/sweep/acme", {"authorization": f"Bearer {INTERNAL_KEY}"}))


def said(plane: ControlPlane, device: Device, rate: float, decisions: int, decision_ms: float) -> None:
    sample = Sample(1, 0, rate, 0.0, {"auth": decisions}, decisions, decision_ms, 0, 0.0, 4, "x", 0.5, int(rate))
    plane.node(device, "POST", "/telemetry", sample)
    deliver(plane)


def test_minutes_become_hours_however_often_they_are_delivered(plane: ControlPlane, gateway: Device) -> None:
    device = plane.joined()
    hour = int(plane.now) // 3600 * 3600
    plane.now = hour + 60.0
    said(plane, device, 100.0, 10, 1.0)
    plane.now += 60
    said(plane, device, 300.0, 30, 3.0)
    assert [(each.at, each.tx_bytes_per_s) for each in past(plane, "minute")] == [
        (hour + 60, 100.0),
        (hour + 120, 300.0),
    ]
    assert past(plane, "hour") == []
    sweep(plane)
    plane.now += 60
    said(plane, device, 200.0, 0, 0.0)
    said(plane, gateway, 1.0, 0, 0.0)
    sweep(plane)
    sweep(plane)
    mine, other = sorted(past(plane, "hour"), key=lambda each: each.node != device.node)
    assert (mine.node, mine.at, mine.samples, other.samples) == (device.node, hour, 3, 1)
    assert (mine.tx_bytes_per_s, mine.decisions, mine.decision_ms, mine.decision_ms_max) == (200.0, 40, 2.5, 3.0)
    assert (mine.drops, mine.cpu, mine.memory_bytes) == ({"auth": 40}, 0.5, 300)
    assert [each.node for each in past(plane, "hour", node=device.node)] == [device.node]
    assert past(plane, "hour", since=str(hour + 1)) == []


def test_what_is_kept_has_an_end(plane: ControlPlane, gateway: Device) -> None:
    said(plane, gateway, 1.0, 1, 1.0)
    sweep(plane)
    plane.now += telemetry.MINUTES_KEPT_S + 1
    sweep(plane)
    assert (len(past(plane, "minute")), len(past(plane, "hour"))) == (0, 1)
    plane.now += telemetry.HOURS_KEPT_S
    sweep(plane)
    assert past(plane, "hour") == []


def test_a_node_that_says_too_much_is_not_heard(plane: ControlPlane, gateway: Device) -> None:
    with pytest.RaisesExc(ProblemError, check=lambda error: error.code == "too-many-requests"):
        for _ in range(20):
            plane.node(gateway, "POST", "/telemetry", SAMPLE)
    assert len(plane.telemetry.messages) == 10


def test_a_queue_that_is_away_costs_the_history_only(plane: ControlPlane, gateway: Device) -> None:
    plane.telemetry.reachable = False
    plane.node(gateway, "POST", "/telemetry", SAMPLE)
    assert len(shown(plane)) == 1
    assert past(plane, "minute") == []


def test_a_sample_that_is_a_burden_is_refused(plane: ControlPlane, gateway: Device) -> None:
    burden = {f"drop{number}": number for number in range(2000)}
    with pytest.RaisesExc(ProblemError, check=lambda error: error.code == "invalid"):
        plane.node(gateway, "POST", "/telemetry", Sample(0, 0, 0.0, 0.0, burden, 0, 0.0, 0, 0.0, 0, "x"))
    assert shown(plane) == []


@pytest.mark.parametrize(
    "change",
    [
        {"decisions": 2**63 - 1},
        {"memory_bytes": -1},
        {"tx_bytes_per_s": 1e300},
        {"drops": {"auth": 2**62}},
        {"cpu": -0.5},
    ],
)
def test_a_number_that_no_node_has_is_refused(plane: ControlPlane, gateway: Device, change: dict[str, Any]) -> None:
    with pytest.RaisesExc(ProblemError, check=lambda error: error.code == "invalid"):
        plane.node(gateway, "POST", "/telemetry", msgspec.structs.replace(SAMPLE, **change))
    assert (shown(plane), plane.telemetry.messages) == ([], [])


def test_numbers_that_are_stored_already_do_not_stop_the_sweep(plane: ControlPlane, gateway: Device) -> None:
    """Sums of them overflowed SQLite's integers, and the sweep failed from then on."""
    now = int(plane.now)
    huge = msgspec.structs.replace(SAMPLE, decisions=2**63 - 1, decision_ms=1e300, drops={"auth": 2**63 - 1})
    asyncio.run(telemetry.keep(plane.platform, [Measured("acme", gateway.node, now + at, huge) for at in range(3)]))
    with plane.store.database:
        plane.store.database.execute(
            "UPDATE telemetry_minutes SET decisions = ?, handshakes = ?", (2**63 - 1, 2**63 - 1)
        )
    assert plane.sweep().status == 200
    [hour] = past(plane, "hour")
    assert hour.samples == 3


def test_a_part_of_the_sweep_that_fails_holds_up_no_other(plane: ControlPlane, gateway: Device) -> None:
    with plane.store.database:
        plane.store.database.execute("DROP TABLE telemetry_hours")
    plane.seal()
    plane.admin("PUT", "/v1/tenants/acme/audit/retention", {"days": 1})
    plane.now += 2 * 86_400
    assert plane.sweep().status == 500
    assert plane.admin("GET", "/v1/tenants/acme/audit/retention")["retired"] > 0


def test_a_sample_is_what_changed_since_the_one_before() -> None:
    timings = Timings()
    status = {"tunnels": [{"state": "established", "path": "direct"}], "policy_version": 4}
    watched = Telemetry(timings, {"tx_bytes": 100, "rx_bytes": 0, "drop_auth": 5}, 10.0)
    timings.handshakes.observe(0.25)
    with timings.decision("egress"):
        pass
    counters = {"tx_bytes": 700, "rx_bytes": 60, "drop_auth": 7, "drop_replay": 0}
    sample = watched.sample(status | {"counters": counters}, 70.0)
    assert (sample.relay, sample.direct, sample.tx_bytes_per_s, sample.rx_bytes_per_s) == (0, 1, 10.0, 1.0)
    assert sample.drops == {"auth": 2}
    assert (sample.decisions, sample.handshakes, sample.handshake_ms) == (1, 1, 250.0)
    again = watched.sample(status | {"counters": counters}, 130.0)
    assert (again.tx_bytes_per_s, again.drops, again.decisions, again.handshake_ms) == (0.0, {}, 0, 0.0)


def test_prometheus_reads_what_the_fabric_has_on_record(plane: ControlPlane, gateway: Device) -> None:
    plane.joined()
    plane.joined()
    call = Call("GET", "/v1/metrics", {"authorization": f"Bearer {ADMIN_TOKEN}"})
    answered = plane.send(call)
    assert (answered.status, answered.content_type) == (200, "text/plain; version=0.0.4")
    lines = answered.body.decode().splitlines()
    assert 'kairos_fabric_devices{tenant="acme",role="endpoint",status="active"} 2' in lines
    assert 'kairos_fabric_devices{tenant="acme",role="gateway",status="active"} 1' in lines
    assert plane.send(Call("GET", "/v1/metrics", {})).status == 401
