"""Simulated devices: the protocol of a node's control plane, from the nodes' own code, for thousands of devices in one process.

Each has its own key and signs its own requests. What they do not have is a data plane, a disk and a connection of their own: they
share one pool of HTTP connections, and a socket for events is each one's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

import kairos
from bench.fabric_population import Member
from kairos.api.enrollment import RenewRequest
from kairos.api.push import AuditHead, NetworkChanged, PolicyAnnouncement, ToNode, Welcome, parse_to_node_untrusted
from kairos.api.session import Network, SessionGrant, SessionRequest
from kairos.api.telemetry import Sample
from kairos.audit.event import Event
from kairos.constants import BODY_MAX, PUSH_MAX
from kairos_node.audit_watch import AuditWatch
from kairos_node.fabric import FabricClient, Signer
from kairos_node.network_fetch import up_to_date
from kairos_node.network_view import EMPTY

AT_ONCE = 16  # events sockets that are opened at a time
_TIMEOUT = aiohttp.ClientTimeout(total=600, connect=60)  # a slow answer is a figure, not a failure
POSTURE = {
    "os": "debian", "os_version": "12", "kernel": "6.1.0-26-amd64", "agent": kairos.__version__, "agent_sha256": "0" * 64,
    "agent_intact": True, "disk_encrypted": True, "firewall": True, "secure_boot": True, "ssh_passwords": False, "time_synced": True,
}  # fmt: skip
SAMPLE = Sample(1, 0, 1234.5, 2345.6, {"policy": 3}, 20, 0.3, 1, 12.5, 1, kairos.__version__, 0.01, 48_000_000)


@dataclass
class Wire:
    """What went over the TCP streams of all simulated devices."""

    octets: int = 0
    """Both ways, HTTP and WebSocket headers with them; there is no TLS."""


class _CountedSocket(socket.socket):
    wire: Wire

    def send(self, data: Any, *flags: int) -> int:
        sent = super().send(data, *flags)
        self.wire.octets += sent
        return sent

    def recv(self, size: int, *flags: int) -> bytes:
        data = super().recv(size, *flags)
        self.wire.octets += len(data)
        return data


class _PooledClient(FabricClient):
    """A node's client on connections that all share."""

    def __init__(self, url: str, tenant: str, signer: Signer, http: aiohttp.ClientSession) -> None:
        super().__init__(url, tenant, signer)
        self._http = http
        self.calls = 0  # requests so far

    async def _call(
        self, method: str, target: str, body: bytes = b"", *, signed: bool = True, answer_max: int = BODY_MAX
    ) -> bytes:
        self.calls += 1
        return await super()._call(method, target, body, signed=signed, answer_max=100 * answer_max)

    def _headers(self, method: str, target: str, body: bytes) -> dict[str, str]:
        """Each node calls from an address of its own, as Cloudflare would tell the Worker."""
        assert self.signer is not None
        place = hashlib.sha256(self.signer.node.encode()).hexdigest()
        source = f"2001:db8:{place[:4]}:{place[4:8]}::1"
        return super()._headers(method, target, body) | {"CF-Connecting-IP": source}

    async def socket(self) -> aiohttp.ClientWebSocketResponse:
        """An events socket without the heartbeat of FabricClient.events(), which costs the fabric's object nothing, but us."""
        target = self._path("events")
        headers = self._headers("GET", target, b"")
        return await self._session.ws_connect(self._origin + target, headers=headers, max_msg_size=2 * PUSH_MAX)


@asynccontextmanager
async def connections(wire: Wire) -> AsyncIterator[aiohttp.ClientSession]:
    """The pool that simulated devices share."""

    def counted(address: Any) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = _CountedSocket(family, kind, protocol)
        made.wire = wire
        return made

    connector = aiohttp.TCPConnector(limit=0, socket_factory=counted)
    headers = {"Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(
        connector=connector, timeout=_TIMEOUT, auto_decompress=False, headers=headers
    ) as http:
        yield http


