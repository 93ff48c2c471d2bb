"""The data plane beside its peers: throughput, small packets, latency, loss and CPU, in network namespaces of one host.

Rows: the bare veth pair, wireguard-go, nebula, and two C engines joined by direct UDP, with ipsec-mb and with OpenSSL. Every
round measures every case on every tunnel before the next begins. iperf3 runs on the same cores as the tunnels.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.peers import Link, kairos, nebula, raw, wireguard_go
from bench.rounds import Rounds

RAW, WIREGUARD, NEBULA, KAIROS, OPENSSL = "raw", "wireguard_go", "nebula", "kairos", "kairos_openssl"
_SECONDS, _QUICK_SECONDS = 4, 1
_UDP_STEP, _UDP_FINEST, _UDP_LOSS_PCT = 1.25, 1.03, 1.0
_UDP_FROM_PPS = 20_000


def main() -> None:
    rounds = Rounds("dataplane", __doc__)
    seconds = _QUICK_SECONDS if rounds.quick else _SECONDS
    with ExitStack() as stack:
        links = {
            RAW: stack.enter_context(raw()),
            WIREGUARD: stack.enter_context(wireguard_go()),
            NEBULA: stack.enter_context(nebula()),
            KAIROS: stack.enter_context(kairos("auto")),
            OPENSSL: stack.enter_context(kairos("openssl")),
        }
        for link in links.values():
            stack.enter_context(_server(link))
        for _ in rounds:
            measured = {name: _measure(rounds, name, link, seconds) for name, link in links.items()}
            for name, value, unit in _ratios(measured):
                rounds.add(name, value, unit)
    rounds.finish()


def _measure(rounds: Rounds, name: str, link: Link, seconds: int) -> dict[str, float]:
    cases: dict[str, tuple[Callable[[], float], str]] = {
        "tcp1_gbit": (lambda: _tcp(link, seconds), "Gbit/s"),
        "tcp4_gbit": (lambda: _tcp(link, seconds, "-P 4"), "Gbit/s"),
        "bidir_gbit": (lambda: _tcp(link, seconds, "--bidir"), "Gbit/s"),
        "udp1200_kpps": (lambda: _udp(link, 1200), "1000/s"),
        "udp64_kpps": (lambda: _udp(link, 64), "1000/s"),
        "ping_ms": (lambda: _ping(link), "ms"),
    }
    if name != RAW:
        cases["loss1pct_gbit"] = (lambda: _lossy(link, seconds), "Gbit/s")
        cases["cpu_s_a_gb"] = (lambda: _cpu(link, seconds), "CPU s/GB")
    measured = {}
    for case, (run, unit) in cases.items():
        measured[case] = run()
        rounds.add(f"{name}_{case}", measured[case], unit)
    return measured


def _ratios(measured: dict[str, dict[str, float]]) -> Iterator[tuple[str, float, str]]:
    """What the project promises, by the names of its acceptance."""
    ours, peer = measured[KAIROS], measured[WIREGUARD]
    yield "direct_tcp1_gbit", ours["tcp1_gbit"], "Gbit/s"
    yield "direct_tcp1_vs_wireguard_go", ours["tcp1_gbit"] / peer["tcp1_gbit"], "x"
    yield "tcp1_vs_wireguard_go", ours["tcp1_gbit"] / peer["tcp1_gbit"], "x"
    yield "tcp1_vs_raw", ours["tcp1_gbit"] / measured[RAW]["tcp1_gbit"], "x"
    yield "tcp4_vs_wireguard_go", ours["tcp4_gbit"] / peer["tcp4_gbit"], "x"
    yield "bidir_vs_wireguard_go", ours["bidir_gbit"] / peer["bidir_gbit"], "x"
    yield "tcp1_vs_nebula", ours["tcp1_gbit"] / measured[NEBULA]["tcp1_gbit"], "x"
    for case in ("udp1200", "udp64"):
        best = max(measured[name][f"{case}_kpps"] for name in (WIREGUARD, NEBULA))
        yield f"{case}_vs_best_peer", ours[f"{case}_kpps"] / best, "x"
    yield "ping_vs_wireguard_go", ours["ping_ms"] / peer["ping_ms"], "x"
    yield "loss1pct_vs_wireguard_go", ours["loss1pct_gbit"] / peer["loss1pct_gbit"], "x"
    yield "openssl_tcp1_vs_wireguard_go", measured[OPENSSL]["tcp1_gbit"] / peer["tcp1_gbit"], "x"


@contextmanager
def _server(link: Link) -> Iterator[None]:
    if shutil.which("iperf3") is None:
        raise SystemExit("bench dataplane: iperf3 makes the traffic: install it (apt install iperf3)")
    server = link.start_on_b("iperf3 -s")
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def _iperf(link: Link, options: str, seconds: int) -> dict[str, Any]:
    """The `end` of iperf3's report. The server may still be busy with its start or with the last client."""
    for _ in range(40):
        run = link.on_a(f"iperf3 -J -c {link.address} -t {seconds} {options}", timeout=seconds + 30)
        report: dict[str, Any] = json.loads(run.stdout or "{}")
        if "error" not in report and report.get("end", {}).get("sum_received" if "-u" not in options else "sum"):
            return dict(report["end"])
        link.on_a("sleep 0.1")
    raise RuntimeError(f"iperf3 {options}: {report.get('error', run.stderr)}")


