"""The traffic that every link is measured with: iperf3, ping, many connections, and an underlay that loses or delays."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.link import Link, running, wait_for
from two_hosts import sh

_UDP_STEP, _UDP_FINEST, _UDP_LOSS_PCT = 1.25, 1.03, 1.0
_UDP_FROM_PPS = 20_000.0
_UDP_LEAST_PPS = 1_000.0
_BUFFER_DEFAULT = Path("/proc/sys/net/core/rmem_default")
_BUFFER = 4 << 20
_TRIES = 40
_LOADED_PINGS, _PING_GAP_S = 100, 0.015
_ROOT = Path(__file__).parents[1]


@contextmanager
def iperf_server(link: Link) -> Iterator[None]:
    server = link.start_on_b("iperf3 -s")
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def _iperf(link: Link, options: str) -> dict[str, Any]:
    """The `end` of iperf3's report. The server may still be busy with its start or with the last client."""
    for _ in range(_TRIES):
        run = link.on_a(f"iperf3 -J -c {link.address} {options}")
        report: dict[str, Any] = json.loads(run.stdout or "{}")
        if "error" not in report and report.get("end", {}).get("sum_received" if "-u" not in options else "sum"):
            return dict(report["end"])
        link.on_a("sleep 0.1")
    raise RuntimeError(f"iperf3 {options}: {report.get('error', run.stderr)}")


def tcp_gbit(link: Link, seconds: int, options: str = "") -> float:
    """Received, both directions added up where the options ask for both."""
    end = _iperf(link, f"-t {seconds} {options}")
    back = end.get("sum_received_bidir_reverse", {}).get("bits_per_second", 0.0)
    return float(end["sum_received"]["bits_per_second"] + back) / 1e9


def tcp_with_cost(link: Link, seconds: int) -> tuple[float, tuple[float, float]]:
    """One flow in Gbit/s, and the CPU seconds a gigabyte costs the tunnel at a and at b."""
    before = link.cpu_s()
    end = _iperf(link, f"-t {seconds}")
    after = link.cpu_s()
    gigabytes = float(end["sum_received"]["bytes"]) / 1e9
    rate = float(end["sum_received"]["bits_per_second"]) / 1e9
    return rate, ((after[0] - before[0]) / gigabytes, (after[1] - before[1]) / gigabytes)


def udp_kpps(link: Link, size: int, known_kpps: float = 0.0) -> float:
    """Thousand datagrams a second: the highest rate that loses less than one percent, or what the sender could make.

    The rate climbs until it fails, then by ever smaller steps. known_kpps: what was found before, to begin near it."""
    with _roomy_receiver():
        return _highest_rate(link, size, known_kpps)


@contextmanager
def _roomy_receiver() -> Iterator[None]:
    """The kernel's own 208 KiB hold a millisecond of such traffic: what is then lost tells how often the receiving program is
    not on a core, not what the tunnel can do. The tunnels' sockets are open already and keep what they have."""
    before = _BUFFER_DEFAULT.read_text()
    _BUFFER_DEFAULT.write_text(str(_BUFFER))
    try:
        yield
    finally:
        _BUFFER_DEFAULT.write_text(before)


def _highest_rate(link: Link, size: int, known_kpps: float) -> float:
    rate, step, best = _UDP_FROM_PPS, _UDP_STEP, 0.0
    if known_kpps:
        step **= 0.5
        rate = known_kpps * 1e3 / step
    while step > _UDP_FINEST and rate > _UDP_LEAST_PPS:
        end = _iperf(link, f"-u -l {size} -b {rate * size * 8:.0f} -t 1")["sum"]
        reached = float(end["packets"]) / float(end["seconds"])
        if float(end["lost_percent"]) < _UDP_LOSS_PCT:
            best = max(best, reached)
            if reached < 0.9 * rate:
                break
        elif best:
            rate /= step
            step **= 0.5
        else:  # began too high
            rate /= step**2
        rate *= step
    return best / 1e3


def ping_ms(link: Link, count: int = 100, gap_s: float = 0.005) -> float:
    """Average round trip."""
    run = link.on_a(f"ping -q -c {count} -i {gap_s} {link.address}")
    return float(run.stdout.rsplit("/", 3)[1]) if "avg" in run.stdout else float("inf")


def loaded_ping_ms(link: Link) -> float:
    """Average round trip beside one TCP flow from a to b that takes all it can get."""
    load = f"ip netns exec {link.a} iperf3 -c {link.address} -t {math.ceil(_LOADED_PINGS * _PING_GAP_S)}"
    for _ in range(_TRIES):
        with subprocess.Popen(load.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as flow:
            average = ping_ms(link, _LOADED_PINGS, _PING_GAP_S)
        if flow.returncode == 0:  # else the server was busy with the last client
            return average
    raise RuntimeError("no TCP flow to ping beside")


def transfers_gbit(link: Link, connections: int, seconds: int) -> float:
    """64 KiB at a time over so many open TCP connections in turn (bench/programs/transfers.py)."""
    program = f"{sys.executable} -m bench.programs.transfers"
    with running(link.b, *program.split(), "server"):
        wait_for(lambda: _listening(link.b, 5300), "the server of transfers did not come up")
        done = link.on_a(f"{program} client {link.address} {connections} {seconds}", timeout=seconds + 60)
    if done.returncode != 0:
        raise RuntimeError(f"transfers: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout) * 8 / 1e9


def _listening(namespace: str, port: int) -> bool:
    return bool(sh(f"ip netns exec {namespace} ss -Hltn sport = :{port}").stdout.strip())


@contextmanager
def lossy(link: Link, per_mille: int) -> Iterator[None]:
    """Datagrams under the tunnel are lost in both directions, each on its own: without offloads on the veth, which would carry
    many in one."""
    rule = "add table inet lossy; add chain inet lossy in { type filter hook input priority 0; };"
    rule += f" add rule inet lossy in meta l4proto udp numgen random mod 1000 < {per_mille} drop"
    try:
        for name in (link.a, link.b):
            sh(f"ip netns exec {name} ethtool -K {link.veth} tx off")
            sh(f"ip netns exec {name} nft '{rule}'")
        yield
    finally:
        for name in (link.a, link.b):
            sh(f"ip netns exec {name} nft delete table inet lossy", check=False)
            sh(f"ip netns exec {name} ethtool -K {link.veth} tx on", check=False)


@contextmanager
def late(link: Link, milliseconds: int) -> Iterator[None]:
    """What a sends under the tunnel reaches b so much later (bench/programs/late.py). Inside `lossy`, for it takes the
    offloads away."""
    try:
        with running(link.b, sys.executable, "-m", "bench.programs.late", link.veth, str(milliseconds)):
            wait_for(lambda: _has_table(link.b, "late0"), "the delay did not come up")
            yield
    finally:
        sh(f"ip netns exec {link.b} nft delete table inet late0", check=False)


def _has_table(namespace: str, name: str) -> bool:
    return "iifname" in sh(f"ip netns exec {namespace} nft list table inet {name}", check=False).stdout
