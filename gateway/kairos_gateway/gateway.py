"""The gateway: terminates every endpoint's tunnel, judges every connection attempt, and leads VNIs to the host's networks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Coroutine, Iterator, Mapping
from ipaddress import ip_interface
from typing import Any, Literal

import msgspec

import kairos
from kairos.api.push import (
    AdmissionRequest,
    AdmissionVerdict,
    CertificateNotice,
    CertificateRefusal,
    PostureNotice,
    SessionNotice,
    ToNode,
    Welcome,
)
from kairos.crypto import labels
from kairos.crypto.provider import Provider
from kairos.errors import Refused
from kairos.identity import transcript
from kairos.policy.decision import Decision, deny
from kairos.protocol.path import format_address
from kairos.wire.claim import FlowClaim
from kairos.wire.control import VniConfig
from kairos_dataplane import ControlReceived, Dataplane, Offences, PathMoved
from kairos_dataplane.engine import Network
from kairos_gateway.config import Config
from kairos_gateway.external import Externals
from kairos_gateway.isolator import Isolator
from kairos_gateway.mux import Mux
from kairos_gateway.peers import Peers
from kairos_gateway.postures import Postures
from kairos_gateway.session_judge import SessionJudge
from kairos_gateway.sessions import Session, Sessions
from kairos_gateway.sharing import Sharing
from kairos_gateway.tunnel import GatewayDriver
from kairos_gateway.uplink import Uplink
from kairos_node.crypto import provider_named
from kairos_node.daemon import Daemon, open_udp
from kairos_node.fabric import FabricClient, Signer
from kairos_node.local_api import LocalServer
from kairos_node.metrics import MetricsServer
from kairos_node.netlink import GATEWAY, VniPlan, host_addresses, open_interfaces
from kairos_node.policy import Choice
from kairos_node.relay_link import ChannelUser, RelayChannel
from kairos_node.start import stop_on_signals
from kairos_node.state import Identity, NodeState
from kairos_node.steps import Steps
from kairos_node.tls import TlsChannel
from kairos_node.vnis import Vnis

_log = logging.getLogger(__name__)
_PATIENCE_S = 3.0  # shorter than an endpoint waits: without pushes the gateway knows no session
_LOOK_AT_POSTURES_S = 5.0
Outcome = Literal["allow", "hold", "deny"]


class Gateway(Daemon):
    """direct: our UDP candidates, `host:port`."""

    def __init__(
        self,
        state: NodeState,
        identity: Identity,
        provider: Provider,
        dataplane: Dataplane,
        client: FabricClient,
        vnis: Vnis,
        config: Config,
        uplink: Uplink,
        externals: Externals,
        direct: tuple[str, ...],
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
        self._config = config
        self._uplink = uplink
        self._externals = externals
        self._direct = direct
        self.sessions = Sessions(time.time)
        self._session_judge = SessionJudge(self, self.judge.log.report)
        self.postures = Postures(lambda: self.sessions.fabric_now)
        self.peers = Peers(self)
        self.isolator = Isolator(self, self.spool.record)
        self.mux = Mux(client, dataplane, self.links, self._accept)
        self._verifying: set[asyncio.Task[None]] = set()

    # -- tunnels -----------------------------------------------------------------------------------------------------

    def _accept(self, channel: RelayChannel) -> ChannelUser:
        """T2: an endpoint stands behind a new channel. Who it is, T3 proves."""
        tls = TlsChannel("server", self.credentials, self.check_peer("endpoint"))
        steps = Steps(channel.facts.peer)
        steps.note("T2", f"channel {channel.machine.number} opened")
        return GatewayDriver(self.own, tls, channel, self.peers, steps, self._verify, self._config.rekey_after_s)

    def _verify(self, tunnel: GatewayDriver, session: str) -> None:
        task = asyncio.get_running_loop().create_task(self._verify_session(tunnel, session))
        self._verifying.add(task)
        task.add_done_callback(self._verifying.discard)

    async def _verify_session(self, tunnel: GatewayDriver, name: str) -> None:
        assert tunnel.peer is not None  # T3 is done
        session = await self.sessions.find(name, tunnel.peer.node)
        if session is None:
            tunnel.fail("session-unknown", "the fabric knows no such session of this node")
            return
        vnis, leases = self._config_for(session)
        decision = self._session_judge.decide(session.node, leases)
        if not decision.allow:
            tunnel.fail("session-denied", f"{decision.reason} ({decision.rule})")
            return
        tunnel.accept(self.view.record.revision, vnis, leases, self._direct, session.expires_at)

    def _judge_tunnels(self, node: str = "") -> None:
        """T4 again: a tunnel that policy would not accept now ends now. node: only this one's."""
        for tunnel in self.peers.live():
            if tunnel.peer is not None and node in ("", tunnel.peer.node):
                decision = self._session_judge.decide(tunnel.peer.node, tunnel.sessions)
                if not decision.allow:
                    tunnel.fail("session-denied", f"{decision.reason} ({decision.rule})")

    def _config_for(self, session: Session) -> tuple[list[VniConfig], Mapping[int, set[Network]]]:
        """T5: what this endpoint gets. Membership is what the network says now, not what it was at T1."""
        view, node = self.view, session.node
        here = sorted(plan.vni for plan in self.vnis.plans)
        shared = [vni for vni in here if vni in view.vnis and view.addresses(vni, node)]
        configs = [
            VniConfig(
                vni,
                view.vnis[vni].name,
                0,
                view.vnis[vni].mtu,
                view.addresses(vni, node),
                tuple(sorted(map(str, view.reachable(vni, node)))),
                view.vnis[vni].dns_suffix,
            )
            for vni in shared
        ]
        return configs, {vni: view.leases(vni, node) for vni in shared}

    def routes_of(self, tunnel: GatewayDriver) -> Mapping[int, set[Network]]:
        """What leads into this tunnel, by VNI."""
        assert tunnel.peer is not None
        return {vni: self.view.leases(vni, tunnel.peer.node) for vni in tunnel.sessions}

    # -- the daemon's hooks ------------------------------------------------------------------------------------------

    def _works(self) -> list[Coroutine[Any, Any, None]]:
        return [self.mux.run(), self._watch_postures(), self.isolator.run()]

    def _close_tunnels(self, code: str, reason: str) -> None:
        self.peers.close(code, reason)

    async def _network_changed(self) -> None:
        view = self.view
        for gone in [plan for plan in self.vnis.plans if plan.vni not in view.vnis]:
            await self.vnis.remove(gone.vni)
            self._externals.forget(gone.vni, gone.name)
        for plan in self.vnis.plans:
            self.vnis.part(plan.vni, view.mappings(plan.vni))
        sharing = Sharing(self._config.isolate == "netns", self.vnis.plans)
        for plan in sharing.placed(self._plan(vni) for vni in view.vnis):
            try:
                await self._lead_out(plan)
            except Refused as refusal:  # the others must not suffer for it
                _log.error("VNI %s is left out: %s", plan.name, refusal)
        for plan in self.vnis.plans:
            self.vnis.join(plan.vni, view.mappings(plan.vni))
        shared = [plan for plan in self.vnis.plans if not plan.isolated]
        await self._uplink.apply(
            {self.vnis.interface(plan.vni): self._sources(plan.vni) for plan in shared},
            [
                self.vnis.interface(plan.vni)
                for plan in shared
                if self._config.masquerade and plan.name not in self._config.routed
            ],
        )
        for tunnel in self.peers.live():
            session = self.sessions.of_node(tunnel.peer.node) if tunnel.peer is not None else None
            if session is not None:
                self._reconfigure(tunnel, session)

        self._judge_tunnels()

    def _policy_changed(self) -> None:
        self._judge_tunnels()
        super()._policy_changed()

    async def _lead_out(self, plan: VniPlan) -> None:
        """The VNI on this host, and its own way out where it has one. Raises Refused."""
        behind_us = self.view.routes_via(plan.vni, self.identity.node)
        await self.vnis.apply(plan, behind_us)
        if plan.isolated and (behind_us or self._externals.isolates(plan.name)):
            namespace, tun = self.vnis.namespace(plan.vni), self.vnis.interface(plan.vni)
            await self._externals.connect(plan.vni, plan.name, namespace, tun, self._sources(plan.vni))

    def _sources(self, vni: int) -> set[Network]:
        """Who of the networks behind this gateway may speak in the VNI."""
        node = self.identity.node
        return self.view.forwarded(vni, node, self.view.routes_via(vni, node))

    def _plan(self, vni: int) -> VniPlan:
        record, node = self.view.vnis[vni], self.identity.node
        addresses = tuple(ip_interface(text) for text in self.view.addresses(vni, node))
        isolated = self._externals.isolates(record.name)
        behind = [net for net in self.view.reachable(vni, node) if net.prefixlen]  # an exit is for endpoints
        return VniPlan(vni, record.name, record.mtu, addresses, tuple(sorted(behind, key=str)), isolated)

    def _reconfigure(self, tunnel: GatewayDriver, session: Session) -> None:
        """T5 again where this endpoint's part of the network is another."""
        vnis, leases = self._config_for(session)
        if tunnel.differs(vnis, leases):
            tunnel.reconfigure(self.view.record.revision, vnis, leases, self._direct)
            self.peers.lead(tunnel)

    def _node_revoked(self, node: str) -> None:
        self.peers.cut(node, "revoked", f"{node} is revoked")

    def _node_isolated(self, node: str) -> None:
        self.sessions.forget(node)
        self.isolator.settled(node)
        self.peers.cut(node, "isolated", f"{node} is isolated")

    def _node_released(self, node: str) -> None:
        """It opens a new session and comes back by itself, with nothing held against it."""
        self.isolator.settled(node)

    def _certificate_refused(self, refusal: CertificateRefusal) -> None:
        """Endpoints make their tunnels anew by themselves."""

    def _end_refused(self) -> None:
        for tunnel in self.peers.live():
            if tunnel.peer is not None and tunnel.peer.serial in self.refused:
                tunnel.fail("certificate-revoked", f"certificate {tunnel.peer.serial} is revoked")

    def _rotated(self) -> None:
        """Endpoints hear of it too."""

    def _acknowledged(self, event: ControlReceived) -> None:
        _log.debug("a PROBE_ACK that answers nothing of ours, session %d", event.session)

    def _limited(self, session: int, limit: int) -> None:
        self.peers.limited(session, limit)

    def _moved(self, event: PathMoved) -> None:
        self.peers.moved(event)

    def posture_of(self, node: str) -> dict[str, Any]:
        return self.postures.of(node)

    def session_of(self, node: str) -> str:
        return self.peers.session_of(node)

    def claim(self, claim: FlowClaim, vni: int) -> None:
        """What a gateway opens itself goes to an endpoint, which asks for no claim."""

    def _posture_came(self, node: str, at: int, facts: dict[str, Any]) -> None:
        if self.postures.is_news(node, at, facts):
            self.isolator.reported(node, facts)
        if self.postures.learn(node, at, facts):
            self._judge_tunnels(node)
            self.judge.judge_again()

    async def _watch_postures(self) -> None:
        """Silence is a report too: what it allowed ends."""
        while True:
            await asyncio.sleep(_LOOK_AT_POSTURES_S)
            missed = self.postures.missed()
            if self.feed.connected:  # else the silence is the fabric's, or ours
                for node in filter(self.peers.has, missed):
                    self.isolator.reported(node, {})
            for node in self.postures.became_late():
                _log.warning("%s reports its posture no more", node)
                self._judge_tunnels(node)
                self.judge.judge_again()

    # -- isolation by policy ---------------------------------------------------------------------------------------

    def offences(self) -> Iterator[tuple[str, Mapping[int, Offences]]]:
        for tunnel in self.peers.live():
            if tunnel.peer is not None:
                sessions = tunnel.sessions.values()
                yield tunnel.peer.node, {each: self.dataplane.session_offences(each) for each in sessions}

    def taken_over(self, node: str) -> None:
        self.isolator.taken_over(node)

    def suspect(self, node: str, reason: str) -> None:
        self.isolations.suspect(node, reason)
        self.peers.cut(node, "isolated", f"{node} is isolated: {reason}")
        self.judge.judge_again()

    def acquit(self, node: str) -> None:
        self.isolations.acquit(node)

    # -- pushes ------------------------------------------------------------------------------------------------------

    async def _pushed_own(self, push: ToNode) -> None:
        match push:
            case Welcome():
                self.sessions.set_time(push.now)
                for over in self.sessions.only(push.sessions):
                    self.peers.end_session(over)
                for notice in push.sessions:
                    self._posture_came(notice.node, notice.posture_at, notice.posture)
            case SessionNotice():
                session = self.sessions.learn(push)
                self.peers.renewed(session)
                self._posture_came(push.node, push.posture_at, push.posture)
                self._judge_tunnels(push.node)
            case PostureNotice():
                self._posture_came(push.node, push.at, push.facts)
            case AdmissionRequest():
                await self._admit(push)
            case CertificateNotice():  # E7: the revision that follows brings the member itself
                _log.info("%s has certificate %s", push.node, push.serial)

    async def _admit(self, request: AdmissionRequest) -> None:
        """E2: our policy's word, signed over the very text it judged."""
        decision = self._admission(request.input)
        outcome: Outcome = "hold" if decision.hold else "allow" if decision.allow else "deny"
        signed = transcript.admission_verdict(
            request.id, request.input.encode(), outcome, decision.rule, decision.reason
        )
        signature = self.identity.key.sign(signed, labels.ADMISSION_VERDICT)
        _log.info("admission: %s, %s (%s)", outcome, decision.reason, decision.rule)
        await self.feed.send(AdmissionVerdict(request.id, outcome, decision.rule, decision.reason, signature))

    def _admission(self, text: str) -> Decision:
        try:
            document = json.loads(text)
        except ValueError:
            return deny("the admission request is no JSON")
        return self.policy.decide("admission", document) if isinstance(document, dict) else deny("no object")

    # -- local API ---------------------------------------------------------------------------------------------------

    async def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        return await super()._status(request) | {
            "relay": self.mux.connected,
            "direct": list(self._direct),
            "uplinks": msgspec.to_builtins(self._externals.report()),
        }

    def _tunnels(self) -> list[dict[str, Any]]:
        return self.peers.status()


