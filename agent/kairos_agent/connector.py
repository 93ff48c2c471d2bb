"""T1 to T7 on the endpoint with one gateway: opens a session, keeps a tunnel up, and comes back by itself when it breaks.

A new tunnel is made before the old one is given up: one whose relay channel broke still carries the direct path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Collection, Container, Mapping
from typing import Any, Protocol

import kairos
from kairos.api.problem import ProblemError
from kairos.api.session import GatewayAddress, SessionGrant, SessionRequest
from kairos.constants import HANDSHAKE_WAIT_S
from kairos.errors import KairosError, Refused
from kairos.protocol.path import Address, Mode, format_address
from kairos.wire.control import Config
from kairos.wire.datagram import DATA_OVERHEAD
from kairos_agent.tunnel import EndpointDriver
from kairos_dataplane import ControlReceived, Dataplane
from kairos_dataplane.engine import Network
from kairos_node.backoff import Backoff
from kairos_node.fabric import FabricClient
from kairos_node.path_prober import PathProber, parse_candidates
from kairos_node.relay_link import RelayChannel, RelayLink
from kairos_node.steps import Steps
from kairos_node.tls import Check, Credentials, TlsChannel
from kairos_node.tunnel import Own, TunnelDriver

_log = logging.getLogger(__name__)
_FIRST_RETRY_S, _MOST_RETRY_S = 0.25, 3.0  # a gateway that comes back should not wait long for its endpoints
_BRIEF_S = 5.0  # a tunnel that lived no longer counts as a failure
_WORTH_S = 5.0  # a session with less left is not worth a tunnel
_FAREWELL_S = 1.0
_SET_UP_WAIT_S = HANDSHAKE_WAIT_S  # T2 to T6 together


class Home(Protocol):
    """The agent, as its connector needs it."""

    dataplane: Dataplane
    client: FabricClient
    links: list[RelayLink]

    @property
    def own(self) -> Own: ...
    @property
    def credentials(self) -> Credentials: ...
    def check_peer(self, role: str, node: str = "") -> Check: ...
    def fresh_posture(self) -> dict[str, Any]: ...
    def set_up(self, tunnel: EndpointDriver, config: Config) -> Awaitable[Mapping[int, Collection[Network]]]: ...
    def use(self, tunnel: EndpointDriver) -> None: ...
    def lost(self, gateway: str) -> None:
        """Nothing reaches that gateway now."""
        ...

    def leads_into_tunnel(self, host: str) -> bool: ...


class Connection:
    """One relay socket, the tunnel on it, and the paths of that tunnel."""

    def __init__(self, steps: Steps) -> None:
        loop = asyncio.get_running_loop()
        self.steps = steps
        self.link: RelayLink | None = None
        self.tunnel: EndpointDriver | None = None
        self.prober: PathProber | None = None
        self.up: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[str] = loop.create_future()

    def owns(self, session: int) -> bool:
        return self.tunnel is not None and session in self.tunnel.sessions.values()

    def end(self, why: str, error: Exception | None = None) -> None:
        """Nothing more is to be expected of it. A tunnel that never came up fails its set-up with `error`."""
        if not self.up.done():
            self.up.set_exception(error or ConnectionError(why))
            self.up.exception()  # whoever waits still gets it; nobody has to
        if not self.over.done():
            self.over.set_result(why)


class Connector:
    """Owns the tunnels to one gateway: the one in use, and while that is being replaced its successor."""

    def __init__(self, home: Home, mode: Mode, gateway: str) -> None:
        self._home = home
        self._mode: Mode = mode
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(_FIRST_RETRY_S, _MOST_RETRY_S)
        self._again = asyncio.Event()
        self._sessions: list[str] = []  # those that the fabric still knows
        self._held: tuple[SessionGrant, float] | None = None  # the newest, and when it was asked for
        self._current: Connection | None = None
        self._coming: Connection | None = None

    async def run(self) -> None:
        try:
            while True:
                self._again.clear()
                try:
                    _log.warning("the tunnel is to be replaced: %s", await self._connect())
                except (ConnectionError, ProblemError, KairosError, TimeoutError) as error:
                    _log.warning("no tunnel to %s: %s", self._gateway, str(error) or "no answer in time")
                    if self._current is None:
                        self._home.lost(self._gateway)
                await self._pause(self._backoff.next())
        finally:
            await self._end_sessions(but="")

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._again.wait()
        except TimeoutError:
            return

    # -- one tunnel --------------------------------------------------------------------------------------------------

    async def _connect(self) -> str:
        """T1 to T6, then until something ends it; returns what did."""
        steps = Steps(self._gateway)
        grant, asked_at = await self._session(steps)
        failure: Exception = ConnectionError("the fabric names no gateway")
        for address in grant.gateways:
            try:
                connection = await self._set_up(address, grant, asked_at, steps)
            except (ConnectionError, KairosError, TimeoutError) as error:
                _log.warning("%s: %s", address.gateway, str(error) or "no answer in time")
                failure = error
            else:
                await self._end_sessions(but=grant.session)
                return await self._keep(connection, grant, asked_at)
        raise failure

    async def _session(self, steps: Steps) -> tuple[SessionGrant, float]:
        """T1, and when it was asked for. While the fabric is away: the session we have, if its token is good for long enough
        to come to anything. Raises ConnectionError, or ProblemError for what the fabric will not give."""
        asked_at = self._loop.time()
        try:
            grant = await self._home.client.open_session(
                SessionRequest(self._home.fresh_posture(), gateway=self._gateway)
            )
        except ProblemError:
            self._held = None
            raise
        except ConnectionError:
            if self._held is None or self._held[1] + self._held[0].lives_s < self._loop.time() + _WORTH_S:
                raise
            steps.note("T1", f"the fabric is away; session {self._held[0].session[:8]} is still good")
            return self._held
        steps.note("T1", f"session {grant.session[:8]} for VNIs {', '.join(map(str, grant.vnis)) or 'none'}")
        self._sessions.append(grant.session)
        self._held = grant, asked_at
        return self._held

    async def _set_up(self, address: GatewayAddress, grant: SessionGrant, asked_at: float, steps: Steps) -> Connection:
        """T2 to T6. Raises ConnectionError, Refused or TimeoutError, and leaves nothing behind then."""
        connection = self._coming = Connection(steps)
        steps.peer = address.gateway

        def accept(channel: RelayChannel) -> TunnelDriver:
            if connection.tunnel is not None:
                raise Refused("bad-message", "the relay opened a second channel")
            steps.note("T2", f"channel {channel.machine.number} through the relay")
            tls = TlsChannel("client", self._home.credentials, self._home.check_peer("gateway", address.gateway))
            owner = _TunnelOwner(self, connection)
            tunnel = EndpointDriver(self._home.own, tls, channel, owner, steps, grant.session, kairos.__version__)
            tunnel.session_expires(asked_at + grant.lives_s)
            connection.tunnel = tunnel
            return tunnel

        try:
            async with asyncio.timeout(_SET_UP_WAIT_S):
                connection.link = await RelayLink.open(address.relay_url, grant.token, self._home.dataplane, accept)
                self._home.links.append(connection.link)
                connection.link.lost.add_done_callback(lambda lost: self._link_lost(connection, lost.result()))
                await connection.up
        except BaseException:
            self._drop(connection, "set-up-failed", "the tunnel did not come up")
            raise
        finally:
            self._coming = None
        return connection

    async def _keep(self, connection: Connection, grant: SessionGrant, asked_at: float) -> str:
        """Renews the session until the tunnel is over or someone wants another."""
        came_up = self._loop.time()
        renewal = self._loop.create_task(self._renew(connection, grant, asked_at))
        wanted = self._loop.create_task(self._again.wait())
        try:
            await asyncio.wait((connection.over, renewal, wanted), return_when=asyncio.FIRST_COMPLETED)
            if renewal.done() and not connection.over.done():
                return str(renewal.exception() or "the session was not renewed")
            return connection.over.result() if connection.over.done() else "reconnect was asked for"
        finally:
            if self._loop.time() - came_up > _BRIEF_S:
                self._backoff.reset()
            for task in (renewal, wanted):
                task.cancel()
            await asyncio.gather(renewal, wanted, return_exceptions=True)

    async def _renew(self, connection: Connection, grant: SessionGrant, asked_at: float) -> None:
        """Raises ProblemError when the fabric will not: the tunnel then lives to the end of its session."""
        wait, backoff = max(1.0, asked_at + grant.renew_at_s - self._loop.time()), Backoff(1.0, 15.0)
        while True:
            await asyncio.sleep(wait)
            asked_at = self._loop.time()
            try:
                renewed = await self._home.client.open_session(
                    SessionRequest(self._home.fresh_posture(), renews=grant.session, gateway=self._gateway)
                )
            except ConnectionError as error:
                wait = backoff.next()
                _log.warning("the session was not renewed: %s; again in %.1f s", error, wait)
                continue
            backoff.reset()
            wait = renewed.renew_at_s
            self._held = renewed, asked_at
            if connection.link is not None:
                connection.link.renew(renewed.token)
            if connection.tunnel is not None:
                connection.tunnel.session_expires(asked_at + renewed.lives_s)

    async def _end_sessions(self, but: str) -> None:
        """T7: a session that no tunnel needs any more. One that the fabric does not hear of ends by itself."""
        over = [session for session in self._sessions if session != but]
        self._sessions = [session for session in self._sessions if session == but]
        with contextlib.suppress(ConnectionError, ProblemError, KairosError, TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await asyncio.gather(*(self._home.client.end_session(session) for session in over))

    def _link_lost(self, connection: Connection, reason: str) -> None:
        if connection.link in self._home.links:
            self._home.links.remove(connection.link)
        connection.end(reason or "the connection to the relay ended")

    def _drop(self, connection: Connection | None, code: str, reason: str) -> None:
        if connection is None:
            return
        if connection.prober is not None:
            connection.prober.close()
        if connection.tunnel is not None:
            connection.tunnel.fail(code, reason)
        if connection.link is not None:
            connection.link.close()
        connection.end(reason)

    # -- what happens to tunnels -------------------------------------------------------------------------------------

    async def set_up(self, tunnel: EndpointDriver, config: Config) -> Mapping[int, Collection[Network]]:
        return await self._home.set_up(tunnel, config)

    def established(self, connection: Connection) -> None:
        """T6, and again after every new Config."""
        tunnel = connection.tunnel
        assert tunnel is not None
        previous, self._current = self._current, connection
        self._home.use(tunnel)
        if previous is not connection:
            self._drop(previous, "replaced", "a new tunnel took its place")
        if connection.prober is None:
            connection.prober = self._prober(connection, tunnel)
        else:
            connection.prober.renew()
        if not connection.up.done():
            connection.up.set_result(None)

    def ended(self, connection: Connection, code: str, reason: str) -> None:
        if connection.prober is not None:
            connection.prober.close()
        if connection is self._current:
            self._current = None
            self._home.lost(self._gateway)
        connection.end(f"{reason} ({code})", Refused(code, reason))
        if connection.link is not None:
            connection.link.close()

    def orphaned(self, connection: Connection, reason: str) -> None:
        """Its direct path may carry on."""
        if connection is self._current and (connection.prober is None or connection.prober.current is None):
            self._home.lost(self._gateway)
        connection.end(f"its relay channel is lost: {reason}")

    def acknowledged(self, event: ControlReceived) -> None:
        for connection in (self._current, self._coming):
            if connection is not None and connection.prober is not None and connection.owns(event.session):
                connection.prober.acknowledged_untrusted(event.payload, event.size)

    @property
    def tunnel(self) -> EndpointDriver | None:
        """The one in use."""
        return self._current.tunnel if self._current is not None else None

    @property
    def direct(self) -> bool:
        """Does the tunnel in use have its direct path?"""
        prober = self._current.prober if self._current is not None else None
        return prober is not None and prober.current is not None

    def gateway_lost(self, node: str, code: str) -> None:
        """It is revoked or isolated."""
        for connection in (self._current, self._coming):
            if connection is not None and connection.steps.peer == node:
                self._drop(connection, code, f"{node} is {code}")

    @property
    def serial(self) -> str:
        """Of the certificate that the gateway proved itself with, in the tunnel in use."""
        return self.tunnel.peer.serial if self.tunnel is not None and self.tunnel.peer is not None else ""

    def end_refused(self, refused: Container[str]) -> None:
        if self.serial in refused:
            self._drop(self._current, "certificate-revoked", f"certificate {self.serial} of {self._gateway} is revoked")

    def replace(self) -> None:
        """Session and tunnel anew, and only then the end of those in use."""
        self._backoff.reset()
        self._again.set()

    # -- local API ---------------------------------------------------------------------------------------------------

    def reconnect(self) -> None:
        """Session and tunnel anew, at once."""
        self._backoff.reset()
        self._drop(self._current, "reconnect", "the user asked for a new tunnel")
        self._again.set()

    def set_mode(self, mode: Mode) -> None:
        self._mode = mode
        if self._current is not None and self._current.prober is not None:
            self._current.prober.set_mode(mode)

    def close(self, code: str, reason: str) -> None:
        for connection in (self._coming, self._current):
            self._drop(connection, code, reason)

    def status(self) -> list[dict[str, Any]]:
        known = (self._current, self._coming)
        return [_status(connection, self._mode) for connection in known if connection is not None]

    def _prober(self, connection: Connection, tunnel: EndpointDriver) -> PathProber:
        def moved(to: Address | None) -> None:
            tunnel.steps.note("T6", f"direct path to {format_address(to)}" if to else "path through the relay")

        listed = parse_candidates(tunnel.config.direct) if tunnel.config is not None else []
        candidates = [each for each in listed if not self._home.leads_into_tunnel(each[0])]
        sessions = tunnel.sessions.values

        def largest() -> int:
            mtus = [vni.mtu for vni in tunnel.config.vnis] if tunnel.config is not None else []
            return max(mtus, default=0) + DATA_OVERHEAD

        return PathProber(self._home.dataplane, sessions, tunnel.relay, candidates, self._mode, largest, moved)


class _TunnelOwner:
    """What one tunnel tells the connector, with the connection it belongs to."""

    def __init__(self, connector: Connector, connection: Connection) -> None:
        self._connector = connector
        self._connection = connection

    async def set_up(self, tunnel: EndpointDriver, config: Config) -> Mapping[int, Collection[Network]]:
        return await self._connector.set_up(tunnel, config)

    def established(self, tunnel: TunnelDriver) -> None:
        self._connector.established(self._connection)

    def ended(self, tunnel: TunnelDriver, code: str, reason: str) -> None:
        self._connector.ended(self._connection, code, reason)

    def orphaned(self, tunnel: TunnelDriver, reason: str) -> None:
        self._connector.orphaned(self._connection, reason)


def _status(connection: Connection, mode: Mode) -> dict[str, Any]:
    """A tunnel as `status` shows it, or that one is being made."""
    tunnel, prober, steps = connection.tunnel, connection.prober, connection.steps
    direct = prober.current if prober is not None else None
    made: dict[str, Any] = {"peer": steps.peer, "state": "connecting", "steps": steps.taken}
    return (tunnel.status() if tunnel is not None else made) | {
        "path": "direct" if direct else "relay",
        "address": format_address(direct) if direct else "",
        "mode": mode,
        "round_trip_ms": round(prober.round_trip_s * 1000, 2) if prober is not None else 0.0,
        "datagram_max": prober.datagram_max if prober is not None else 0,
        "t1_at": steps.began,
    }
