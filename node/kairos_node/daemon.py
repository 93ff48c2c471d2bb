"""What an agent and a gateway have in common while they run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any

from kairos.api.problem import ProblemError
from kairos.api.push import (
    AuditHead,
    CertificateRefusal,
    Isolation,
    NetworkChanged,
    PolicyAnnouncement,
    Revocation,
    ToNode,
    Welcome,
)
from kairos.crypto.provider import Provider
from kairos.errors import BadMessage, Refused
from kairos.policy.decision import Decision
from kairos.policy.input import Application
from kairos.wire.claim import FlowClaim
from kairos_dataplane import ControlReceived, Dataplane, Flow, PathMoved, Verdict
from kairos_node.application import Applications
from kairos_node.audit_watch import AuditWatch
from kairos_node.backoff import Backoff
from kairos_node.certificates import Peer, verify_peer_untrusted
from kairos_node.dataplane_events import DataplaneEvents, Listeners
from kairos_node.events import EventFeed
from kairos_node.fabric import FabricClient
from kairos_node.fabric_clock import FabricClock
from kairos_node.flow_judge import FlowJudge, describe
from kairos_node.isolation import Isolations, receipt
from kairos_node.local_api import Handler
from kairos_node.metrics import Timings, exposition
from kairos_node.netlink import VniPlan
from kairos_node.network_fetch import up_to_date
from kairos_node.network_view import EMPTY, NetworkView
from kairos_node.policy import Choice
from kairos_node.policy_keeper import PolicyKeeper
from kairos_node.refused_certificates import RefusedCertificates
from kairos_node.relay_link import RelayLink
from kairos_node.renewal import Renewal
from kairos_node.spool import Spool
from kairos_node.state import Identity, NodeState
from kairos_node.telemetry import Telemetry
from kairos_node.tls import Check, Credentials
from kairos_node.tunnel import Own
from kairos_node.vnis import Vnis

_log = logging.getLogger(__name__)
_LAST_EVENTS_S = 1.0
_FIRST_SAMPLE_S, _SAMPLE_EVERY_S = 5.0, 60.0  # somebody who has just started it looks


class Daemon(ABC):
    """Tasks that live until the first of them fails or `down` is asked for."""

    def __init__(
        self,
        state: NodeState,
        identity: Identity,
        provider: Provider,
        dataplane: Dataplane,
        client: FabricClient,
        vnis: Vnis,
        patience_s: float,
        engine: Choice,
    ) -> None:
        """patience_s: the longest pause between two attempts to reach the fabric's events."""
        self.state, self.identity, self.provider = state, identity, provider
        self.dataplane, self.client, self.vnis = dataplane, client, vnis
        self.links: list[RelayLink] = []
        self.view = NetworkView(state.network) if state.network is not None else EMPTY
        self.stopping = asyncio.Event()
        self.isolations = Isolations(state)
        self.refused = RefusedCertificates(state)
        self.timings = Timings()
        self.clock = FabricClock()
        self.applications = Applications()
        self.spool = Spool(state.spool)
        self.policy = PolicyKeeper(state, identity, provider, client, self._policy_changed, self.spool.record, engine)
        self.audit = AuditWatch(state, identity, provider, client, self.spool.record)
        self.renewal = Renewal(client, state, provider, identity, self._renewed)
        self.feed = EventFeed(client, self._pushed, Backoff(most=patience_s))
        join = identity.join
        self.judge = FlowJudge(dataplane, self, join.tenant, identity.node, join.role, join.suite, self.spool.record)
        self._events = DataplaneEvents(
            dataplane,
            Listeners(
                self.links, self.judge.opened, self._acknowledged, self._moved, self.judge.claimed, self._limited
            ),
        )
        self._network_turn = asyncio.Lock()

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stopping` is set. An error that no task can handle ends the daemon and is raised."""
        await self.policy.restore()
        await self._first_look()
        works = [
            self.feed.run(),
            self.renewal.run(),
            self.spool.deliver(self.client),
            self.audit.keep_up(),
            self._telemeter(),
            self.stopping.wait(),
            *self._works(),
        ]
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._close_tunnels("going-down", f"{self.identity.node} stops")
            await self._close_links()
            self.judge.close()
            await self._send_last_events()
            self._events.close()
            self.policy.close()

    async def _first_look(self) -> None:
        """Truth before traffic, where the fabric can be reached; else what is on disk serves until it can."""
        await self._network_changed()
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(self.policy.refresh(), self.fetch_network())

    async def _telemeter(self) -> None:
        """How we are doing, each minute; a minute that the fabric does not take is lost."""
        loop = asyncio.get_running_loop()
        telemetry, wait = Telemetry(self.timings, self.dataplane.counters(), loop.time()), _FIRST_SAMPLE_S
        while True:
            await asyncio.sleep(wait)
            wait = _SAMPLE_EVERY_S
            self.state.write_again()
            try:
                await self.client.send_sample(telemetry.sample(await self._status({}), loop.time()))
            except (ConnectionError, ProblemError, BadMessage) as error:
                _log.debug("telemetry: %s", error)

    async def _send_last_events(self) -> None:
        """What is not taken within a moment waits on disk for the next start."""
        with contextlib.suppress(ConnectionError, ProblemError, BadMessage, TimeoutError):
            async with asyncio.timeout(_LAST_EVENTS_S):
                await self.spool.drain(self.client)

    async def _close_links(self) -> None:
        """A moment for the last words of the tunnels to reach the relay."""
        links = list(self.links)
        for link in links:
            link.close()
        if links:
            await asyncio.wait([link.lost for link in links], timeout=1.0)

    @abstractmethod
    def _works(self) -> list[Coroutine[Any, Any, None]]:
        """What this daemon does beside what all do."""

    @abstractmethod
    def _close_tunnels(self, code: str, reason: str) -> None: ...

    @abstractmethod
    async def _network_changed(self) -> None:
        """`view` is another one: make the host and the tunnels look like it."""

    @abstractmethod
    def _node_revoked(self, node: str) -> None: ...

    @abstractmethod
    def _node_isolated(self, node: str) -> None:
        """Its tunnels end now. Flows are judged again by the caller."""

    @abstractmethod
    def _node_released(self, node: str) -> None: ...

    @abstractmethod
    def _certificate_refused(self, refusal: CertificateRefusal) -> None:
        """We hear of it, while it is still good for `in_s`."""

    @abstractmethod
    def _end_refused(self) -> None:
        """Tunnels whose peer proved itself with a certificate that is refused now end now."""

    @abstractmethod
    async def _pushed_own(self, push: ToNode) -> None:
        """A push that not all daemons get."""

    @abstractmethod
    def _acknowledged(self, event: ControlReceived) -> None:
        """A PROBE_ACK for one of our sessions."""

    @abstractmethod
    def _limited(self, session: int, limit: int) -> None:
        """The peer of this session says how large a datagram its direct path carries; 0: it knows no limit."""

    @abstractmethod
    def _moved(self, event: PathMoved) -> None:
        """A peer is reached on another path."""

    # -- what tunnels need -------------------------------------------------------------------------------------------

    @property
    def own(self) -> Own:
        return Own(
            self.identity.suite,
            self.provider,
            self.identity.key,
            self.dataplane,
            self.vnis.cut,
            self.timings.handshakes.observe,
        )

    @property
    def credentials(self) -> Credentials:
        identity = self.identity
        return Credentials(identity.certificate.der, identity.seed, identity.trust)

    def check_peer(self, role: str, node: str = "") -> Check:
        """T3: is this certificate that of a peer of our tenant with this role, or that very node, and not revoked?"""

        def check(chain: Sequence[bytes]) -> Peer:
            peer = verify_peer_untrusted(
                self.provider,
                self.identity.trust,
                chain,
                tenant=self.identity.join.tenant,
                role=role,
                now=time.time(),
                node=node,
                revoked=self.state.revoked,
                refused=self.refused,
            )
            if peer.node in self.isolations:
                raise Refused("isolated", f"{peer.node} is isolated")
            return peer

        return check

    # -- what verdicts depend on -------------------------------------------------------------------------------------

    @property
    def policy_version(self) -> int:
        return self.policy.version

    @property
    def reads_source_port(self) -> bool:
        return self.policy.reads_source_port

    def decide(self, point: str, document: dict[str, Any]) -> Decision:
        with self.timings.decision(point):
            return self.isolations.verdict(document) or self.policy.decide(point, document)

    def application_of(self, flow: Flow) -> Application | None:
        source, destination = (flow.src, flow.src_port), (flow.dst, flow.dst_port)
        return self.applications.of(flow.protocol, source, destination, self.vnis.place(flow.vni))

    def _namespace_of(self, vni: int) -> str:
        place = self.vnis.place(vni)
        return place.name if place is not None else ""

    @abstractmethod
    def posture_of(self, node: str) -> dict[str, Any]: ...

    def session_of(self, node: str) -> str:
        """An endpoint may have several, with several gateways, which know."""
        return ""

    @abstractmethod
    def claim(self, claim: FlowClaim, vni: int) -> None:
        """Tells the gateway of a flow that is about to leave. Only an endpoint has anything to say."""

    # -- pushes ------------------------------------------------------------------------------------------------------

    async def _pushed(self, push: ToNode) -> None:
        match push:
            case Welcome():
                self.clock.told(push.now)
                await self._isolations_changed(push.isolations, complete=True)
                self._certificates_refused(push.refused)
                await self._pushed_own(push)
                if (push.revision, push.mark) != (self.view.record.revision, self.view.record.mark):
                    await self.fetch_network()
                if push.policy_version > self.policy.version:
                    await self.policy.refresh()
                if push.audit_head is not None:
                    self.audit.shown(push.audit_head)
            case Isolation():
                await self._isolations_changed([push])
            case CertificateRefusal():
                self._certificates_refused([push])
            case NetworkChanged():
                await self.fetch_network()
            case AuditHead(head, first, proof):
                self.audit.shown(head, first, proof)
            case PolicyAnnouncement(record):
                await self.policy.refresh(record)
            case Revocation(node):
                self.state.revoke([node])
                _log.warning("%s is revoked: %s", node, push.reason)
                if node == self.identity.node:
                    raise Refused("revoked", f"this node is revoked: {push.reason}; enroll it again with a new token")
                self._node_revoked(node)
            case _:
                await self._pushed_own(push)

    async def _isolations_changed(self, pushes: Sequence[Isolation], complete: bool = False) -> None:
        """Enforce first, then say so. complete: these are all that hold; what we missed the release of is released."""
        for node in self.isolations.released_by(pushes) if complete else ():
            self.isolations.forget(node)
            self._node_released(node)
        for push in pushes:
            self.isolations.learn(push)
            if push.state == "isolated":
                _log.warning("%s is isolated: %s", push.node, push.reason)
                self._node_isolated(push.node)
            else:
                _log.warning("%s is released", push.node)
                self._node_released(push.node)
        self.judge.judge_again()
        for push in pushes:
            await self.feed.send(receipt(push, self.identity.node, self.identity.key))

    def _certificates_refused(self, pushes: Sequence[CertificateRefusal]) -> None:
        for push in self.refused.learn(pushes):
            _log.warning("certificate %s of %s is refused in %d s", push.serial, push.node, push.in_s)
            if push.serial == self.identity.certificate.serial and not push.in_s:
                self.renewal.rotate_soon()
            self._certificate_refused(push)
            asyncio.get_running_loop().call_later(push.in_s, self._end_refused)

    async def fetch_network(self) -> None:
        """The network as it is now. Raises ConnectionError: the feed connects again, and hears of it in the Welcome."""
        async with self._network_turn:
            try:
                record = await up_to_date(self.client, self.view.record, self.identity.node)
            except (ProblemError, BadMessage) as error:
                _log.warning("the network was not fetched: %s", error)
                return
            self.state.keep_network(record)
            self.view = NetworkView(record)
            await self._network_changed()
        self.judge.judge_again()

    def _policy_changed(self) -> None:
        self.judge.judge_again()

    def _renewed(self, identity: Identity) -> None:
        rotated = identity.key.public_key != self.identity.key.public_key
        self.identity = identity
        if rotated:
            self._rotated()

    @abstractmethod
    def _rotated(self) -> None:
        """The certificate that our tunnels were made with is refused soon."""

    # -- local API ---------------------------------------------------------------------------------------------------

    def handlers(self) -> dict[str, Handler]:
        return {"status": self._status, "flows": self._flows, "down": self._down, "rotate": self._rotate}

    async def metrics(self) -> str:
        """For Prometheus."""
        return exposition(await self._status({}), self.timings)

    async def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        identity, suite, head = self.identity, self.identity.suite, self.state.audit_head
        return {
            "node": identity.node,
            "pid": os.getpid(),
            "role": identity.join.role,
            "tenant": identity.join.tenant,
            "fabric": identity.join.fabric_url,
            "connected": self.feed.connected,
            "clock_ahead_s": self.clock.ahead_s or 0,
            "clock": self.clock.word(self.feed.refusal == "stale-timestamp"),
            "suite": suite.name,
            "tls_group": suite.tls_group,
            "kem": suite.kem,
            "signature": suite.signature,
            "aead": suite.aead,
            "provider": self.provider.name,
            "dataplane": self.dataplane.description,
            "policy_version": self.policy.version,
            "network_revision": self.view.record.revision,
            "certificate_ends": identity.certificate.not_after,
            "audit_events": head.size if head is not None else 0,
            "audit_consistent": self.state.audit_conflict is None,
            "audit_waiting": self.spool.waiting,
            "audit_lost": dict(self.spool.lost),
            "unwritten": [*self.state.unwritten, *(["spool"] if self.spool.disk_refuses else [])],
            "tunnels": self._tunnels(),
            "vnis": [self._vni(plan) for plan in self.vnis.plans],
            "counters": self.dataplane.counters(),
        }

    def _vni(self, plan: VniPlan) -> dict[str, Any]:
        return {
            "vni": plan.vni,
            "name": plan.name,
            "interface": self.vnis.interface(plan.vni),
            "namespace": self._namespace_of(plan.vni),
            "apart": plan.apart,
            "mtu": plan.mtu,
            "addresses": [str(address) for address in plan.addresses],
            "routes": [str(route) for route in plan.routes],
        }

    @abstractmethod
    def _tunnels(self) -> list[dict[str, Any]]: ...

    async def _flows(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        told = []
        for page in self.dataplane.flow_pages():
            told += [self._flow(flow) for flow in page]
            await asyncio.sleep(0)  # there may be a million
        return told

    def _flow(self, flow: Flow) -> dict[str, Any]:
        return {
            "flow": describe(flow),
            "verdict": Verdict(flow.verdict).name.lower(),
            "rule": self.judge.rule_named(flow.rule),
            "program": self.judge.program_of(flow),
            "packets": list(flow.packets),
            "bytes": list(flow.bytes),
            "age_s": round(flow.age_s, 1),
            "idle_s": round(flow.idle_s, 1),
        }

    async def _down(self, request: dict[str, Any]) -> bool:
        asyncio.get_running_loop().call_soon(self.stopping.set)
        return True

    async def _rotate(self, request: dict[str, Any]) -> bool:
        await self.renewal.rotate()
        return True


def open_udp(listen: str) -> socket.socket:
    """The socket of direct paths. listen: `[::]:7843` (IPv6 and IPv4), `0.0.0.0:7843`; port 0: any. Raises Refused."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        udp = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        udp.bind((host, int(port)))
    except (OSError, ValueError) as error:
        raise Refused("bad-config", f"listen = {listen!r}: {error}") from None
    udp.setblocking(False)
    return udp
