"""A relay under an attacker's hand, and the two real ends that it joins (tests/hostile).

Real: the WebSockets, RelayLink, TLS, both tunnel machines, both crypto providers, the C data planes. Only the relay is ours.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from aiohttp import WSMsgType, web

from issued import Authority
from kairos.api.relay import Open, Opened, encode
from kairos.wire import frame as wire
from kairos.wire.control import Config, VniConfig
from kairos.wire.frame import FrameType
from kairos_agent.tunnel import EndpointDriver
from kairos_dataplane import ControlReceived, Dataplane, Flow, PathMoved, Verdict
from kairos_dataplane.engine import Network
from kairos_gateway.tunnel import GatewayDriver
from kairos_node.certificates import verify_peer_untrusted
from kairos_node.dataplane_events import DataplaneEvents, Listeners
from kairos_node.relay_link import ChannelUser, RelayChannel, RelayLink
from kairos_node.steps import Steps
from kairos_node.tls import Check, Credentials, TlsChannel
from kairos_node.tunnel import Own, TunnelDriver

TO_GATEWAY, TO_ENDPOINT = "to gateway", "to endpoint"
EVERYWHERE = [ip_network("10.7.0.0/24")]
CHANNEL = 7
WAIT_S = 60.0  # longer than the protocol's own limit, 10 s, on a slow machine too

Tamper = Callable[[str, bytes], list[bytes]]  # direction, frame -> the frames that are sent on in its place


def honest(_direction: str, frame: bytes) -> list[bytes]:
    return [frame]


@dataclass(frozen=True)
class Site:
    """One end's namespace: its address in VNI 1, and a socket there."""

    address: str
    dataplane: Dataplane
    socket: socket.socket


@dataclass
class End:
    """What became of one end. code: why it ended; empty while it lives."""

    site: Site
    tunnel: TunnelDriver | None = None
    established: bool = False
    code: str = ""
    links: list[RelayLink] = field(default_factory=list)