@dataclass
class Device:
    """One simulated node."""

    member: Member
    """Who it is."""
    client: _PooledClient
    """Its way to the fabric."""
    session: SessionGrant | None = None
    """The newest it opened."""
    pushes: int = 0
    """How many came on its socket, and were followed where it follows them."""
    _watch: AuditWatch | None = None
    _network: Network = EMPTY.record
    _reading: asyncio.Task[None] | None = None
    _socket: aiohttp.ClientWebSocketResponse | None = None

    @property
    def connected(self) -> bool:
        return self._reading is not None and not self._reading.done()

    # -- what a node asks ----------------------------------------------------------------------------------------------

    async def open_session(self) -> None:
        self.session = await self.client.open_session(SessionRequest(POSTURE))

    async def renew_session(self) -> None:
        if self.session is None:
            await self.open_session()
        assert self.session is not None
        self.session = await self.client.open_session(SessionRequest(POSTURE, renews=self.session.session))

    async def report_posture(self) -> None:
        await self.client.report_posture(POSTURE)

    async def send_sample(self) -> None:
        await self.client.send_sample(SAMPLE)

    async def send_events(self, count: int) -> None:
        await self.client.send_events([self._event() for _ in range(count)])

    async def renew_certificate(self) -> None:
        await self.client.renew(RenewRequest())

    async def fetch_network(self) -> None:
        """As a node does: what changed since it asked the last time, or all of it."""
        self._network = await up_to_date(self.client, self._network, self.member.node)

    async def fetch_policy(self) -> None:
        await self.client.policy()

    async def fetch_bundle(self) -> None:
        await self.client.policy_bundle((await self.client.policy()).version)

    async def check_head(self, first: int, second: int) -> None:
        await self.client.audit_consistency(first, second)

    def _event(self) -> Event:
        node = self.member.node
        detail = {"vni": 1, "src": "10.64.0.20", "dst": "10.64.0.21", "protocol": 6, "port": 443}
        return Event(
            os.urandom(16).hex(), time.time(), self.member.tenant, node, "flow.denied", actor=node, outcome="deny",
            rule="deny:default", reason="no grant allows it", suite="KR1", policy_version=1, detail=detail,
        )  # fmt: skip

    # -- its events socket ---------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Returns when the Welcome is there; pushes are counted from then on."""
        try:
            self._socket = await self.client.socket()
        except aiohttp.ClientError as error:
            raise ConnectionError(f"events: {error}") from None
        await self._take(await self._socket.receive())
        self._reading = asyncio.create_task(self._read(self._socket))

    async def disconnect(self) -> None:
        reading, opened, self._reading, self._socket = self._reading, self._socket, None, None
        if reading is not None and opened is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await opened.close()

    async def _read(self, opened: aiohttp.ClientWebSocketResponse) -> None:
        async for message in opened:
            await self._take(message)

    def follow(self, watch: AuditWatch | None) -> None:
        """From now on it does what a node does upon a push. None: it only counts them, for ten thousand decoders would take longer
        than the fabric."""
        self._watch = watch

    async def _take(self, message: aiohttp.WSMessage) -> None:
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionError(f"events: the fabric closed the socket ({message.data})")
        if self._watch is not None:
            await self._follow(self._watch, parse_to_node_untrusted(message.data))
        self.pushes += 1

    async def _follow(self, watch: AuditWatch, push: ToNode) -> None:
        """What kairos_node.daemon.Daemon asks of the fabric when it hears this."""
        match push:
            case Welcome():
                if (push.revision, push.mark) != (self._network.revision, self._network.mark):
                    await self.fetch_network()
                if push.audit_head is not None:
                    watch.shown(push.audit_head)
                    await watch.catch_up()
            case NetworkChanged():
                await self.fetch_network()
            case AuditHead(head, first, proof):
                watch.shown(head, first, proof)
                await watch.catch_up()
            case PolicyAnnouncement(record):
                await self.client.policy_bundle(record.version)


def devices_of(members: Iterable[Member], url: str, http: aiohttp.ClientSession) -> list[Device]:
    """A device for each member."""
    return [Device(each, _PooledClient(url, each.tenant, Signer(each.node, each.key), http)) for each in members]


async def connect_all(devices: Iterable[Device]) -> None:
    """Opens the events sockets of all, a few at a time. Raises what the first failure raises."""
    waiting = list(devices)

    async def work() -> None:
        while waiting:
            await waiting.pop().connect()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