async def serve(state: NodeState, config: Config, dataplane: Dataplane) -> None:
    """Runs the gateway to its end. Raises KairosError, or OSError where the host does not allow what it needs."""
    provider = provider_named(config.provider)
    identity = state.identity(provider, time.time())
    _log.info("kairos %s, %s, data plane %s", kairos.__version__, identity.node, dataplane.description)
    async with contextlib.AsyncExitStack() as stack:
        udp = stack.enter_context(open_udp(config.listen))
        dataplane.set_udp(udp.fileno())
        port = udp.getsockname()[1]
        interfaces = await stack.enter_async_context(open_interfaces(GATEWAY, identity.node))
        uplink = await stack.enter_async_context(Uplink(GATEWAY.prefix))
        externals = Externals(interfaces.host, config)
        signer = Signer(identity.node, identity.key)
        client = await stack.enter_async_context(FabricClient(identity.join.fabric_url, identity.join.tenant, signer))
        direct = config.advertise or [format_address((host, port)) for host in await host_addresses(GATEWAY.prefix)]
        gateway = Gateway(
            state,
            identity,
            provider,
            dataplane,
            client,
            Vnis(dataplane, interfaces),
            config,
            uplink,
            externals,
            tuple(direct),
        )
        stop_on_signals(gateway.stopping)
        await stack.enter_async_context(LocalServer(state.socket, gateway.handlers()))
        await stack.enter_async_context(MetricsServer(config.metrics, gateway.metrics))
        await gateway.run()
