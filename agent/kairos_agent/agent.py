"""The endpoint: its VNIs on this host, one tunnel to a gateway, and its own verdict on every flow."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Collection, Coroutine, Mapping
from ipaddress import ip_address
from typing import Any

import kairos
from kairos.api.problem import ProblemError
from kairos.api.push import CertificateRefusal, ToNode
from kairos.constants import POSTURE_EVERY_S
from kairos.crypto.provider import Provider
from kairos.errors import Refused
from kairos.wire.claim import FlowClaim
from kairos.wire.control import Config as TunnelConfig
from kairos.wire.datagram import DatagramType
from kairos_agent.checks import run_checks
from kairos_agent.config import Config
from kairos_agent.config_bounds import HostNetworks, believed_plans, believed_revision
from kairos_agent.connector import Connector
from kairos_agent.gateways import Gateways
from kairos_agent.host_networks import HostNetworksReader
from kairos_agent.name_service import NameService
from kairos_agent.posture import collect
from kairos_agent.subnet_router import TABLE, SubnetRouter
from kairos_agent.tunnel import EndpointDriver
from kairos_dataplane import ControlReceived, Dataplane, PathMoved
from kairos_dataplane.engine import Network
from kairos_node.crypto import provider_named
from kairos_node.daemon import Daemon, open_udp
from kairos_node.fabric import FabricClient, Signer
from kairos_node.forwarding import Forwarding
from kairos_node.local_api import Handler, LocalServer
from kairos_node.metrics import MetricsServer
from kairos_node.netlink import AGENT, VniPlan, open_interfaces
from kairos_node.policy import Choice
from kairos_node.start import stop_on_signals
from kairos_node.state import Identity, NodeState
from kairos_node.vnis import Vnis, set_apart

_log = logging.getLogger(__name__)
_PATIENCE_S = 15.0
_LOOK_AT_POSTURE_S = 5.0


class Agent(Daemon):
    def __init__(
        self,
        state: NodeState,
        identity: Identity,
        provider: Provider,
        dataplane: Dataplane,
        client: FabricClient,
        vnis: Vnis,
        config: Config,
        router: SubnetRouter,
    ) -> None:
        super().__init__(
            state,
            identity,
            provider,
            dataplane,
            client,
            vnis,
            _PATIENCE_S,
            Choice(config.engine, config.budget_ms, config.opa),
        )
        self._checks = config.posture.check
        self._posture = self._look_at_posture()
        self._router = router
        self._config = config
        domain = identity.join.trust_domain
        self.names = NameService(vnis, (domain, *config.dns_suffixes), config.dns == "auto")
        self.gateways = Gateways(
            self, config.path, config.gateway, lambda mode, gateway: Connector(self, mode, gateway)
        )
        self._host_networks = HostNetworksReader(identity.join.fabric_url)
        self._ahead = False  # a gateway's Config is newer than what the fabric has told us, and counted in part only
        self._set_up_turn = asyncio.Lock()  # one Config at a time, whichever gateway it comes from

    # -- for the connector -------------------------------------------------------------------------------------------

    def fresh_posture(self) -> dict[str, Any]:
        """What goes with T1 and every renewal."""
        return self._posture

    def _look_at_posture(self) -> dict[str, Any]:
        return collect() | run_checks(self._checks)

    async def _posture_now(self) -> dict[str, Any]:
        """What changed counts here at once, whoever else hears of it."""
        facts = await asyncio.to_thread(self._look_at_posture)
        if facts != self._posture:
            self._posture = facts
            self.judge.judge_again()
        return facts

    async def _report_posture(self) -> None:
        """Each 30 s and when a fact changed."""
        loop = asyncio.get_running_loop()
        reported_at, reported = loop.time(), self._posture  # with T1
        while True:
            await asyncio.sleep(_LOOK_AT_POSTURE_S)
            facts = await self._posture_now()
            if facts == reported and loop.time() - reported_at < POSTURE_EVERY_S:
                continue
            try:
                await self.client.report_posture(facts)
                reported_at, reported = loop.time(), facts
            except (ConnectionError, ProblemError) as error:
                _log.debug("the posture was not reported: %s", error)

    async def set_up(self, tunnel: EndpointDriver, config: TunnelConfig) -> Mapping[int, Collection[Network]]:
        """T5: this host's VNIs are those of the newest Configs that its gateways sent. Raises Refused."""
        async with self._network_turn:
            pass  # what is being fetched may be what this Config is about
        if config.revision > self.view.record.revision:
            with contextlib.suppress(ConnectionError):
                await self.fetch_network()
        async with self._set_up_turn:
            self._ahead = self._ahead or config.revision > self.view.record.revision
            configs = [*self.gateways.configs(), config]  # of equals the last, the one that just came, counts
            newest = max(believed_revision(each, self.view) for each in configs)
            host = await self._host_networks.read(self.gateways.relays())
            placed = {
                plan.vni: plan
                for each in configs
                if believed_revision(each, self.view) == newest
                for plan in self._believed(each, host)
            }
            plans = {plan.vni: plan for plan in set_apart(placed.values(), self.vnis.plans)}
            for gone in {plan.vni for plan in self.vnis.plans} - set(plans):
                self.names.forget(gone)
                await self.vnis.remove(gone)
            for plan in plans.values():
                await self.vnis.apply(plan, self._behind_us(plan))
            await self.names.apply(self.view)
            await self._lead()
            return {vni.vni: plans[vni.vni].routes for vni in config.vnis if vni.vni in plans}

    def _believed(self, config: TunnelConfig, host: HostNetworks) -> list[VniPlan]:
        return believed_plans(config, self.view, self.identity.node, host, self._config.isolates)

    def use(self, tunnel: EndpointDriver) -> None:
        """A gateway's tunnel is up."""
        self.gateways.use(tunnel)

    def lost(self, gateway: str) -> None:
        self.gateways.lost(gateway)

    def moved(self, vni: int) -> None:
        """The other gateway hears our word on the flows that it takes over, before their packets come."""
        self.judge.claim_again(vni)

    def leads_into_tunnel(self, host: str) -> bool:
        """Packets to this address would go through a TUN: it is no way to the gateway itself."""
        address = ip_address(host)
        return any(address in route for plan in self.vnis.plans if not plan.isolated for route in plan.routes)

    # -- the daemon's hooks ------------------------------------------------------------------------------------------

    def _works(self) -> list[Coroutine[Any, Any, None]]:
        return [self.gateways.run(), self._report_posture(), self._router.advertise()]

    def _close_tunnels(self, code: str, reason: str) -> None:
        self.gateways.close(code, reason)

    async def _network_changed(self) -> None:
        """The gateway brings what concerns the tunnel in a Config; here the view serves policy, and what lies behind us."""
        for plan in self.vnis.plans:
            self.vnis.take_in(plan, self._behind_us(plan))
        self.gateways.changed()
        if self._ahead:
            self._ahead = False
            self.gateways.replace()  # whose Configs count as a whole now
        await self._lead()
        await self.names.apply(self.view)
        self._router.changed(any(self.view.routes_via(vni, self.identity.node) for vni in self.view.vnis))

    def _behind_us(self, plan: VniPlan) -> set[Network]:
        if plan.vni not in self.view.vnis:
            return set()
        return self._router.allowed(plan.name, self.view.routes_via(plan.vni, self.identity.node))

    async def _lead(self) -> None:
        await self._router.lead(
            {
                self.vnis.interface(plan.vni): self.view.forwarded(plan.vni, self.identity.node, self._behind_us(plan))
                for plan in self.vnis.plans
            }
        )

    def _node_revoked(self, node: str) -> None:
        self.gateways.gateway_lost(node, "revoked")

    def _node_isolated(self, node: str) -> None:
        if node == self.identity.node:
            self.gateways.close("isolated", "this device is isolated")
        self.gateways.gateway_lost(node, "isolated")

    def _node_released(self, node: str) -> None:
        if node == self.identity.node:
            self.gateways.reconnect()

    def _certificate_refused(self, refusal: CertificateRefusal) -> None:
        """A gateway has a new key: not all its endpoints come at once."""
        self.gateways.replace(random.uniform(0, refusal.in_s / 2), refusal.serial)

    def _end_refused(self) -> None:
        self.gateways.end_refused(self.refused)

    def _rotated(self) -> None:
        self.gateways.replace()

    async def _pushed_own(self, push: ToNode) -> None:
        _log.debug("%s", type(push).__name__)

    def _acknowledged(self, event: ControlReceived) -> None:
        self.gateways.acknowledged(event)

    def _limited(self, session: int, limit: int) -> None:
        _log.debug("a gateway probes our path, which is ours to probe: session %d", session)

    def _moved(self, event: PathMoved) -> None:
        """Our sessions never follow: the connector moves them."""

    def claim(self, claim: FlowClaim, vni: int) -> None:
        """On the flow's own path and before its first packet, so that it is there first."""
        self.gateways.send(vni, DatagramType.CLAIM, claim.pack())

    def posture_of(self, node: str) -> dict[str, Any]:
        return self._posture if node == self.identity.node else {}

    # -- local API ---------------------------------------------------------------------------------------------------

    def handlers(self) -> dict[str, Handler]:
        return super().handlers() | {"reconnect": self._reconnect, "path": self._path, "posture": self._show_posture}

    async def _reconnect(self, request: dict[str, Any]) -> bool:
        self.gateways.reconnect()
        return True

    async def _show_posture(self, request: dict[str, Any]) -> dict[str, Any]:
        """Looks now, and reports it."""
        facts = await self._posture_now()
        try:
            await self.client.report_posture(facts)
        except (ConnectionError, ProblemError) as error:
            raise Refused("not-reported", f"the fabric did not take the report: {error}") from None
        return facts

    async def _path(self, request: dict[str, Any]) -> str:
        mode = request.get("mode")
        if mode not in ("auto", "relay", "direct"):
            raise Refused("bad-request", "path is auto, relay or direct")
        self.gateways.set_mode(mode)
        return str(mode)

    def _tunnels(self) -> list[dict[str, Any]]:
        return self.gateways.status()

    def _vni(self, plan: VniPlan) -> dict[str, Any]:
        return super()._vni(plan) | self.names.status(plan.vni)


