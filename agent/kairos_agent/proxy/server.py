"""The proxy's listener: who may ask, how many at once, and what becomes of each.

accept --> whose program is it? --> negotiation --> way into a VNI --> connect, in its namespace --> stream
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from kairos.errors import BadMessage, Refused
from kairos.policy.input import Application
from kairos.protocol.path import format_address
from kairos_agent.proxy.http_connect import HttpConnect
from kairos_agent.proxy.negotiation import Address, Negotiation, Outcome, Target
from kairos_agent.proxy.socks import VERSION as SOCKS5
from kairos_agent.proxy.socks import Socks5
from kairos_agent.proxy.stream import End, Stream, abort, end_of
from kairos_agent.proxy.ways import find_way
from kairos_agent.proxy.wishes import Listen
from kairos_dataplane import Flow, Verdict
from kairos_node.namespace import Namespace
from kairos_node.netlink import VniPlan
from kairos_node.network_view import NetworkView
from kairos_node.witness import Witness

_log = logging.getLogger(__name__)
STREAMS_MAX, CLIENTS_MAX = 400, 500  # a stream has two descriptors, and a process 1,024 unless somebody raised it
_NEGOTIATION_S, _CONNECT_S = 10.0, 10.0
_LOOK_AT_IDLE_S = 5.0  # or twice in the time that a stream may be silent
_ACCEPT_AGAIN_S = 0.1  # after the kernel had no descriptor for us
_FIRST_PIECE = 4096
_KEEPALIVE = (  # a stream outlives four minutes without a gateway, and not the end of its host
    (socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1),
    (socket.TCP_KEEPIDLE, socket.IPPROTO_TCP, 60),
    (socket.TCP_KEEPINTVL, socket.IPPROTO_TCP, 30),
    (socket.TCP_KEEPCNT, socket.IPPROTO_TCP, 6),
)


class Surroundings(Protocol):
    """What the proxy needs of its daemon."""

    @property
    def view(self) -> NetworkView: ...
    @property
    def witness(self) -> Witness: ...
    def usable(self) -> Collection[VniPlan]:
        """The VNIs that streams may go into."""
        ...

    def place_of(self, vni: int) -> Namespace: ...
    def verdict_of(self, vni: int, near: End, far: End) -> Verdict | None: ...


@dataclass(slots=True)
class Proxy:
    """bind first, then run; close at the end."""

    around: Surroundings
    listen: Listen
    _socket: socket.socket | None = None
    _clients: set[asyncio.Task[None]] = field(default_factory=set)
    _streams: dict[tuple[int, End], Stream] = field(default_factory=dict)
    _counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("opened", "denied", "failed", "strangers", "nonsense", "busy", "cut", "idle", "bytes_out", "bytes_in"), 0
        )
    )

    def bind(self) -> str:
        """Where it listens, with the port that it got. Raises Refused."""
        family = socket.AF_INET if self.listen.address.version == 4 else socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((str(self.listen.address), self.listen.port))
        except OSError as error:
            raise Refused(
                "bad-request", f"--listen {self.listen.address}:{self.listen.port}: {error.strerror}"
            ) from None
        self._socket.listen()
        self._socket.setblocking(False)
        address, port = end_of(self._socket.getsockname())
        return format_address((str(address), port))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    async def run(self) -> None:
        """Serves until it is cancelled."""
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        idle = asyncio.ensure_future(self._end_idle())
        try:
            while True:
                try:
                    client, _ = await loop.sock_accept(self._socket)
                except OSError as error:
                    _log.warning("no program was let in: %s", error)
                    await asyncio.sleep(_ACCEPT_AGAIN_S)
                    continue
                if len(self._clients) >= CLIENTS_MAX:
                    self._counts["busy"] += 1
                    client.close()
                    continue
                task = asyncio.ensure_future(self._serve(client))
                self._clients.add(task)
                task.add_done_callback(self._clients.discard)
        finally:
            for each in (idle, *self._clients):
                each.cancel()
            await asyncio.gather(idle, *self._clients, return_exceptions=True)

    # -- what the daemon tells --------------------------------------------------------------------------------------

    def cut_flow(self, flow: Flow) -> None:
        """Policy wants this one no more."""
        for end in ((flow.src, flow.src_port), (flow.dst, flow.dst_port)):
            if stream := self._streams.get((flow.vni, end)):
                self._cut(stream, "it has lost its leave")

    def cut_all(self, why: str, but: Collection[int] = ()) -> None:
        """but: streams in these VNIs go on."""
        for stream in list(self._streams.values()):
            if stream.vni not in but:
                self._cut(stream, why)

    def application_of(self, flow: Flow) -> Application | None:
        """The program behind one of our connections: not we open it but who asked us."""
        stream = self._streams.get((flow.vni, (flow.src, flow.src_port)))
        return None if stream is None else stream.application

    def carries(self, flow: Flow) -> bool:
        return (flow.vni, (flow.src, flow.src_port)) in self._streams

    def shown(self) -> list[dict[str, Any]]:
        now = asyncio.get_running_loop().time()
        return [stream.shown(now) for stream in self._streams.values()]

    def counters(self) -> dict[str, int]:
        return {f"proxy_{name}": count for name, count in self._counts.items()}

    # -- one client ---------------------------------------------------------------------------------------------------

    async def _serve(self, client: socket.socket) -> None:
        try:
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            application = await self._known(client)
            negotiation = await self._negotiate_untrusted(client)
            await self._connect(client, negotiation, application)
        except BadMessage as error:
            self._counts["nonsense"] += 1
            _log.info("a program made no sense: %s", error)
        except Refused as refused:
            self._counts["strangers"] += 1
            _log.warning("%s", refused)
        except (OSError, TimeoutError):
            pass  # the program has gone, or never said anything
        finally:
            client.close()

    async def _known(self, client: socket.socket) -> Application | None:
        """Loopback is open to every user of this host, this device's name is not. Raises Refused."""
        if self.listen.beyond_host:
            return None
        near, far = end_of(client.getpeername()), end_of(client.getsockname())
        opener = await self.around.witness.opener(near, far)
        if opener is None or opener.uid != os.geteuid():
            raise Refused("not-allowed", f"a program of another user was turned away (from port {near[1]})")
        return opener.application

    async def _negotiate_untrusted(self, client: socket.socket) -> Negotiation:
        """Raises BadMessage, TimeoutError or OSError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_NEGOTIATION_S):
            data = await loop.sock_recv(client, _FIRST_PIECE)
            negotiation: Negotiation = Socks5() if data[:1] == bytes((SOCKS5,)) else HttpConnect()
            try:
                while True:
                    if not data:
                        raise ConnectionResetError
                    if reply := negotiation.receive_untrusted(data):
                        await loop.sock_sendall(client, reply)
                    if negotiation.target is not None:
                        return negotiation
                    data = await loop.sock_recv(client, _FIRST_PIECE)
            except BadMessage:
                await loop.sock_sendall(client, negotiation.last_words)
                raise

    async def _connect(self, client: socket.socket, negotiation: Negotiation, application: Application | None) -> None:
        """Until the stream has ended."""
        loop = asyncio.get_running_loop()
        assert negotiation.target is not None
        outcome, stream = await self._dial(negotiation.target, client, application)
        self._count(outcome)
        if stream is None:
            await loop.sock_sendall(client, negotiation.answer(outcome))
            return
        try:
            await loop.sock_sendall(client, negotiation.answer(outcome))
            await stream.carry(negotiation.rest)
        except (OSError, asyncio.CancelledError):
            abort(client)  # what was cut, or broke in the VNI, must not look like an end
            abort(stream.inner)
            raise
        finally:
            self._forget(stream)

    async def _dial(
        self, target: Target, client: socket.socket, application: Application | None
    ) -> tuple[Outcome, Stream | None]:
        if len(self._streams) >= STREAMS_MAX:
            return Outcome.BUSY, None
        try:
            way = find_way(target, self.around.usable(), self.around.view)
        except Refused as refused:
            _log.info("%s", refused)
            return Outcome.NO_WAY, None
        outcome, task = Outcome.UNREACHABLE, asyncio.current_task()
        assert task is not None
        for address in way.addresses:
            source = way.source(address)
            if source is None:
                continue
            try:
                inner = self._socket_towards(way.plan.vni, source)
            except OSError as error:
                _log.warning("%s: no socket: %s", target, error)
                return Outcome.BUSY, None
            far, vni = (address, target.port), way.plan.vni
            stream = Stream(target, vni, end_of(inner.getsockname()), far, client, inner, application, task)
            outcome = await self._opened(stream)
            if outcome is Outcome.OPENED:
                return outcome, stream
        return outcome, None

    def _socket_towards(self, vni: int, source: Address) -> socket.socket:
        """In the VNI's namespace, with a port of its own. Raises OSError."""
        family = socket.AF_INET if source.version == 4 else socket.AF_INET6
        inner = self.around.place_of(vni).call(partial(socket.socket, family, socket.SOCK_STREAM))
        try:
            inner.setblocking(False)
            inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option, level, value in _KEEPALIVE:
                inner.setsockopt(level, option, value)
            inner.bind((str(source), 0))
        except OSError:
            inner.close()
            raise
        return inner

    async def _opened(self, stream: Stream) -> Outcome:
        """It is forgotten again if it did not open."""
        self._streams[stream.vni, stream.near] = stream  # before its first packet is judged
        outcome = Outcome.UNREACHABLE
        try:
            outcome = await self._connected(stream)
        finally:
            if outcome is not Outcome.OPENED:
                self._forget(stream)
        return outcome

    async def _connected(self, stream: Stream) -> Outcome:
        """A refusal of our own policy comes as a reset, like one of the host's that was called: the verdict tells them apart."""
        address, port = stream.far
        try:
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(stream.inner, (str(address), port))
        except TimeoutError:
            return Outcome.TIMED_OUT
        except OSError as error:
            if self.around.verdict_of(stream.vni, stream.near, stream.far) is Verdict.DENY:
                return Outcome.DENIED
            return Outcome.REFUSED if isinstance(error, ConnectionRefusedError) else Outcome.UNREACHABLE
        return Outcome.OPENED

    def _forget(self, stream: Stream) -> None:
        """It has ended, one way or the other."""
        self._streams.pop((stream.vni, stream.near), None)
        stream.inner.close()
        self._counts["bytes_out"] += stream.moved[0]
        self._counts["bytes_in"] += stream.moved[1]

    def _count(self, outcome: Outcome) -> None:
        names = {Outcome.OPENED: "opened", Outcome.DENIED: "denied", Outcome.BUSY: "busy"}
        self._counts[names.get(outcome, "failed")] += 1

    def _cut(self, stream: Stream, why: str) -> None:
        self._counts["cut"] += 1
        _log.warning("%s was cut: %s", stream.target, why)
        stream.task.cancel()

    async def _end_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_LOOK_AT_IDLE_S, self.listen.idle_s / 2))
            for stream in list(self._streams.values()):
                if stream.active_at and loop.time() - stream.active_at > self.listen.idle_s:
                    self._counts["idle"] += 1
                    stream.task.cancel()
