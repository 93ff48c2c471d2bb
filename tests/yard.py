"""Two tenants' daemons on one network, and everything that arrives in any of their VNIs is looked at.

place alice: two rogue agents       place gateway: acme's     place bob: two honest agents
                                    place rival:  rival's
acme   office 10.7.0.0/24 fd07::/64   twin  10.7.0.0/24 fd07::/64
rival  office 10.7.0.0/24 fd07::/64   vault 10.8.0.0/24 fd08::/64      each agent is in both VNIs of its tenant
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import netns

from engine_rig import udp_packet
from kairos_node.crypto import provider_named
from kairos_node.enrollment import enroll
from kairos_node.namespace import Namespace
from overlay import GRANTS, TENANT, Host, Overlay, running_overlay, wait_for
from rogue_agent import SOCKET, order

RIVAL = "rival"
NAMES = ("acme/office", "acme/twin", "rival/office", "rival/vault")
PAIRS = list(itertools.permutations(NAMES, 2))
_ALL = {"id": "all", "from": ["*"], "to": ["*"], "ports": ["*"], "reason": "policy is not what holds here"}
_MARK = re.compile(rb"<(\d+) stays in its VNI>")
_ALL_PROTOCOLS = 3 << 8
_GATEWAY_PORT = 7843


def mark(vni: int) -> bytes:
    """A payload that says where it comes from."""
    return f"<{vni} stays in its VNI>".encode()


class Watch:
    """Sees every packet in some network namespaces."""

    def __init__(self, namespaces: list[str]) -> None:
        self._sockets = [_packet_socket(name) for name in namespaces]
        self._seen: Counter[tuple[int, str]] = Counter()

    def look(self) -> Counter[tuple[int, str]]:
        """How often what came from a VNI was seen at an interface, from the beginning."""
        for each in self._sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    data, address = each.recvfrom(1 << 17)
                    self._seen.update((int(found), address[0]) for found in set(_MARK.findall(data)))
        return self._seen

    def close(self) -> None:
        for each in self._sockets:
            each.close()


def _packet_socket(namespace: str) -> socket.socket:
    netns.pushns(namespace)
    try:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _ALL_PROTOCOLS)
    finally:
        netns.popns()
    made.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE
    return made


class Side:
    """A tenant's daemons. rogue: the agent whose owner attacks; honest: its neighbour in all its VNIs."""

    def __init__(self, gateway: Host, rogue: Host, honest: Host) -> None:
        self.gateway, self.rogue, self.honest = gateway, rogue, honest
        shown = gateway.run("ip", "-4", "-o", "addr", "show", "dev", "eth0").stdout
        self.udp = (re.findall(r"inet ([0-9.]+)/", shown)[0], _GATEWAY_PORT)
        self._orders = str(rogue.state.directory.parent / f"{rogue.name}.sock")
        rogue.launcher = ("-P", str(Path(__file__).with_name("rogue_agent.py")))  # tests/kairos is not kairos
        rogue.config.write_text('dataplane = "pure"\nisolate = "netns"\n')
        rogue.environment = {SOCKET: self._orders}
        honest.config.write_text('isolate = "netns"\n')

    def order(self, verb: str, **fields: Any) -> Any:
        """Of the rogue."""
        return order(self._orders, verb, **fields)


class Segment:
    """A VNI as both of its members and its gateway have it."""

    def __init__(self, side: Side, name: str) -> None:
        self.side = side
        self._mine, self._theirs, at_gateway = (
            next(vni for vni in host.status()["vnis"] if vni["name"] == name)
            for host in (side.rogue, side.honest, side.gateway)
        )
        self.number = int(self._mine["vni"])
        self.index = int(side.order("sessions")[str(self.number)])  # of the rogue's session, at the gateway
        self.interfaces = {self._mine["interface"], at_gateway["interface"]}
        self.routers = _bare(at_gateway["addresses"])
        self.prefixes = [str(route) for route in self._mine["routes"]]

    @property
    def own(self) -> dict[int, str]:
        """The rogue's addresses, by IP version."""
        return _bare(self._mine["addresses"])

    @property
    def neighbour(self) -> dict[int, str]:
        return _bare(self._theirs["addresses"])

    def seal(self, *packets: bytes, index: int = 0) -> list[bytes]:
        """Datagrams under the rogue's key of this VNI. index: 0 for the true one."""
        return [
            bytes.fromhex(self.side.order("seal", vni=self.number, packet=packet.hex(), index=index))
            for packet in packets
        ]

    def packet(self, target: str, source: str = "") -> bytes:
        """One with our mark."""
        return udp_packet(source or self.own[6 if ":" in target else 4], target, mark(self.number), (9, 9))