async def serve(state: NodeState, config: Config, dataplane: Dataplane) -> None:
    """Runs the agent to its end. Raises KairosError, or OSError where the host does not allow what it needs."""
    if clash := sorted(filter(config.isolates, config.advertise)):
        raise Refused(
            "bad-config",
            f"advertise and isolate both name {', '.join(clash)}; a subnet router shares its VNI with its host",
        )
    provider = provider_named(config.provider)
    identity = state.identity(provider, time.time())
    _log.info("kairos %s, %s, data plane %s", kairos.__version__, identity.node, dataplane.description)
    async with contextlib.AsyncExitStack() as stack:
        udp = stack.enter_context(open_udp(config.listen))
        dataplane.set_udp(udp.fileno())
        interfaces = await stack.enter_async_context(open_interfaces(AGENT, identity.node))
        signer = Signer(identity.node, identity.key)
        client = await stack.enter_async_context(FabricClient(identity.join.fabric_url, identity.join.tenant, signer))
        forwarding = await stack.enter_async_context(Forwarding(TABLE))
        router = SubnetRouter(client, forwarding, config.advertise, config.masquerade)
        agent = Agent(state, identity, provider, dataplane, client, Vnis(dataplane, interfaces), config, router)
        stack.callback(agent.names.close)
        stop_on_signals(agent.stopping)
        await stack.enter_async_context(LocalServer(state.socket, agent.handlers()))
        await stack.enter_async_context(MetricsServer(config.metrics, agent.metrics))
        await agent.run()
