"""The fabric's HTTP API as a node uses it (docs/protocol.md §3, kairos/api). Answers are parsed, never trusted."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec

from kairos.api.enrollment import Certificate, Enrollment, FabricInfo, RenewRequest
from kairos.api.problem import CONTENT_TYPE, Problem, ProblemError
from kairos.api.push import ToFabric, ToNode, encode, parse_to_node_untrusted
from kairos.api.session import (
    Advertisement,
    IsolationReport,
    NetworkUpdate,
    PolicyRecord,
    PostureReport,
    SessionGrant,
    SessionRequest,
)
from kairos.api.telemetry import Sample
from kairos.audit.event import Accepted, Event, EventBatch
from kairos.audit.head import Consistency
from kairos.constants import BODY_MAX, BUNDLE_MAX, NETWORK_MAX, PUSH_MAX
from kairos.crypto import labels
from kairos.crypto.provider import SigningKey
from kairos.errors import UNREADABLE, BadMessage
from kairos.identity import transcript
from kairos.identity.signed_request import DEVICE_HEADER, NONCE_BYTES, SIGNATURE_HEADER, Proof

_T = TypeVar("_T")
_TIMEOUT = aiohttp.ClientTimeout(total=10, connect=5)  # the fabric waits up to 5 s for a gateway's verdict
_HEARTBEAT_S = 20.0
_LAST_PAGE = "n~"  # of the network: behind every node, so that it is empty


class SenselessAnswer(BadMessage, ConnectionError):
    """Whatever answered is not the fabric, or not in its senses: to those who wait out an outage this is one."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs the requests. node: empty while it enrolls."""

    node: str
    key: SigningKey