class Yard:
    def __init__(self, overlay: Overlay, sides: dict[str, Side]) -> None:
        self.overlay = overlay
        self.segments = {name: Segment(sides[name.split("/")[0]], name.split("/")[1]) for name in NAMES}
        namespaces = [side.gateway.namespace for side in sides.values()]
        for status in [host.status() for side in sides.values() for host in (side.gateway, side.honest)]:
            inside = [vni["namespace"] for vni in status["vnis"] if vni["namespace"]]
            namespaces += [Namespace.path(each, status["pid"]) for each in inside]
        self.watch = Watch(namespaces)

    def send(self, segment: Segment, datagrams: list[bytes], to: Segment | None = None) -> Counter[str]:
        """From the rogue of `segment` to its gateway, or to that of another; the gateway's drops before them."""
        gateway = (to or segment).side
        before = drops(gateway.gateway)
        for datagram in datagrams:
            segment.side.order("send", datagram=datagram.hex(), to=gateway.udp)
        return before

    def await_drops(self, segment: Segment, before: Counter[str], expected: dict[str, int]) -> None:
        """Each counted under its name."""

        def missing() -> dict[str, int]:
            now = drops(segment.side.gateway)
            return {name: count for name, count in expected.items() if now[name] - before[name] < count}

        try:
            wait_for("the drops", lambda: not missing())
        except AssertionError:
            raise AssertionError(f"not counted: {missing()}; counted: {drops(segment.side.gateway) - before}") from None

    def await_arrival(self, segment: Segment, source: str = "") -> None:
        """A packet that may pass does, behind all that was sent before: the watch is awake and has seen those too."""
        where = (segment.number, next(iter({each for each in segment.interfaces if not each.startswith("kairosg")})))
        before = self.watch.look()[where]

        def arrived() -> bool:
            self.send(segment, segment.seal(segment.packet(segment.neighbour[4], source)))
            return self.watch.look()[where] > before

        wait_for(f"what is meant to arrive in VNI {segment.number}", arrived)

    def assert_nothing_crossed(self) -> None:
        at_home = {(each.number, name) for each in self.segments.values() for name in each.interfaces}
        crossed = set(self.watch.look()) - at_home
        assert not crossed, f"(from VNI, seen at) {sorted(crossed)}"


def drops(host: Host) -> Counter[str]:
    return Counter({name: n for name, n in host.status()["counters"].items() if name.startswith("drop_")})


def _bare(addresses: list[str]) -> dict[int, str]:
    return {6 if ":" in each else 4: each.split("/")[0] for each in addresses}


@contextmanager
def running_yard(folder: Path) -> Iterator[Yard]:
    with running_overlay(folder, bare=("rival",)) as overlay:
        rival = _rivals(overlay, folder)
        overlay.fabric.admin("POST", f"/{TENANT}/vnis", {"name": "twin", "prefixes": ["10.7.0.0/24", "fd07::/64"]})
        for host in (overlay.alice, overlay.bob):
            overlay.fabric.admin("PUT", f"/{TENANT}/vnis/twin/members/{host.node}", {})
            overlay.fabric.admin("DELETE", f"/{TENANT}/vnis/lan/members/{host.node}")
        for tenant in (TENANT, RIVAL):
            overlay.push_policy(GRANTS | {"allow": [_ALL]}, tenant)
        sides = {TENANT: Side(*overlay.hosts), RIVAL: Side(*rival)}
        try:
            overlay.up(*overlay.hosts)
            overlay.up(*rival[1:])
            for side in sides.values():
                for host in (side.rogue, side.honest):
                    wait_for("two VNIs", lambda host=host: len(host.status().get("vnis", ())) == 2)  # type: ignore[misc]
                wait_for("keys", lambda side=side: len(side.order("sessions")) == 2)  # type: ignore[misc]
            yard = Yard(overlay, sides)
            yield yard
            yard.watch.close()
        finally:
            for host in (*overlay.hosts, *rival):
                host.stop()  # not killed: it takes its namespaces' names along


def _rivals(overlay: Overlay, folder: Path) -> tuple[Host, Host, Host]:
    """Gateway, rogue and honest agent of the other tenant; the gateway runs."""
    fabric, provider = overlay.fabric, provider_named("cryptography")
    gateway = Host("rival-gateway", overlay.places["rival"], folder, "gateway")
    rogue, honest = (Host(f"rival-{name}", overlay.places[name], folder, "endpoint") for name in ("alice", "bob"))
    fabric.tenant(RIVAL)
    fabric.admin("POST", f"/{RIVAL}/vnis", {"name": "vault", "prefixes": ["10.8.0.0/24", "fd08::/64"]})
    overlay.push_policy(GRANTS, RIVAL)
    gateway.node = asyncio.run(fabric.first_gateway(RIVAL, gateway.state, provider)).node
    gateway.start()
    wait_for("the gateway", lambda: gateway.status().get("policy_version"))
    for host in (rogue, honest):
        token = fabric.token(RIVAL, "endpoint", vnis=["office", "vault"])
        host.node = asyncio.run(enroll(str(token), host.state, provider, host.name, lambda *_: None)).node
    return gateway, rogue, honest
