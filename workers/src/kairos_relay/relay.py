"""The Relay Durable Object of one gateway (docs/design/0002-two-workers.md).

Every socket has a number that is never given twice; an endpoint's is its channel. A socket's first tag says what it is, `gateway/7` or
`endpoint/8`; the others name its session and its node. What else must outlive an eviction is in its attachment, so the object may be
forgotten while its sockets stay open. Frames pass as the buffer they came in; each look at something of JavaScript costs microseconds.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import js
import msgspec
from pyodide.ffi import JsException, to_js

from kairos.api.problem import CONTENT_TYPE, Problem
from kairos.api.relay import Close, Open, Opened, Renewed, encode
from kairos.api.session import Cut, Introspected
from kairos.errors import BadMessage
from kairos.wire.frame import (
    HEADER,
    PING_PAYLOAD_MAX,
    FrameHeader,
    FrameType,
    parse_credit_untrusted,
    parse_frame_header_untrusted,
)
from kairos.wire.frame import encode as frame
from workers import DurableObject, Response

from .introspection import Introspections, TokenRefused, introspect
from .meter import Meter, Ruling

GATEWAY = "gateway"
# The version of what outlives the object's memory: `number` and `gateway` in its storage, the sockets' tags and attachments.
_SCHEMA = 1
_FORWARDED = {FrameType.STREAM, FrameType.CREDIT, FrameType.DATAGRAMS, FrameType.CLOSE}
_NORMAL, _ENDED, _BAD = 1000, 4001, 4002  # WebSocket close codes
_TOKEN_MAX = 256
_RETRY_S = 2
_FAULTS = {"bad-message", "wrong-channel", "credit-exceeded", "flooding"}


class Relay(DurableObject):  # type: ignore[misc]
    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self._meter = Meter()
        self._known = Introspections()
        self._renewing: set[int] = set()  # sockets whose renewal is being looked up
        self._cuts: dict[str, int] = {}  # tag of a node or session -> until when (Unix s) it is let in nowhere
        # By number. One that was closed is not among them, though it may ignore that and go on sending: then it is heard no more.
        self._live: dict[int, Any] = {}
        self._gateway = 0  # the number of the gateway's socket, which must be live
        self._schema = int(ctx.storage.kv.get("schema") or 1)  # it was not recorded at first
        for socket in () if self._schema > _SCHEMA else ctx.getWebSockets():
            if not socket.deserializeAttachment().ended:
                role, number = self._who(socket)
                self._remember(role, number, socket)

    async def fetch(self, request: Any) -> Any:
        if self._schema > _SCHEMA:
            return problem_response(_newer(self._schema))
        path = urlsplit(request.url).path
        if path.startswith("/internal/cut"):
            self._cut(msgspec.json.decode((await request.text()).encode(), type=Cut))
            return Response(None, status=204)
        gateway = path.rsplit("/", 1)[-1]
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            who = await self._introspect(token, gateway)
        except TokenRefused as error:
            return problem_response(error.problem)
        if who.role != GATEWAY and self._gateway not in self._live:
            return problem_response(
                Problem(
                    "urn:kairos:problem:gateway-unavailable", "The gateway is not connected", 503, f"{gateway} is not at the relay",
                    retry_after_s=1,
                )
            )  # fmt: skip
        client, server = js.WebSocketPair.new().object_values()
        self._admit(server, who, gateway)
        await self._wake_by(who.expires_at)
        return Response(None, status=101, web_socket=client)

    # -- frames: plain functions, for a coroutine a frame would halve what passes ---------------------------------------

    def webSocketMessage(self, socket: Any, message: Any) -> None:
        role, number = self._who(socket)
        if number not in self._live:
            return
        if isinstance(message, str):
            self._expel(socket, "bad-message", "frames are binary")
            return
        size = message.byteLength
        try:
            header = parse_frame_header_untrusted(message.slice(0, HEADER.size).to_bytes(), size)
            if header.type not in _FORWARDED:
                self._own_frame(socket, header.type, message, size - HEADER.size)
            elif role == GATEWAY or number == header.channel:
                self._forward(socket, header, message, size - HEADER.size, from_gateway=role == GATEWAY)
            else:
                self._expel(socket, "wrong-channel", f"channel {header.channel} is not yours")
        except BadMessage as error:
            self._expel(socket, "bad-message", str(error))

    def _forward(self, socket: Any, header: FrameHeader, message: Any, size: int, *, from_gateway: bool) -> None:
        """To the other end of the channel. Raises BadMessage."""
        to = header.channel if from_gateway else self._gateway
        other = self._live.get(to)
        if other is None or (from_gateway and to == self._gateway):
            return  # it has just gone, or never was
        ruling = self._rule(header, message, size, from_gateway=from_gateway)
        if ruling is Ruling.PASS:
            _send(other, message)
            if header.type is FrameType.CLOSE:
                self._close(other if from_gateway else socket)
        elif ruling is not Ruling.DROP:
            # The channel ends, whichever end overdrew it; a gateway keeps its socket for the others.
            self._expel(other if from_gateway else socket, ruling.value, "beyond what the other end takes")

    def _rule(self, header: FrameHeader, message: Any, size: int, *, from_gateway: bool) -> Ruling:
        """Credit and floods. Raises BadMessage."""
        if size and header.type in (FrameType.STREAM, FrameType.DATAGRAMS):
            return self._meter.sent(header, size, from_gateway=from_gateway)
        if header.type is FrameType.CREDIT:
            payload = message.slice(HEADER.size, HEADER.size + 5).to_bytes()
            self._meter.granted(header, parse_credit_untrusted(payload), from_gateway=from_gateway)
        return Ruling.PASS if from_gateway else self._meter.bare(header.channel, time.time())

    def webSocketClose(self, socket: Any, code: int, reason: str, was_clean: bool) -> None:
        self._gone(socket)
        socket.close(_NORMAL if code == 1005 else code, reason)

    def webSocketError(self, socket: Any, error: Any) -> None:
        self._gone(socket)

    async def alarm(self, info: Any = None) -> None:
        """T7 at the relay: a socket ends with its session, by this clock, whoever else is silent."""
        now = time.time()
        later = []
        for socket in self._everyone():
            expires_at = int(socket.deserializeAttachment().expires_at)
            if expires_at > now:
                later.append(expires_at)
            else:
                self._expel(socket, "session-ended", "the session was not renewed")
        if later:
            await self._wake_by(min(later))

    # -- sockets --------------------------------------------------------------------------------------------------------

    def _admit(self, socket: Any, who: Introspected, gateway: str) -> None:
        """Gives a new socket its number, or makes it the gateway's. A session has one socket here, the newest."""
        for old in self._everyone() if who.role == GATEWAY else self._live_of("session", who.session):
            self._expel(old, "replaced", f"the {who.role} connected again")  # a gateway knows nothing of old channels
        kept = self.ctx.storage.kv
        number = int(kept.get("number") or 0) % 0xFFFFFFFF + 1
        kept.put("number", number)
        kept.put("gateway", gateway)
        kept.put("schema", _SCHEMA)
        tags = [f"{who.role}/{number}", f"session/{who.session}", f"node/{who.node}"]
        self.ctx.acceptWebSocket(socket, to_js(tags))
        _attach(socket, who.session, who.expires_at, ended=False)
        self._remember(who.role, number, socket)
        if who.role != GATEWAY:
            socket.send(to_js(frame(FrameType.OPENED, number, encode(Opened(number, gateway)))))
            self._tell_gateway(FrameType.OPEN, number, Open(who.node, who.tenant, who.session, who.expires_at))

    def _who(self, socket: Any) -> tuple[str, int]:
        """Role and number."""
        role, _, number = self.ctx.getTags(socket)[0].partition("/")
        return role, int(number)

    def _remember(self, role: str, number: int, socket: Any) -> None:
        self._live[number] = socket
        if role == GATEWAY:
            self._gateway = number

    def _everyone(self) -> list[Any]:
        """The gateway last, so that endpoints hear the reason and not that it left."""
        return [socket for _, socket in sorted(self._live.items(), key=lambda item: item[0] == self._gateway)]

    def _live_of(self, what: str, name: str) -> list[Any]:
        """The sockets of a node or a session."""
        sockets = list(self.ctx.getWebSockets(f"{what}/{name}"))
        return [each for each in sockets if not each.deserializeAttachment().ended]

    def _tell_gateway(self, kind: FrameType, channel: int, message: Open | Close) -> None:
        if self._gateway in self._live:
            _send(self._live[self._gateway], to_js(frame(kind, channel, encode(message))))

    def _expel(self, socket: Any, code: str, reason: str) -> None:
        """Says why, and closes. What has ended already is left alone."""
        role, number = self._who(socket)
        if number in self._live:
            _send(socket, to_js(frame(FrameType.CLOSE, _channel(role, number), encode(Close(code, reason)))))
            self._gone(socket, code)
            socket.close(_BAD if code in _FAULTS else _ENDED, code)

    def _gone(self, socket: Any, code: str = "endpoint-gone") -> None:
        """The other side of a socket that ended is told, once: one that we expelled also reports its own close. A gateway's
        end is the end of all its channels."""
        role, number = self._who(socket)
        if not self._end(socket):
            return
        if role != GATEWAY:
            self._tell_gateway(FrameType.CLOSE, number, Close(code))
        else:
            for endpoint in self._everyone():
                self._expel(endpoint, "gateway-gone", "the gateway left the relay")

    def _close(self, socket: Any) -> None:
        """An end said CLOSE itself: nobody needs to be told."""
        self._end(socket)
        socket.close(_NORMAL, "closed")

    def _end(self, socket: Any) -> bool:
        """From now on it is heard no more, also after an eviction. False: it had ended before."""
        _, number = self._who(socket)
        if self._live.pop(number, None) is None:
            return False
        self._meter.forget(number)
        facts = socket.deserializeAttachment()
        _attach(socket, str(facts.session), int(facts.expires_at), ended=True)
        return True

    def _cut(self, cut: Cut) -> None:
        """Ends what is open and refuses what is just being looked up: its introspection may have been answered before the
        control plane knew better."""
        now = time.time()
        self._cuts = {tag: until for tag, until in self._cuts.items() if until > now}
        self._known.cut(cut.node, cut.session)
        for tag in (f"node/{cut.node}", f"session/{cut.session}"):
            if not tag.endswith("/"):
                self._cuts[tag] = cut.until
                for socket in self._live_of(*tag.split("/")):
                    self._expel(socket, "revoked", "the fabric cut this session")

    # -- frames for the relay itself ------------------------------------------------------------------------------------

    def _own_frame(self, socket: Any, kind: FrameType, message: Any, size: int) -> None:
        """Raises BadMessage."""
        role, number = self._who(socket)
        if role != GATEWAY and self._meter.bare(number, time.time()) is not Ruling.PASS:
            self._expel(socket, "flooding", "more frames than there is reason for")
        elif kind is FrameType.PING and size <= PING_PAYLOAD_MAX:
            socket.send(to_js(frame(FrameType.PONG, 0, message.slice(HEADER.size).to_bytes())))
        elif kind is FrameType.RENEW and size <= _TOKEN_MAX:
            self._start_renewal(socket, message.slice(HEADER.size).to_bytes())
        elif kind is not FrameType.PONG:
            raise BadMessage(f"a node does not send {kind.name} of {size} bytes")

    def _start_renewal(self, socket: Any, token: bytes) -> None:
        role, number = self._who(socket)
        if number in self._renewing:
            self._expel(socket, "flooding", "a renewal is under way")
            return
        self._renewing.add(number)
        renewal = self._renew(socket, role, number, token.decode("ascii", "replace"))
        self.ctx.waitUntil(asyncio.ensure_future(renewal))

    async def _renew(self, socket: Any, role: str, number: int, token: str) -> None:
        """A renewed session lengthens the life of its own socket only."""
        try:
            who = await self._introspect_patiently(socket, token)
        except TokenRefused as error:
            self._expel(socket, error.problem.code, error.problem.detail)
            return
        finally:
            self._renewing.discard(number)
        if number not in self._live:
            return
        if who.session != str(socket.deserializeAttachment().session):
            self._expel(socket, "unauthorized", "this token is of another session")
        else:
            _attach(socket, who.session, who.expires_at, ended=False)
            _send(socket, to_js(frame(FrameType.RENEWED, _channel(role, number), encode(Renewed(who.expires_at)))))

    async def _introspect_patiently(self, socket: Any, token: str) -> Introspected:
        """A control plane that is away for a moment costs nobody a session that still has time. Raises TokenRefused."""
        gateway = str(self.ctx.storage.kv.get("gateway"))
        while True:
            try:
                return await self._introspect(token, gateway)
            except TokenRefused as error:
                left = int(socket.deserializeAttachment().expires_at) - time.time()
                if error.problem.status < 500 or left < _RETRY_S:
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _introspect(self, token: str, gateway: str) -> Introspected:
        """A control plane that is away is no reason to refuse a token that it has vouched for. Raises TokenRefused."""
        try:
            who = await introspect(self.env.CONTROL, self.env.INTROSPECTION_KEY, token, gateway)
        except TokenRefused as error:
            known = self._known.of(token) if error.problem.status >= 500 else None
            if known is None:
                raise
            who = known
        if max(self._cuts.get(f"node/{who.node}", 0), self._cuts.get(f"session/{who.session}", 0)) > time.time():
            raise TokenRefused(Problem("urn:kairos:problem:unauthorized", "The fabric cut this session", 401))
        self._known.learn(token, who)
        return who

    async def _wake_by(self, unix: int) -> None:
        """The alarm stands at the earliest end of any socket."""
        due = await self.ctx.storage.getAlarm()
        if due is None or due > unix * 1000:
            await self.ctx.storage.setAlarm(unix * 1000)


def _newer(schema: int) -> Problem:
    detail = f"the object has schema {schema}, this release of the relay knows {_SCHEMA}: deploy the newer release"
    return Problem(
        "urn:kairos:problem:schema-newer", "The relay's code is older than its data", 503, detail, retry_after_s=60
    )


def _channel(role: str, number: int) -> int:
    """What a frame to this socket names: a gateway's own socket is no channel."""
    return 0 if role == GATEWAY else number


def _attach(socket: Any, session: str, expires_at: int, *, ended: bool) -> None:
    facts = {"session": session, "expires_at": expires_at, "ended": ended}
    socket.serializeAttachment(to_js(facts, dict_converter=js.Object.fromEntries))


def _send(socket: Any, message: Any) -> None:
    """A socket that is listed but about to end takes nothing more; that is no reason to stop serving the others."""
    try:
        socket.send(message)
    except JsException:
        return


def problem_response(problem: Problem) -> Response:
    return Response(
        msgspec.json.encode(problem).decode(), status=problem.status, headers={"content-type": CONTENT_TYPE}
    )