class HostileRelay:
    """A WebSocket server: one gateway, one endpoint. `tamper` is its will; `seen` all that passed."""

    def __init__(self, tamper: Tamper) -> None:
        self.tamper = tamper
        self.seen: list[tuple[str, bytes]] = []
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self.url = ""

    async def send(self, direction: str, frame: bytes) -> None:
        """Puts a frame on the way, wherever it comes from."""
        target = self._sockets.get("gateway" if direction == TO_GATEWAY else "endpoint")
        if target is not None and not target.closed:
            await target.send_bytes(frame)

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        who = request.match_info["who"]
        ws = web.WebSocketResponse(max_msg_size=0)
        await ws.prepare(request)
        self._sockets[who] = ws
        if who == "endpoint":
            opened = wire.encode(FrameType.OPENED, CHANNEL, encode(Opened(CHANNEL, "gw-a")))
            opening = wire.encode(FrameType.OPEN, CHANNEL, encode(Open("ep-a", "acme", "s-1", 2_000_000_000)))
            await self._pass(TO_GATEWAY, opening)
            await self._pass(TO_ENDPOINT, opened)
        direction = TO_GATEWAY if who == "endpoint" else TO_ENDPOINT
        async for message in ws:
            if message.type is WSMsgType.BINARY:
                await self._pass(direction, message.data)
        return ws

    async def _pass(self, direction: str, frame: bytes) -> None:
        self.seen.append((direction, frame))
        for each in self.tamper(direction, frame):
            await self.send(direction, each)

    async def run(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{who}", self._serve)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return runner


@dataclass
class Meeting:
    """Two ends that try to become a tunnel over a relay."""

    relay: HostileRelay
    endpoint: End
    gateway: End

    async def settled(self) -> bool:
        """Waits until both ends are established, or one has ended. Returns whether there is a tunnel."""
        async with asyncio.timeout(WAIT_S):
            while not (self.endpoint.established and self.gateway.established):
                if self.endpoint.code or self.gateway.code or self._links_gone():
                    return False
                await asyncio.sleep(0.002)
        return True

    def _links_gone(self) -> bool:
        return any(link.lost.done() for end in (self.endpoint, self.gateway) for link in end.links)

    async def say(self, text: bytes, wait_s: float = 0.25) -> list[bytes]:
        """Sends a packet through the tunnel; what arrives at the gateway's site."""
        self.endpoint.site.socket.sendto(text, (self.gateway.site.address, 9))
        return await self.heard(wait_s)

    async def heard(self, wait_s: float = 0.25, count: int = 1) -> list[bytes]:
        found: list[bytes] = []
        deadline = time.monotonic() + wait_s
        while len(found) < count and time.monotonic() < deadline:
            try:
                found.append(self.gateway.site.socket.recv(2048))
            except BlockingIOError:
                await asyncio.sleep(0.002)
        return found


class _Owner:
    """A daemon that does the least: lets everything flow."""

    def __init__(self, end: End) -> None:
        self._end = end

    async def set_up(self, tunnel: EndpointDriver, config: Config) -> Mapping[int, Collection[Network]]:
        return {vni.vni: EVERYWHERE for vni in config.vnis}

    def established(self, tunnel: TunnelDriver) -> None:
        for vni, session in tunnel.sessions.items():
            self._end.site.dataplane.add_route(vni, EVERYWHERE[0], session)
        self._end.established = True

    def ended(self, tunnel: TunnelDriver, code: str, reason: str) -> None:
        self._end.code = code

    def orphaned(self, tunnel: TunnelDriver, reason: str) -> None:
        self._end.code = self._end.code or "orphaned"


class _Loop:
    """The data plane's events of one end: every flow is allowed."""

    def __init__(self, end: End) -> None:
        dataplane = end.site.dataplane

        def allow(flow: Flow) -> None:
            dataplane.verdict(flow.id, Verdict.ALLOW, 1, 1)

        def nothing(_event: ControlReceived | PathMoved) -> None:
            return None

        self.events = DataplaneEvents(
            dataplane, Listeners(end.links, allow, nothing, nothing, nothing, dataplane.set_limit)
        )


async def _with_relay(
    sites: tuple[Site, Site],
    parties: Parties,
    tamper: Tamper,
    story: Callable[[Meeting], Any],
) -> Any:
    relay = HostileRelay(tamper)
    runner = await relay.run()
    meeting = Meeting(relay, End(sites[0]), End(sites[1]))
    loops = [_Loop(meeting.endpoint), _Loop(meeting.gateway)]
    try:
        await _join(meeting.gateway, f"{relay.url}/gateway", functools.partial(parties.gateway, meeting.gateway))
        await _join(meeting.endpoint, f"{relay.url}/endpoint", functools.partial(parties.endpoint, meeting.endpoint))
        return await story(meeting)
    finally:
        for end in (meeting.endpoint, meeting.gateway):
            if end.tunnel is not None:
                end.tunnel.fail("test-over", "the test is over")
            for link in end.links:
                link.close()
                await asyncio.wait([link.lost], timeout=1.0)
        for loop in loops:
            loop.events.close()
        await runner.cleanup()


async def _join(end: End, url: str, accept: Callable[[RelayChannel], ChannelUser]) -> None:
    end.links.append(await RelayLink.open(url, "token", end.site.dataplane, accept))


@dataclass
class Parties:
    """Who stands at the two ends. expected: the gateway that the endpoint asked for."""

    authority: Authority
    endpoint_credentials: Credentials
    gateway_credentials: Credentials
    gateway_authority: Authority
    expected: str = "gw-a"

    def endpoint(self, end: End, channel: RelayChannel) -> EndpointDriver:
        credentials = self.endpoint_credentials
        tls = TlsChannel("client", credentials, self._check(self.authority, "gateway", self.expected))
        own = self._own(self.authority, credentials, end)
        end.tunnel = EndpointDriver(own, tls, channel, _Owner(end), Steps("gw-a"), "s-1", "test")
        end.tunnel.session_expires(asyncio.get_running_loop().time() + 300)
        return end.tunnel

    def gateway(self, end: End, channel: RelayChannel) -> GatewayDriver:
        credentials = self.gateway_credentials
        tls = TlsChannel("server", credentials, self._check(self.gateway_authority, "endpoint", ""))
        own = self._own(self.gateway_authority, credentials, end)
        tunnel = GatewayDriver(own, tls, channel, _Owner(end), Steps("ep-a"), _accept, 120.0)
        end.tunnel = tunnel
        return tunnel

    @staticmethod
    def _own(authority: Authority, credentials: Credentials, end: End) -> Own:
        def cut(session: int) -> None:
            try:
                end.site.dataplane.cut_session(session)
            except OSError:
                return

        key = authority.provider.signing_key(authority.suite, credentials.seed)
        return Own(authority.suite, authority.provider, key, end.site.dataplane, cut)

    @staticmethod
    def _check(authority: Authority, role: str, node: str) -> Check:
        return lambda chain: verify_peer_untrusted(
            authority.provider, authority.trust, chain, tenant="acme", role=role, now=authority.now, node=node
        )


def _accept(tunnel: GatewayDriver, session: str) -> None:
    """Every session is good; what is tested here stands below it."""
    vni = VniConfig(1, "office", 0, 1380, ("10.7.0.5/24",), ("10.7.0.0/24",), "")
    tunnel.accept(1, [vni], {1: EVERYWHERE}, (), asyncio.get_running_loop().time() + 300)


def meet(sites: tuple[Site, Site], parties: Parties, tamper: Tamper, story: Callable[[Meeting], Any]) -> Any:
    """Runs `story`, a coroutine function, with both ends joined over a relay that tampers."""
    for site in sites:
        _drain(site.socket)
    return asyncio.run(_with_relay(sites, parties, tamper, story))


def _drain(sock: socket.socket) -> None:
    try:
        while True:
            sock.recv(2048)
    except BlockingIOError:
        return
