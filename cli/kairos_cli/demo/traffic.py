"""What the demo sends through its network, and what it saw."""

from __future__ import annotations

import json
from typing import Any

from kairos_cli.demo.hosts import DemoError, Host


def probe(host: Host, python: str, *question: str, timeout: float = 30) -> dict[str, Any]:
    """One question of kairos_cli.demo.probe, asked on `host`."""
    done = host.run(python, "-m", "kairos_cli.demo.probe", *question, timeout=timeout)
    if done.returncode:
        raise DemoError(f"probe {' '.join(question)}: {done.stderr.strip().splitlines()[-1:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def iperf3(host: Host, server: str, seconds: int, *options: str) -> float:
    """Mbit/s that `server` received of one TCP stream."""
    done = host.run("iperf3", "-J", "-c", server, "-t", str(seconds), *options, timeout=seconds + 30)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise DemoError(f"iperf3 to {server}: {done.stderr.strip() or done.stdout.strip() or 'no word'}") from None
    if "error" in report:
        raise DemoError(f"iperf3 to {server}: {report['error']}")
    received: float = report["end"]["sum_received"]["bits_per_second"]
    return received / 1e6