class Events:
    """An open events socket: iterate for pushes, `send` verdicts. Iteration ends with ConnectionError."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, message: ToFabric) -> None:
        """Raises ConnectionError."""
        try:
            await self._socket.send_str(encode(message))
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise ConnectionError(f"events: {error}") from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ToNode:
        """Raises ConnectionError when the socket is gone, BadMessage for a push that makes no sense."""
        message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.TEXT:
            return parse_to_node_untrusted(message.data)
        raise ConnectionError(f"events: the fabric closed the socket ({self._socket.close_code})")


class FabricClient:
    """One node's, or one joining device's, way to the fabric. Use it as an async context manager.

    Every call raises ProblemError with the fabric's own problem, ConnectionError when it can't be reached or answers
    in no known form, BadMessage when its answer is malformed.
    """

    def __init__(self, url: str, tenant: str, signer: Signer | None, clock: Callable[[], float] = time.time) -> None:
        self.tenant = tenant
        self.signer = signer
        base = urlsplit(url)
        self._origin = f"{base.scheme}://{base.netloc}"
        self._prefix = base.path.rstrip("/")
        self._clock = clock
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            timeout=_TIMEOUT, auto_decompress=False, headers={"Accept-Encoding": "identity"}
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    # -- enrollment --------------------------------------------------------------------------------------------------

    async def info(self) -> FabricInfo:
        """Public, unauthenticated: compare it with the pins."""
        return _parse(await self._call("GET", f"{self._prefix}/v1/fabric", signed=False), FabricInfo)

    async def enroll(self, body: bytes) -> bytes:
        """E1; the body of E3 as it came, for that is what E4 signs."""
        return await self._call("POST", self._path("enrollments"), body)

    async def respond(self, enrollment: str, body: bytes) -> Enrollment:
        """E4."""
        path = self._path(f"enrollments/{enrollment}/response")
        return _parse(await self._call("POST", path, body, signed=False), Enrollment)

    async def enrollment(self, enrollment: str) -> Enrollment:
        """E5, E6: how is it going?"""
        return _parse(await self._call("GET", self._path(f"enrollments/{enrollment}"), signed=False), Enrollment)

    async def renew(self, request: RenewRequest) -> Certificate:
        """A new certificate for our key, or for a new key."""
        return _parse(await self._call("POST", self._path("certificates"), msgspec.json.encode(request)), Certificate)

    # -- sessions and truth ------------------------------------------------------------------------------------------

    async def open_session(self, request: SessionRequest) -> SessionGrant:
        """T1."""
        return _parse(await self._call("POST", self._path("sessions"), msgspec.json.encode(request)), SessionGrant)

    async def end_session(self, session: str) -> None:
        """T7."""
        await self._call("DELETE", self._path(f"sessions/{session}"))

    async def report_posture(self, facts: dict[str, Any]) -> None:
        """What this device says of itself now."""
        await self._call("POST", self._path("posture"), msgspec.json.encode(PostureReport(facts)))

    async def advertise(self, routes: dict[str, list[str]]) -> None:
        """The networks this endpoint offers to lead to, by VNI; those of an earlier call that are not named are withdrawn."""
        await self._call("PUT", self._path("advertisement"), msgspec.json.encode(Advertisement(routes)))

    async def send_sample(self, sample: Sample) -> None:
        """How we are doing."""
        await self._call("POST", self._path("telemetry"), msgspec.json.encode(sample))

    async def report_isolation(self, report: IsolationReport) -> None:
        """A gateway's word that policy isolates an endpoint."""
        await self._call("POST", self._path("isolations"), msgspec.json.encode(report))

    async def network(self, since: int = 0, mark: str = "") -> NetworkUpdate:
        """What changed since a revision with this mark, or the first page of the whole network. since: 0 asks for the whole."""
        return await self._network(f"network?since={since}&mark={quote(mark)}")

    async def network_page(self, after: str) -> NetworkUpdate:
        """A further page of the whole network. after: `next` of the page before."""
        return await self._network(f"network?since=0&after={quote(after)}")

    async def _network(self, resource: str) -> NetworkUpdate:
        return _parse(await self._call("GET", self._path(resource), answer_max=NETWORK_MAX), NetworkUpdate)

    async def policy(self) -> PolicyRecord:
        return _parse(await self._call("GET", self._path("policy")), PolicyRecord)

    async def policy_bundle(self, version: int) -> bytes:
        return await self._call("GET", self._path(f"policy/bundle?version={version}"), answer_max=BUNDLE_MAX)

    async def audit_consistency(self, first: int, second: int) -> Consistency:
        """That the audit log of `second` events begins with the one of `first`: a claim, verify it."""
        path = self._path(f"audit/consistency?first={first}&second={second}")
        return _parse(await self._call("GET", path), Consistency)

    async def send_events(self, events: list[Event]) -> int:
        """How many the fabric took; sending an event twice is harmless."""
        body = msgspec.json.encode(EventBatch(events))
        return _parse(await self._call("POST", self._path("audit"), body), Accepted).accepted

    @asynccontextmanager
    async def events(self) -> AsyncIterator[Events]:
        """The socket that pushes arrive on (§8). Raises ProblemError or ConnectionError when it does not open."""
        target = self._path("events")
        try:
            socket = await self._session.ws_connect(
                self._origin + target,
                headers=self._headers("GET", target, b""),
                heartbeat=_HEARTBEAT_S,
                max_msg_size=PUSH_MAX,
            )
        except aiohttp.WSServerHandshakeError as error:
            raise await self._why_refused(error.status) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ConnectionError(f"events: {_said(error)}") from None
        async with socket:
            yield Events(socket)

    async def _why_refused(self, status: int) -> Exception:
        """A refused upgrade carries no body: an ordinary request is refused for the same reason, with words."""
        try:
            await self.network_page(_LAST_PAGE)
        except (ProblemError, ConnectionError) as error:
            return error
        return ConnectionError(f"events: the fabric answered {status}")

    # -- one request -------------------------------------------------------------------------------------------------

    @property
    def _session(self) -> aiohttp.ClientSession:
        assert self._http is not None, "use it as an async context manager"
        return self._http

    def _path(self, resource: str) -> str:
        return f"{self._prefix}/v1/tenants/{self.tenant}/{resource}"

    def _headers(self, method: str, target: str, body: bytes) -> dict[str, str]:
        """Proof of possession over this very request (§3)."""
        assert self.signer is not None, "this request is signed: the client needs a signer"
        timestamp, nonce = int(self._clock()), os.urandom(NONCE_BYTES)
        signed = transcript.signed_request(method, target, timestamp, nonce, body)
        proof = Proof(timestamp, nonce, self.signer.key.sign(signed, labels.REQUEST))
        headers = {SIGNATURE_HEADER: str(proof)}
        return headers | {DEVICE_HEADER: self.signer.node} if self.signer.node else headers

    async def _call(
        self, method: str, target: str, body: bytes = b"", *, signed: bool = True, answer_max: int = BODY_MAX
    ) -> bytes:
        headers = self._headers(method, target, body) if signed else {}
        if body:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method, self._origin + target, data=body or None, headers=headers, allow_redirects=False
            ) as response:
                answer = await _read(response, answer_max)
                if 200 <= response.status < 300:
                    return answer
                raise _problem_untrusted(response.status, response.content_type, answer)
        except SenselessAnswer:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ConnectionError(f"fabric {self._origin}: {_said(error)}") from None


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        data += chunk
        if len(data) > most:
            raise SenselessAnswer(f"the fabric's answer is longer than {most} bytes")
    return bytes(data)


def _problem_untrusted(status: int, content_type: str, body: bytes) -> Exception:
    """The fabric's problem, or that whatever answered is not the fabric."""
    try:
        if content_type == CONTENT_TYPE:
            problem = msgspec.json.decode(body, type=Problem)
            return ProblemError(
                problem.code, problem.status, problem.title, problem.detail, retry_after_s=problem.retry_after_s
            )
    except UNREADABLE:
        pass
    return ConnectionError(f"HTTP {status} with no problem document: is this the fabric's URL?")


def _parse(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE as error:
        raise SenselessAnswer(f"the fabric's answer: {error}") from None


def _said(error: Any) -> str:
    """Why the fabric can't be reached, for a person."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error)
    return "no answer in time" if isinstance(error, asyncio.TimeoutError) else str(error) or type(error).__name__
