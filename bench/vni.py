"""A thousand VNIs on one gateway, and what happens in one VNI while another comes, goes or loses a member.

Two fabrics stand side by side, each with a gateway and two endpoints in network namespaces: one with the two VNIs of the endpoints,
one with a thousand. Throughput is measured on both in turn: from endpoint to endpoint, which the gateway turns around in C,
and from an endpoint to a host behind the gateway, which its kernel routes. Start is from the exec of the gateway's daemon to its own
word that all VNIs are there.

For changes, alice pings the gateway in one VNI 50 times a second while she is taken out of another, and while VNIs are made and
deleted. Last packets are those that the kernel saw on the TUNs, at her host and at the gateway.
"""

from __future__ import annotations

import json
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.link import running
from bench.rounds import Rounds
from bench.sniffer import Sniffer
from overlay import TENANT, WEB, Host, Overlay, running_overlay, wait_for

_MANY, _QUICK_MANY = 1_000, 50
_TIMES, _QUICK_TIMES = 12, 3  # removals a round
_CHANGES, _QUICK_CHANGES = 4, 1  # VNIs made and deleted a round
_IPERF_S, _QUICK_IPERF_S = 4, 1
_PORT = 8080  # that the overlay's policy allows
_PING_S = 0.02
_QUIET_S = 0.2  # no packet for so long, 10 of them missing, and it was the last
_SETTLE_S = 120.0
_VAULT = {"name": "vault", "prefixes": ["10.9.0.0/24"]}
_AT_VAULT = "10.9.0.1"  # the gateway
_ICMP = 1


def main() -> None:
    rounds = Rounds("vni", __doc__ or "")
    many = _QUICK_MANY if rounds.quick else _MANY
    with (
        tempfile.TemporaryDirectory() as folder,
        running_overlay(Path(folder, "few")) as few,
        running_overlay(Path(folder, "many")) as crowded,
    ):
        rounds.say(f"making {many} VNIs")
        _make_vnis(crowded, many)
        few.up(*few.hosts)
        for number in rounds:
            _measure_start(rounds, crowded, many)
            if number == 1:
                crowded.up(crowded.alice, crowded.bob)
            _measure_throughput(rounds, few, crowded)
            rounds.add("vni_kb", (_resident_kb(crowded.gateway) - _resident_kb(few.gateway)) / many, "kB resident")
            _measure_removals(rounds, crowded)
            _measure_changes(rounds, crowded)
        crowded.gateway.config.write_text('isolate = "netns"\n')
        crowded.gateway.stop()
        rounds.add("vni1000_netns_start_s", _started(crowded, many), "s, each VNI in a namespace of its own")
        crowded.gateway.stop()  # not killed: it takes its namespaces' names along
    rounds.finish()


def _make_vnis(overlay: Overlay, count: int) -> None:
    for number in range(count):
        prefixes = [f"10.{128 + (number >> 8)}.{number & 255}.0/24", f"fd80:{number:x}::/64"]
        overlay.fabric.admin("POST", f"/{TENANT}/vnis", {"name": f"vni-{number}", "prefixes": prefixes})
    overlay.fabric.admin("POST", f"/{TENANT}/vnis", _VAULT)


# -- a thousand ----------------------------------------------------------------------------------------------------------


def _measure_start(rounds: Rounds, overlay: Overlay, many: int) -> None:
    if overlay.gateway.running:
        began = time.monotonic()
        overlay.gateway.stop()
        rounds.add("vni1000_stop_s", time.monotonic() - began, "s")
    rounds.add("vni1000_start_s", _started(overlay, many), "s")


def _started(overlay: Overlay, many: int) -> float:
    """Seconds from the start of the gateway until it serves all its VNIs."""
    began = time.monotonic()
    overlay.gateway.start()
    wait_for("all VNIs", lambda: len(overlay.gateway.status().get("vnis", ())) >= many + 3, _SETTLE_S)
    return time.monotonic() - began


def _measure_throughput(rounds: Rounds, few: Overlay, crowded: Overlay) -> None:
    seconds = _QUICK_IPERF_S if rounds.quick else _IPERF_S
    for name, behind in (("vni1000_tcp1", False), ("vni1000_outside_tcp1", True)):
        base, among = (_gbit(overlay, behind, seconds) for overlay in (few, crowded))
        rounds.add(f"{name}_gbit", among, "Gbit/s")
        rounds.add(f"{name}_ratio", among / base, "of the gateway with few VNIs")