def _tcp(link: Link, seconds: int, options: str = "") -> float:
    end = _iperf(link, options, seconds)
    back = end.get("sum_received_bidir_reverse", {}).get("bits_per_second", 0.0)
    return float(end["sum_received"]["bits_per_second"] + back) / 1e9


def _cpu(link: Link, seconds: int) -> float:
    before = link.cpu_s()
    end = _iperf(link, "", seconds)
    return (link.cpu_s() - before) / (float(end["sum_received"]["bytes"]) / 1e9)


def _udp(link: Link, size: int) -> float:
    """Thousand packets a second of the highest rate that loses less than one percent, or what the sender could make. The
    rate climbs until it fails, then by ever smaller steps."""
    rate, step, best = float(_UDP_FROM_PPS), _UDP_STEP, 0.0
    while step > _UDP_FINEST:
        end = _iperf(link, f"-u -l {size} -b {rate * size * 8:.0f}", 1)["sum"]
        reached = float(end["packets"]) / float(end["seconds"])
        if float(end["lost_percent"]) < _UDP_LOSS_PCT:
            best = max(best, reached)
            if reached < 0.9 * rate:
                break
        else:
            rate /= step
            step **= 0.5
        rate *= step
    return best / 1e3


def _ping(link: Link) -> float:
    """Average round trip of an idle tunnel."""
    run = link.on_a(f"ping -q -c 100 -i 0.005 {link.address}")
    return float(run.stdout.rsplit("/", 3)[1]) if "avg" in run.stdout else float("inf")


def _lossy(link: Link, seconds: int) -> float:
    """One TCP flow while one percent of the datagrams under the tunnel is lost, each on its own."""
    rule = "add table inet lossy; add chain inet lossy in { type filter hook input priority 0; };"
    rule += " add rule inet lossy in meta l4proto udp numgen random mod 1000 < 10 drop"
    for name in (link.a, link.b):
        _in(name, f"ethtool -K {link.veth} tx-udp-segmentation off")
        _in(name, f"nft '{rule}'")
    try:
        return _tcp(link, seconds)
    finally:
        for name in (link.a, link.b):
            _in(name, "nft delete table inet lossy")
            _in(name, f"ethtool -K {link.veth} tx-udp-segmentation on")


def _in(namespace: str, command: str) -> None:
    subprocess.run(f"ip netns exec {namespace} {command}", shell=True, check=True, capture_output=True, timeout=20)


if __name__ == "__main__":
    main()
