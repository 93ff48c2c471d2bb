"""Telemetry at the fabric: the newest of each node, for an hour, in bounded room."""

from __future__ import annotations

import pytest

from control_plane import ADMIN_TOKEN, ControlPlane, Device
from kairos.api.admin import Page
from kairos.api.problem import ProblemError
from kairos.api.telemetry import Sample
from kairos_control.http import Call
from kairos_node.metrics import Timings
from kairos_node.telemetry import Telemetry

SAMPLE = Sample(1, 2, 1000.0, 2000.0, {"auth": 3}, 7, 0.2, 1, 12.5, 4, "0.1.0")


def shown(plane: ControlPlane) -> list[tuple[str, int, int]]:
    page: Page = plane.admin("GET", "/v1/tenants/acme/telemetry", None, Page)
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


def test_a_sample_that_is_a_burden_is_refused(plane: ControlPlane, gateway: Device) -> None:
    burden = {f"drop{number}": number for number in range(2000)}
    with pytest.RaisesExc(ProblemError, check=lambda error: error.code == "invalid"):
        plane.node(gateway, "POST", "/telemetry", Sample(0, 0, 0.0, 0.0, burden, 0, 0.0, 0, 0.0, 0, "x"))
    assert shown(plane) == []


def test_a_sample_is_what_changed_since_the_one_before() -> None:
    timings = Timings()
    status = {"tunnels": [{"state": "established", "path": "direct"}], "policy_version": 4}
    telemetry = Telemetry(timings, {"tx_bytes": 100, "rx_bytes": 0, "drop_auth": 5}, 10.0)
    timings.handshakes.observe(0.25)
    with timings.decision("egress"):
        pass
    counters = {"tx_bytes": 700, "rx_bytes": 60, "drop_auth": 7, "drop_replay": 0}
    sample = telemetry.sample(status | {"counters": counters}, 70.0)
    assert (sample.relay, sample.direct, sample.tx_bytes_per_s, sample.rx_bytes_per_s) == (0, 1, 10.0, 1.0)
    assert sample.drops == {"auth": 2}
    assert (sample.decisions, sample.handshakes, sample.handshake_ms) == (1, 1, 250.0)
    again = telemetry.sample(status | {"counters": counters}, 130.0)
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