def _gbit(overlay: Overlay, behind: bool, seconds: int) -> float:
    """One TCP stream on a direct path, to bob or to the host behind the gateway."""
    wait_for("direct paths", lambda: _is_direct(overlay.alice) and _is_direct(overlay.bob), _SETTLE_S)
    namespace = overlay.gateway.namespace.replace("gateway", "web") if behind else overlay.bob.namespace
    target = WEB if behind else overlay.address_of(overlay.bob)
    with running(namespace, "iperf3", "-s", "-p", str(_PORT)):
        wait_for("the way there", lambda: _iperf3(overlay.alice, target, 1), _SETTLE_S)
        return float(wait_for("a stream", lambda: _iperf3(overlay.alice, target, seconds), _SETTLE_S))


def _iperf3(host: Host, target: str, seconds: int) -> float:
    """Gbit/s that the other end received; 0: it did not come to its end."""
    done = host.run("iperf3", "-J", "-c", target, "-p", str(_PORT), "-t", str(seconds), "--connect-timeout", "2000")
    report: dict[str, Any] = json.loads(done.stdout or "{}")
    if done.returncode or "error" in report:
        return 0.0
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


def _is_direct(host: Host) -> bool:
    return bool(host.tunnel().get("path") == "direct")


def _resident_kb(host: Host) -> int:
    status = Path(f"/proc/{host.status()['pid']}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])


# -- changes -------------------------------------------------------------------------------------------------------------


@dataclass
class Stream:
    """Pings of alice's, 50 a second, and what is missing of their answers."""

    process: subprocess.Popen[str]
    lost: int = 0


@contextmanager
def _pinging(host: Host, target: str) -> Iterator[Stream]:
    """Answers in their order: what is missing before the last that came is lost."""
    command = ("ip", "netns", "exec", host.namespace, "ping", "-i", str(_PING_S), target)
    stream = Stream(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
    try:
        yield stream
    finally:
        stream.process.send_signal(signal.SIGINT)
        shown, _ = stream.process.communicate()
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", shown)}
        stream.lost = max(answered) - min(answered) + 1 - len(answered) if answered else 1


def _measure_removals(rounds: Rounds, overlay: Overlay) -> None:
    """The bystander is alice's stream in another VNI, over the same tunnel."""
    with _pinging(overlay.alice, overlay.address_of(overlay.gateway)) as bystander:
        times = [_removed(overlay) for _ in range(_QUICK_TIMES if rounds.quick else _TIMES)]
    rounds.add("membership_removal_p50_ms", statistics.median(times), "ms")
    rounds.add("membership_removal_p99_ms", max(times), "ms")
    rounds.add("membership_bystander_lost_packets", bystander.lost, "packets")


def _removed(overlay: Overlay) -> float:
    """Milliseconds from the request that takes alice out of the vault to the last packet there, at her host and the gateway."""
    alice, member = overlay.alice, f"/{TENANT}/vnis/vault/members/{overlay.alice.node}"
    overlay.fabric.admin("PUT", member, {})
    wait_for("traffic in the vault", lambda: alice.reaches(_AT_VAULT), _SETTLE_S)
    own = _vault(alice)["addresses"][0].split("/")[0]
    at_alice = Sniffer(alice.namespace, _vault(alice)["interface"], _is_icmp)
    at_gateway = Sniffer(overlay.gateway.namespace, _vault(overlay.gateway)["interface"], _is_icmp)

    def last() -> float:
        return max(at_alice.last(_AT_VAULT), at_gateway.last(own))

    with _pinging(alice, _AT_VAULT):
        wait_for("pings at both ends", lambda: at_alice.last(_AT_VAULT) and at_gateway.last(own))
        began = time.time()
        overlay.fabric.admin("DELETE", member)
        wait_for("silence", lambda: last() < time.time() - _QUIET_S and not _has_vault(alice), _SETTLE_S)
    at_alice.close()
    at_gateway.close()
    return max(0.0, last() - began) * 1e3


def _measure_changes(rounds: Rounds, overlay: Overlay) -> None:
    with _pinging(overlay.alice, overlay.address_of(overlay.gateway)) as bystander:
        for _ in range(_QUICK_CHANGES if rounds.quick else _CHANGES):
            overlay.fabric.admin("POST", f"/{TENANT}/vnis", {"name": "brief", "prefixes": ["10.10.0.0/24"]})
            wait_for("a VNI more", lambda: "brief" in _names(overlay.gateway), _SETTLE_S)
            overlay.fabric.admin("DELETE", f"/{TENANT}/vnis/brief")
            wait_for("a VNI less", lambda: "brief" not in _names(overlay.gateway), _SETTLE_S)
    rounds.add("vni_change_lost_packets", bystander.lost, "packets")


def _names(host: Host) -> set[str]:
    return {vni["name"] for vni in host.status()["vnis"]}


def _vault(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = next(vni for vni in host.status()["vnis"] if vni["name"] == "vault")
    return found


def _has_vault(host: Host) -> bool:
    return "vault" in _names(host)


def _is_icmp(packet: bytes) -> bool:
    return packet[9] == _ICMP


if __name__ == "__main__":
    main()
