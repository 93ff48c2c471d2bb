"""What the Workers ask of the platform is counted where a measurement wants it, and only there."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from fabric_host import TENANT, FabricHost, running_fabric
from overlay import wait_for


def _usage(host: FabricHost) -> dict[str, int]:
    with urllib.request.urlopen(f"{host.operator.url}/local/usage", timeout=20) as answer:
        counts: dict[str, int] = json.loads(answer.read())
    return counts


def test_a_metered_fabric_counts_what_a_call_asks_of_the_platform(tmp_path: Path) -> None:
    with running_fabric(tmp_path, meter=True) as host:
        before = _usage(host)
        host.tenant(TENANT)
        os.kill(host.fabric.group("control"), signal.SIGUSR2)  # the cron's turn is now: a message for each tenant
        wait_for("the sweep's message", lambda: _usage(host)["queue_sent"] > before["queue_sent"], 60)
        host.sweep(TENANT)
        after = _usage(host)
        grown = {name: after[name] - before[name] for name in after}
    for name in ("d1_queries", "d1_rows_written", "object_rows_written", "queue_sent", "queue_bytes", "d1_bytes"):
        assert grown[name] > 0, name
    assert grown["worker_calls"] >= 3
    assert grown["objects"] == 1


def test_no_other_fabric_answers_what_it_was_asked(tmp_path: Path) -> None:
    with running_fabric(tmp_path) as host:
        with pytest.raises(urllib.error.HTTPError) as refused:
            _usage(host)
        with refused.value as answer:
            assert answer.code == 404
