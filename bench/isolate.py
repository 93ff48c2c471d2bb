"""Isolation: from the command to the last packet at the endpoint, the gateway and the relay, with all endpoints under traffic.

A real fabric, a gateway and 20 endpoints, each in a network namespace, all of them pinging the gateway 50 times a second
through their tunnels; every second one through the relay, the others on the direct path. One after the other is isolated
by the command as typed, and released again. The last packets are those that the kernel saw: at the endpoint what it
received from the gateway on its tunnel's interface, at the gateway what it took out of the tunnel, at the relay what the
endpoint's connection still brought.

The same by posture failure: a check of the device's configuration begins to fail, the device looks (it does so by itself
every few seconds), and a rule of the policy isolates it.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.link import running
from bench.rounds import Rounds
from bench.sniffer import Sniffer
from kairos.errors import Refused
from kairos_cli.main import main as kairos
from overlay import GRANTS, TENANT, Host, Overlay, running_overlay, wait_for

_ENDPOINTS, _QUICK_ENDPOINTS = 20, 4
_TIMES, _QUICK_TIMES = 34, 10  # a round; three rounds make a hundred
_PING_S = 0.02
_RULE = {"id": "lamp", "require": {"check.lamp": True}, "reports": 1, "reason": "the lamp is out"}
_QUIET_S = 0.2  # no packet for so long, 10 of them missing, and it was the last
_ICMP, _TCP = 1, 6


class Endpoint:
    """address: in the VNI; underlay: what the relay sees."""

    def __init__(self, host: Host, address: str, interface: str, underlay: str) -> None:
        self.host, self.address, self.underlay = host, address, underlay
        self.lamp = lamp_of(host)
        self.sniffer = Sniffer(host.namespace, interface, _answers)


def lamp_of(host: Host) -> Path:
    """The device's posture is good while this is there."""
    return host.state.directory.parent / f"lamp-{host.name}"


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

    def fail_posture(self, endpoint: Endpoint) -> tuple[dict[str, float], int]:
        """The same, from the device's look at itself."""
        self.await_traffic(endpoint)
        endpoint.lamp.unlink()
        began = time.time()
        self._look(endpoint)
        last = self._silence(endpoint, began)
        missing = len(self._command("isolate", endpoint)["missing"])  # it is isolated: this asks for the receipts alone
        endpoint.lamp.touch()
        self._look(endpoint)  # what it brings along when it comes back
        return last, missing

    def _look(self, endpoint: Endpoint) -> None:
        with contextlib.suppress(Refused):  # it has looked, and is isolated already
            endpoint.host.tell("posture")

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
            missing = _measure(rounds, bench, "isolate", bench.isolate, times)
            missing += _measure(rounds, bench, "isolate_posture", bench.fail_posture, times)
            rounds.add("receipts_missing", missing, "receipts")
    rounds.finish()


def _measure(
    rounds: Rounds, bench: Bench, name: str, cut: Callable[[Endpoint], tuple[dict[str, float], int]], times: int
) -> int:
    """So many isolations, one endpoint after the other; how many receipts were missing."""
    taken: list[dict[str, float]] = []
    missing = 0
    for number in range(times):
        endpoint = bench.endpoints[number % len(bench.endpoints)]
        last, without = cut(endpoint)
        bench.release(endpoint)
        taken.append(last)
        missing += without
    everywhere = [max(each.values()) for each in taken]
    rounds.add(f"{name}_p50_ms", statistics.median(everywhere), "ms")
    rounds.add(f"{name}_p99_ms", _p99(everywhere), "ms")
    for place in ("endpoint", "gateway", "relay"):
        rounds.add(f"{name}_{place}_p50_ms", statistics.median(each[place] for each in taken), "ms")
    return missing


def _p99(values: list[float]) -> float:
    """With fewer than a hundred values: the highest."""
    ordered = sorted(values)
    return ordered[-(-99 * len(ordered) // 100) - 1]


@contextmanager
def _running(folder: Path, count: int) -> Iterator[Bench]:
    """The overlay with its traffic."""
    others = tuple(f"e{number}" for number in range(count - 2))
    folder.chmod(0o711)  # checks run as nobody
    with ExitStack() as stack:
        overlay = stack.enter_context(running_overlay(folder, others=others))
        hosts = [overlay.alice, overlay.bob, *overlay.others]
        for host in hosts:
            lamp_of(host).touch()
            host.config.write_text(
                f'[[posture.check]]\nname = "lamp"\ncommand = ["test", "-e", "{lamp_of(host)}"]\ntimeout_s = 10\n'
            )
        overlay.push_policy(GRANTS | {"isolation": [_RULE]})
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


def _pinging(host: Host, address: str) -> AbstractContextManager[int]:
    return running(host.namespace, "ping", "-q", "-i", str(_PING_S), address)


if __name__ == "__main__":
    main()
