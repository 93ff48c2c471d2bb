"""Failover: how long two endpoints do not hear each other when the gateway that carries their VNI is killed.

A real fabric, two gateways and two endpoints, each in a network namespace. Alice pings bob 50 times a second over direct
paths; the gateway in use gets SIGKILL; the gap is the longest time between two answers. Then the gateway is started again,
and the next kill waits until both tunnels of both endpoints are direct.
"""

from __future__ import annotations

import itertools
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench.rounds import Rounds
from overlay import Host, Overlay, running_overlay, wait_for

_KILLS, _QUICK_KILLS = 7, 2  # a round; three rounds make twenty-one
_SETTLE_S = 60.0
_BEFORE, _AFTER = 50, 100  # answers to have before the kill, and in all after it


def main() -> None:
    rounds = Rounds("failover", __doc__ or "")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_overlay(Path(folder), others=("gateway2",)) as overlay,
    ):
        gateways = [overlay.gateway, *overlay.others]
        overlay.up(*gateways, overlay.alice, overlay.bob)
        for _ in rounds:
            gaps = [_killed(overlay, gateways) for _ in range(_QUICK_KILLS if rounds.quick else _KILLS)]
            rounds.add("failover_gap_p50_ms", statistics.median(gaps), "ms")
            rounds.add("failover_gap_p95_ms", max(gaps), "ms")
    rounds.finish()


def _killed(overlay: Overlay, gateways: list[Host]) -> float:
    """One kill; the gap in ms."""
    alice, bob = overlay.alice, overlay.bob
    wait_for("direct paths", lambda: _direct(alice) == _direct(bob) == len(gateways), _SETTLE_S)
    wait_for("one gateway for both", lambda: _carrier(alice) == _carrier(bob), _SETTLE_S)
    victim = next(gateway for gateway in gateways if gateway.node == _carrier(alice))
    ping = subprocess.Popen(
        ("ip", "netns", "exec", alice.namespace, "ping", "-D", "-i", "0.02", overlay.address_of(bob)),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        times = _answers(ping, _BEFORE)
        victim.kill()
        times += _answers(ping, _AFTER)
    finally:
        ping.kill()
        ping.wait()
        victim.start()
    return max(later - earlier for earlier, later in itertools.pairwise(times)) * 1000


def _answers(ping: subprocess.Popen[str], count: int) -> list[float]:
    """When the next answers came, Unix seconds."""
    assert ping.stdout is not None
    found: list[float] = []
    while len(found) < count:
        line = ping.stdout.readline()
        if not line:
            raise RuntimeError("ping ended")
        found += [float(at) for at in re.findall(r"^\[([\d.]+)\] .*bytes from", line)]
    return found


def _tunnels(host: Host) -> list[dict[str, object]]:
    return [each for each in host.status().get("tunnels", ()) if each["state"] == "established" and each["well"]]


def _direct(host: Host) -> int:
    return sum(each["path"] == "direct" for each in _tunnels(host))


def _carrier(host: Host) -> str:
    return next((str(each["peer"]) for each in _tunnels(host) if each["carries"]), "")


if __name__ == "__main__":
    main()
