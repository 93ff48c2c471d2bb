"""Warm tunnels to several gateways, and which of them carries each VNI (docs/protocol.md §7, Several gateways).

    Connector (one a gateway) --tunnel, answers--> Health --Choice--> routes in the FIB of each VNI

A failover moves routes: the tunnel that takes over is up already, with keys and leases of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Container, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, Protocol

from kairos.protocol.failover import BEAT_DIRECT_S, Choice, Health, Heartbeat, Rank, order, warm
from kairos.protocol.path import Mode
from kairos.wire.control import Config
from kairos.wire.datagram import DatagramType
from kairos_agent.connector import Connector
from kairos_agent.connector import Home as ConnectorHome
from kairos_agent.tunnel import EndpointDriver
from kairos_dataplane import ControlReceived, Verdict
from kairos_dataplane.engine import Network
from kairos_node.network_view import NetworkView
from kairos_node.vnis import Vnis

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0  # whether a better gateway has settled, and which streams are over


class Home(ConnectorHome, Protocol):
    """The agent, as its gateways need it beside what their connectors need."""

    vnis: Vnis

    @property
    def view(self) -> NetworkView: ...
    def moved(self, vni: int) -> None:
        """Its flows are with another gateway now."""
        ...


class Gateways:
    """only: the one gateway that the configuration names; empty: all that the network has, by rank."""

    def __init__(self, home: Home, mode: Mode, only: str, connector: Callable[[Mode, str], Connector]) -> None:
        self._home = home
        self._mode: Mode = mode
        self._only = only
        self._make = connector
        self._loop = asyncio.get_running_loop()
        self._connectors: dict[str, Connector] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._health: dict[str, Health] = {}
        self._beats: dict[str, tuple[EndpointDriver, Heartbeat, int]] = {}  # with the datagrams received so far
        self._down: set[str] = set()
        self._running = False
        self._choices: dict[int, Choice] = {}
        self._pins: dict[
            int, dict[Network, str]
        ] = {}  # hosts whose streams began at a gateway that is not the choice now

    async def run(self) -> None:
        """Until it is cancelled."""
        look_at = 0.0
        self._running = True
        try:
            while True:
                if self._loop.time() >= look_at:
                    self._unpin()
                    self.changed()
                    look_at = self._loop.time() + _LOOK_EVERY_S
                if len(self._connectors) > 1:
                    self._beat()
                await asyncio.sleep(BEAT_DIRECT_S / 2)
                for task in self._tasks.values():
                    if task.done():
                        task.result()  # a connector ends by an error only
        finally:
            self._running = False
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- which gateways ----------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """The network, a rank, a VNI or somebody's health: hold the tunnels that are wanted, steer where they lead."""
        if not self._running:
            return
        ranks = self._ranks()
        vnis = [plan.vni for plan in self._home.vnis.plans]
        wanted = set[str]().union(*(warm(order(vni, ranks), self._down) for vni in vnis or [0]))
        wanted |= self._in_use() & set(ranks)
        for gateway in wanted - set(self._connectors):
            connector = self._connectors[gateway] = self._make(self._mode, gateway)
            self._health[gateway] = Health()
            self._tasks[gateway] = self._loop.create_task(connector.run())
        for gateway in set(self._connectors) - wanted:
            self._leave(gateway)
        for vni in vnis:
            self._choose(vni, order(vni, ranks))
        self._choices = {vni: choice for vni, choice in self._choices.items() if vni in vnis}

    def _ranks(self) -> dict[str, Rank]:
        if self._only:
            return {self._only: Rank()}
        return {each.node: Rank(each.priority, each.weight) for each in self._home.view.record.gateways}

    def _leave(self, gateway: str) -> None:
        """It is revoked, or two better ones are well."""
        connector = self._connectors.pop(gateway)
        self._health.pop(gateway)
        self._beats.pop(gateway, None)
        self._down.discard(gateway)
        self._tasks.pop(gateway).cancel()
        connector.close("not-needed", "other gateways serve this endpoint")

    def _in_use(self) -> set[str]:
        pinned = {gateway for pins in self._pins.values() for gateway in pins.values()}
        return pinned | {choice.current for choice in self._choices.values() if choice.current is not None}

    # -- which of them carries a VNI ---------------------------------------------------------------------------------

    def _choose(self, vni: int, ranked: list[str]) -> None:
        choice = self._choices.setdefault(vni, Choice())
        able = {gateway: health for gateway, health in self._health.items() if self._session(gateway, vni)}
        before = choice.current
        now = choice.choose(ranked, able, self._loop.time())
        if now != before and before is not None:
            _log.warning("VNI %d goes through %s now, %s before", vni, now or "no gateway", before)
            if before in able and able[before].well:
                self._pin(vni, before)
            self._home.moved(vni)
        self._steer(vni, ranked, able)

    def _steer(self, vni: int, ranked: list[str], able: Mapping[str, Health]) -> None:
        """Every prefix behind the TUN, to the first gateway that leads there: any one, or those that the route names."""
        plan = next(plan for plan in self._home.vnis.plans if plan.vni == vni)
        owners = self._owners(vni)
        well = [gateway for gateway in ranked if gateway in able and able[gateway].well]
        current = self._choices[vni].current
        first = ([current] if current in well else []) + [gateway for gateway in well if gateway != current]
        hops: dict[Network, int] = {}
        for prefix in (*plan.routes, *owners):
            leading = [gateway for gateway in first if gateway in owners.get(prefix, first)]
            if leading:
                hops[prefix] = self._session(leading[0], vni)
        for host, gateway in self._pins.get(vni, {}).items():
            if gateway in well and host not in owners:
                hops[host] = self._session(gateway, vni)
        self._home.vnis.steer(vni, hops)

    def _owners(self, vni: int) -> dict[Network, set[str]]:
        """What only certain gateways lead to: their own addresses, and routes through them."""
        view, owners = self._home.view, dict[Network, set[str]]()
        for gateway in self._health:
            for prefix in view.leases(vni, gateway) if vni in view.vnis else ():
                owners.setdefault(prefix, set()).add(gateway)
        return owners

    def _session(self, gateway: str, vni: int) -> int:
        """The data plane's; 0: none that has keys."""
        tunnel = self._connectors[gateway].tunnel
        return tunnel.sessions.get(vni, 0) if tunnel is not None and tunnel.live else 0

    # -- streams that stay where they began --------------------------------------------------------------------------

    def _pin(self, vni: int, gateway: str) -> None:
        for host in self._peers(vni):
            self._pins.setdefault(vni, {}).setdefault(host, gateway)

    def _unpin(self) -> None:
        for vni, pins in list(self._pins.items()):
            live = self._peers(vni)
            self._pins[vni] = {host: gateway for host, gateway in pins.items() if host in live}
            if not self._pins[vni]:
                del self._pins[vni]

    def _peers(self, vni: int) -> set[Network]:
        """Hosts at the other end of flows that live."""
        flows = [each for each in self._home.dataplane.flows() if each.vni == vni and each.verdict is Verdict.ALLOW]
        return {ip_network(flow.src if flow.session else flow.dst) for flow in flows}

    # -- who is well -------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        now = self._loop.time()
        for gateway, connector in self._connectors.items():
            tunnel = connector.tunnel
            session = next(iter(tunnel.sessions.values()), 0) if tunnel is not None and tunnel.live else 0
            if tunnel is None or not session:
                continue
            known, beat, before = self._beats.get(gateway, (None, Heartbeat(now), 0))
            if known is not tunnel:
                beat, before = Heartbeat(now), 0
            received = self._received(tunnel)
            if received != before:
                beat.received(now)
            self._beats[gateway] = (tunnel, beat, received)
            if beat.silent(connector.direct, now):
                self.lost(gateway)
            else:
                self._health[gateway].heard(now)
            payload = beat.tick(connector.direct, now)
            if payload is not None:
                with contextlib.suppress(OSError):
                    self._home.dataplane.send_control(session, DatagramType.PROBE, payload)

    def _received(self, tunnel: EndpointDriver) -> int:
        with contextlib.suppress(OSError):  # a VNI was removed
            return sum(self._home.dataplane.session_stats(session)[1] for session in tunnel.sessions.values())
        return 0

    def use(self, tunnel: EndpointDriver) -> None:
        """A connector's tunnel is up, or has another configuration."""
        gateway = tunnel.steps.peer
        self._down.discard(gateway)
        if gateway in self._health:
            self._health[gateway].heard(self._loop.time())
        self.changed()

    def lost(self, gateway: str) -> None:
        """Nothing reaches it now."""
        health = self._health.get(gateway)
        if health is None:
            return
        was_well = health.well
        health.lost()
        connector = self._connectors[gateway]
        if connector.tunnel is None:
            self._down.add(gateway)
        if was_well:
            _log.warning("%s does not answer", gateway)
            self.changed()

    # -- for the agent -----------------------------------------------------------------------------------------------

    def acknowledged(self, event: ControlReceived) -> None:
        for gateway, connector in self._connectors.items():
            tunnel, beat, _ = self._beats.get(gateway, (None, None, 0))
            ours = tunnel is not None and event.session in tunnel.sessions.values()
            if ours and beat is not None and beat.acknowledged_untrusted(event.payload, self._loop.time()):
                return
            connector.acknowledged(event)

    def send(self, vni: int, kind: DatagramType, payload: bytes) -> None:
        """A control datagram to the gateway in use there; lost where there is none, or no path."""
        gateway = self._choices[vni].current if vni in self._choices else None
        session = self._session(gateway, vni) if gateway in self._connectors else 0
        if session:
            with contextlib.suppress(OSError):
                self._home.dataplane.send_control(session, kind, payload)

    def gateway_lost(self, node: str, code: str) -> None:
        """It is revoked or isolated."""
        for connector in self._connectors.values():
            connector.gateway_lost(node, code)

    def replace(self, in_s: float = 0.0, serial: str = "") -> None:
        """New tunnels, each before the one in use goes. serial: only where that certificate proved the gateway."""
        for connector in self._connectors.values():
            if serial in ("", connector.serial):
                self._loop.call_later(in_s, connector.replace)

    def end_refused(self, refused: Container[str]) -> None:
        """Tunnels whose gateway proved itself with a certificate that is refused now."""
        for connector in self._connectors.values():
            connector.end_refused(refused)

    def reconnect(self) -> None:
        for connector in self._connectors.values():
            connector.reconnect()

    def set_mode(self, mode: Mode) -> None:
        self._mode = mode
        for connector in self._connectors.values():
            connector.set_mode(mode)

    def close(self, code: str, reason: str) -> None:
        for connector in self._connectors.values():
            connector.close(code, reason)

    def configs(self) -> list[Config]:
        tunnels = [connector.tunnel for connector in self._connectors.values()]
        return [tunnel.config for tunnel in tunnels if tunnel is not None and tunnel.config is not None]

    def relays(self) -> set[IPv4Address | IPv6Address]:
        """The addresses of the relays in use."""
        tunnels = [connector.tunnel for connector in self._connectors.values()]
        found = [tunnel.relay_address for tunnel in tunnels if tunnel is not None]
        return {address for address in found if address is not None}

    def status(self) -> list[dict[str, Any]]:
        """Tunnels as their connectors show them, with the VNIs that each one carries now; those that carry some first."""
        shown = []
        for gateway, connector in self._connectors.items():
            carries = sorted(vni for vni, choice in self._choices.items() if choice.current == gateway)
            shown += [each | {"carries": carries, "well": self._health[gateway].well} for each in connector.status()]
        return sorted(shown, key=lambda each: (not each["carries"], each["peer"]))
