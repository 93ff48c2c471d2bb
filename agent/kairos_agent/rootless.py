"""An endpoint that is one process of one user: its VNIs are in namespaces that only it is in, and its proxy leads there.

program --loopback--> proxy --socket in the VNI's namespace--> TUN --data plane--> gateway
                      `------------------- this process ------------'
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Collection, Coroutine, Mapping
from typing import Any

import msgspec

import kairos
from kairos.errors import Refused
from kairos.policy.input import Application
from kairos.wire.control import Config as TunnelConfig
from kairos_agent.agent import Agent
from kairos_agent.config import Config
from kairos_agent.config_bounds import HostNetworks, believed_plans
from kairos_agent.proxy.server import Proxy
from kairos_agent.proxy.stream import End
from kairos_agent.proxy.wishes import Wishes
from kairos_agent.subnet_router import TABLE, SubnetRouter
from kairos_agent.tunnel import EndpointDriver
from kairos_dataplane import Dataplane, Flow, Verdict
from kairos_dataplane.engine import Network
from kairos_node.crypto import provider_named
from kairos_node.daemon import open_udp
from kairos_node.fabric import FabricClient, Signer
from kairos_node.forwarding import Forwarding
from kairos_node.local_api import LocalServer
from kairos_node.metrics import MetricsServer
from kairos_node.namespace import Namespace
from kairos_node.netlink import AGENT, VniPlan, open_rootless_interfaces
from kairos_node.start import stop_on_signals
from kairos_node.state import NodeState
from kairos_node.vnis import Vnis
from kairos_node.witness import Witness

_log = logging.getLogger(__name__)


class RootlessAgent(Agent):
    def __init__(self, *arguments: Any, wishes: Wishes, witness: Witness) -> None:
        """arguments: as Agent has them."""
        super().__init__(*arguments)
        self._wishes, self.witness = wishes, witness
        self._led = asyncio.Event()  # a first Config came: until then programs wait in the kernel's queue
        self.proxy = Proxy(self, wishes.listen)
        self.judge.lost = self.proxy.cut_flow

    # -- for the proxy --------------------------------------------------------------------------------------------

    def usable(self) -> list[VniPlan]:
        wanted = self._wishes.vnis
        return [plan for plan in self.vnis.plans if not wanted or {plan.name, str(plan.vni)} & wanted]

    def place_of(self, vni: int) -> Namespace:
        return self.vnis.namespace(vni)

    def verdict_of(self, vni: int, near: End, far: End) -> Verdict | None:
        for flow in self.dataplane.flows():
            if (flow.vni, (flow.src, flow.src_port), (flow.dst, flow.dst_port)) == (vni, near, far):
                return Verdict(flow.verdict)
        return None

    # -- the daemon's hooks ------------------------------------------------------------------------------------------

    def _works(self) -> list[Coroutine[Any, Any, None]]:
        return [*super()._works(), self._serve_programs()]

    async def _serve_programs(self) -> None:
        with contextlib.closing(self.proxy):
            where = self.proxy.bind()
            await self._led.wait()
            led = self.usable()
            if strange := self._wishes.vnis - {name for plan in led for name in (plan.name, str(plan.vni))}:
                _log.warning("this device is not in %s; it waits to be", ", ".join(sorted(strange)))
            self._wishes.ready(where, sorted(plan.name for plan in led))
            await self.proxy.run()

    async def set_up(self, tunnel: EndpointDriver, config: TunnelConfig) -> Mapping[int, Collection[Network]]:
        behind = await super().set_up(tunnel, config)
        self.proxy.cut_all("this device has left the VNI", but={plan.vni for plan in self.vnis.plans})
        self._led.set()
        return behind

    def _believed(self, config: TunnelConfig, host: HostNetworks) -> list[VniPlan]:
        """None shares the host's routing, but the way out of a VNI is for those that are isolated by the configuration."""
        plans = believed_plans(config, self.view, self.identity.node, host, lambda name: True)
        return [
            dataclasses.replace(
                plan, routes=tuple(each for each in plan.routes if each.prefixlen or self._config.isolates(plan.name))
            )
            for plan in plans
        ]

    def leads_into_tunnel(self, host: str) -> bool:
        """Nothing of this host's routing is ours."""
        return False

    def _node_isolated(self, node: str) -> None:
        super()._node_isolated(node)
        if node == self.identity.node:
            self.proxy.cut_all("this device is isolated")

    def application_of(self, flow: Flow) -> Application | None:
        """Of a proxied connection the program that asked for it: the socket itself is ours."""
        return self.proxy.application_of(flow) if self.proxy.carries(flow) else super().application_of(flow)

    async def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        status = await super()._status(request)
        status["counters"] = status["counters"] | self.proxy.counters()
        return status | {"streams": self.proxy.shown()}


async def serve(state: NodeState, config: Config, dataplane: Dataplane, wishes: Wishes, witness: Witness) -> None:
    """Raises KairosError, or OSError where the host does not allow what it needs."""
    if config.advertise:
        raise Refused("bad-config", "advertise: a proxy leads to no network behind it; run `kairos agent run` as root")
    provider = provider_named(config.provider)
    identity = state.identity(provider, time.time())
    _log.info("kairos %s, %s, data plane %s", kairos.__version__, identity.node, dataplane.description)
    config = msgspec.structs.replace(config, dns="off")  # the proxy knows the names, and nobody else is in there to ask
    async with contextlib.AsyncExitStack() as stack:
        udp = stack.enter_context(open_udp(config.listen))
        dataplane.set_udp(udp.fileno())
        interfaces = await stack.enter_async_context(open_rootless_interfaces(AGENT, identity.node))
        signer = Signer(identity.node, identity.key)
        client = await stack.enter_async_context(FabricClient(identity.join.fabric_url, identity.join.tenant, signer))
        router = SubnetRouter(client, Forwarding(TABLE), {}, False)  # offers nothing, so it touches nothing
        vnis = Vnis(dataplane, interfaces)
        agent = RootlessAgent(
            state, identity, provider, dataplane, client, vnis, config, router, wishes=wishes, witness=witness
        )
        stop_on_signals(agent.stopping)
        await stack.enter_async_context(LocalServer(state.socket, agent.handlers()))
        await stack.enter_async_context(MetricsServer(config.metrics, agent.metrics))
        await agent.run()
