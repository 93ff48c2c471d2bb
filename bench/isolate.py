"""Isolation: from the command to the last packet at the endpoint, the gateway and the relay, with all endpoints under traffic.

A real fabric, a gateway and 20 endpoints, each in a network namespace, all of them pinging the gateway 50 times a second
through their tunnels; every second one through the relay, the others on the direct path. One after the other is isolated
by the command as typed, and released again. The last packets are those that the kernel saw: at the endpoint what it
received from the gateway on its tunnel's interface, at the gateway what it took out of the tunnel, at the relay what the
endpoint's connection still brought.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.rounds import Rounds
from bench.sniffer import Sniffer
from kairos_cli.main import main as kairos
from overlay import TENANT, Host, Overlay, running_overlay, wait_for

_ENDPOINTS, _QUICK_ENDPOINTS = 20, 4
_TIMES, _QUICK_TIMES = 34, 10  # a round; three rounds make a hundred
_PING_S = 0.02
_QUIET_S = 0.3  # no packet for so long, 15 of them missing, and it was the last
_ICMP, _TCP = 1, 6


class Endpoint:
    """address: in the VNI; underlay: what the relay sees."""

    def __init__(self, host: Host, address: str, interface: str, underlay: str) -> None:
        self.host, self.address, self.underlay = host, address, underlay
        self.sniffer = Sniffer(host.namespace, interface, _answers)


class Bench:
    def __init__(self, overlay: Overlay, endpoints: list[Endpoint], gateway: Sniffer, relay: Sniffer) -> None:
        self._overlay, self._gateway, self._relay = overlay, gateway, relay
        self._at_gateway = overlay.address_of(overlay.gateway)
        self.endpoints = endpoints

    def isolate(self, endpoint: Endpoint) -> tuple[dict[str, float], int]:
        """Milliseconds from the command to the last packet by place, and how many receipts are missing or not valid."""
        self.await_traffic(endpoint)
        began = time.time()
        missing = len(self._command("isolate", endpoint)["missing"])
        return self._silence(endpoint, began), missing

    def release(self, endpoint: Endpoint) -> None:
        self._command("release", endpoint)

    def await_traffic(self, endpoint: Endpoint) -> None:
        """It pings, and the answers arrive."""
        began = time.time()
        wait_for(f"traffic of {endpoint.host.name}", lambda: endpoint.sniffer.last(self._at_gateway) > began, 60)

    def _silence(self, endpoint: Endpoint, began: float) -> dict[str, float]:
        """When the last packet was at each place, once there are no more."""

        def places() -> dict[str, float]:
            return {
                "endpoint": endpoint.sniffer.last(self._at_gateway),
                "gateway": self._gateway.last(endpoint.address),
                "relay": self._relay.last(endpoint.underlay),
            }

        wait_for("silence", lambda: max(places().values()) < time.time() - _QUIET_S)
        return {place: max(0.0, at - began) * 1e3 for place, at in places().items()}

    def _command(self, verb: str, endpoint: Endpoint) -> dict[str, Any]:
        folder = str(self._overlay.folder / "fabric")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            kairos((verb, endpoint.host.node, "--reason", "bench", "--tenant", TENANT, "--dir", folder, "--json"))
        document: dict[str, Any] = json.loads(printed.getvalue())
        return document


def main() -> None:
    rounds = Rounds("isolate", __doc__)
    count, times = (_QUICK_ENDPOINTS, _QUICK_TIMES) if rounds.quick else (_ENDPOINTS, _TIMES)
    with tempfile.TemporaryDirectory() as folder, _running(Path(folder), count) as bench:
        for _ in rounds:
            taken: list[dict[str, float]] = []
            missing = 0
            for number in range(times):
                endpoint = bench.endpoints[number % count]
                last, without = bench.isolate(endpoint)
                bench.release(endpoint)
                taken.append(last)
                missing += without
            _add(rounds, taken, missing)
    rounds.finish()


def _add(rounds: Rounds, taken: list[dict[str, float]], missing: int) -> None:
    everywhere = [max(each.values()) for each in taken]
    rounds.add("isolate_p50_ms", statistics.median(everywhere), "ms")
    rounds.add("isolate_p99_ms", _p99(everywhere), "ms")
    for place in ("endpoint", "gateway", "relay"):
        rounds.add(f"isolate_{place}_p50_ms", statistics.median(each[place] for each in taken), "ms")
    rounds.add("receipts_missing", missing, "receipts")


def _p99(values: list[float]) -> float:
    """With fewer than a hundred values: the highest."""
    ordered = sorted(values)
    return ordered[-(-99 * len(ordered) // 100) - 1]


@contextmanager
def _running(folder: Path, count: int) -> Iterator[Bench]:
    """The overlay with its traffic."""
    others = tuple(f"e{number}" for number in range(count - 2))
    with ExitStack() as stack:
        overlay = stack.enter_context(running_overlay(folder, others=others))
        hosts = [overlay.alice, overlay.bob, *overlay.others]
        overlay.up(overlay.gateway, *hosts)
        relay_port = overlay.fabric.fabric.port + 1
        gateway = Sniffer(overlay.gateway.namespace, _interface(overlay.gateway), _asks)
        relay = Sniffer("", overlay.bridge, lambda packet: _carries(packet, relay_port))
        endpoints = [_endpoint(overlay, host) for host in hosts]
        for sniffer in (gateway, relay, *(each.sniffer for each in endpoints)):
            stack.callback(sniffer.close)
        for number, endpoint in enumerate(endpoints):
            endpoint.host.tell("path", mode=("relay", "auto")[number % 2])
            stack.enter_context(_pinging(endpoint.host, overlay.address_of(overlay.gateway)))
        yield Bench(overlay, endpoints, gateway, relay)


def _endpoint(overlay: Overlay, host: Host) -> Endpoint:
    shown = json.loads(host.run("ip", "-j", "-4", "addr", "show", "dev", "eth0").stdout)
    underlay = shown[0]["addr_info"][0]["local"]
    return Endpoint(host, overlay.address_of(host), _interface(host), underlay)


def _interface(host: Host) -> str:
    """Of the VNI that `address_of` speaks of: the first lease."""
    network = host.state.network
    assert network is not None
    vni = next(lease.vni for lease in network.leases if lease.node == host.node)
    name: str = next(each["interface"] for each in host.status()["vnis"] if each["vni"] == vni)
    return name


def _asks(packet: bytes) -> bool:
    """An echo request that came through the tunnel."""
    return packet[9] == _ICMP and packet[20] == 8


def _answers(packet: bytes) -> bool:
    """An echo reply; what the endpoint's own data plane says of a packet that it refused is none."""
    return packet[9] == _ICMP and packet[20] == 0


def _carries(packet: bytes, port: int) -> bool:
    """A TCP segment with data, to this port."""
    header = (packet[0] & 15) * 4
    if packet[9] != _TCP or len(packet) < header + 20:
        return False
    total = int.from_bytes(packet[2:4])
    data = total - header - (packet[header + 12] >> 4) * 4
    return data > 0 and int.from_bytes(packet[header + 2 : header + 4]) == port


@contextmanager
def _pinging(host: Host, address: str) -> Iterator[None]:
    command = ("ip", "netns", "exec", host.namespace, "ping", "-q", "-i", str(_PING_S), address)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
