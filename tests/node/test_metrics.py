"""What Prometheus reads: the exposition format, on loopback alone."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any

import pytest

from kairos.errors import Refused
from kairos_node.metrics import Histogram, MetricsServer, Timings, exposition

STATUS = {
    "node": "ep-a",
    "role": "endpoint",
    "tenant": "acme",
    "suite": "KR1",
    "connected": True,
    "clock_ahead_s": 1,
    "policy_version": 3,
    "certificate_ends": 1_800_000_000,
    "audit_waiting": 12,
    "audit_lost": {"flow.denied": 7},
    "unwritten": ["network.json"],
    "tunnels": [{"state": "established", "path": "direct"}, {"state": "closed", "path": "relay"}],
    "counters": {"tx_packets": 7, "drop_auth": 2},
}
LINE = re.compile(r'(# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"\n]*",?)*\})? [0-9.e+-]+)')


def test_every_line_is_of_the_format_and_names_what_is_known() -> None:
    timings = Timings()
    with timings.decision("egress"):
        pass
    lines = exposition(STATUS, timings).splitlines()
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert {
        "kairos_fabric_connected 1",
        'kairos_tunnels{path="direct"} 1',
        'kairos_tunnels{path="relay"} 0',
        'kairos_drops_total{reason="auth"} 2',
        "kairos_tx_packets_total 7",
        "kairos_audit_waiting 12",
        'kairos_audit_lost_total{kind="flow.denied"} 7',
        "kairos_unwritten_files 1",
        'kairos_decision_seconds_count{point="egress"} 1',
    } <= set(lines)


def test_buckets_are_cumulative() -> None:
    histogram = Histogram()
    for seconds in (0.0001, 0.002, 60.0):
        histogram.observe(seconds)
    samples = dict(line.rsplit(" ", 1) for line in histogram.samples("x", {}))
    assert samples['x_bucket{le="0.0001"}'] == "1"
    assert samples['x_bucket{le="0.0025"}'] == "2"
    assert samples['x_bucket{le="2.5"}'] == "2"
    assert samples['x_bucket{le="+Inf"}'] == samples["x_count"] == "3"


@pytest.mark.parametrize("at", ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "localhost", "127.0.0.1:", "x:1"])
def test_it_listens_on_loopback_only(at: str) -> None:
    async def never() -> str:
        raise AssertionError

    with pytest.raises(Refused, match="metrics = "):
        MetricsServer(at, never)


def test_it_answers_metrics_and_nothing_else() -> None:
    async def tell() -> str:
        return "up 1\n"

    async def story() -> None:
        async with MetricsServer("127.0.0.1:0", tell) as server:
            assert (await asked(server, b"GET /metrics HTTP/1.1")).endswith(b"\r\n\r\nup 1\n")
            assert (await asked(server, b"POST /metrics HTTP/1.1")).startswith(b"HTTP/1.1 404 ")
            assert (await asked(server, b"GET / HTTP/1.1")).startswith(b"HTTP/1.1 404 ")
            assert await asked(server, b"x" * 100_000) == b""

    run(story())


async def asked(server: MetricsServer, line: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(line + b"\r\nHost: x\r\n\r\n")
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)
