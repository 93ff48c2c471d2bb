"""The Relay Durable Object of one gateway (docs/design/0002-two-workers.md).

It passes frames between the gateway's socket and one socket for each endpoint's channel, and counts what is under way.
It holds nothing that is not in its storage, its sockets' attachments, or known to the control plane, so the runtime may
evict it from memory while its sockets stay open.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import js
import msgspec
from pyodide.ffi import to_js

from kairos.api.problem import CONTENT_TYPE, Problem
from kairos.api.relay import Close, Open, Opened, Renewed
from kairos.api.session import Cut, Introspected
from kairos.errors import BadMessage
from kairos.wire.frame import (
    FLAG_DATAGRAMS,
    FRAME_PAYLOAD_MAX,
    HEADER,
    PING_PAYLOAD_MAX,
    FrameHeader,
    FrameType,
    parse_credit_untrusted,
    parse_frame_header_untrusted,
)
from kairos.wire.frame import encode as frame
from kairos.wire.websocket import NORMAL, close_code_to_answer
from workers import DurableObject, Response

from .background import background
from .introspection import Introspections, TokenRefused, introspect
from .meter import RENEWAL_COST, Ruling
from .sockets import End, Sockets

# The version of what outlives the object's memory: `number` and `gateway` in its storage, the sockets' tags and
# attachments.
_SCHEMA = 1
_FORWARDED = (FrameType.DATAGRAMS, FrameType.STREAM, FrameType.CREDIT, FrameType.CLOSE)
_FRAME_MAX = HEADER.size + FRAME_PAYLOAD_MAX
_TOKEN_MAX = 256
_RETRY_S = 2
_ENDED, _BAD = 4001, 4002  # WebSocket close codes
_FAULTS = {"bad-message", "wrong-channel", "credit-exceeded", "flooding"}


class Relay(DurableObject):  # type: ignore[misc]
    """The sockets of one gateway and of the endpoints that reach it through this relay."""

    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        self._sockets = Sockets(ctx)
        self._known = Introspections()
        self._cuts: dict[str, int] = {}  # "node/..." or "session/..." -> Unix time until which it is refused
        self._schema = int(ctx.storage.kv.get("schema") or 1)  # it was not recorded at first

    # -- a new socket --------------------------------------------------------------------------------------------------

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
            who = await self._introspect(token, gateway, request.headers.get("cf-connecting-ip", ""))
        except TokenRefused as error:
            return problem_response(error.problem)
        if who.role != "gateway" and self._sockets.gateway is None:
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

    def _admit(self, socket: Any, who: Introspected, gateway: str) -> None:
        """Gives a socket its number. A session has one socket here, the newest; a gateway knows nothing of the
        channels of its socket before this one."""
        replaced = self._sockets.everyone() if who.role == "gateway" else self._sockets.of_session(who.session)
        for old in replaced:
            self._expel(old, "replaced", f"the {who.role} connected again")
        kept = self.ctx.storage.kv
        number = int(kept.get("number") or 0) % 0xFFFFFFFF + 1
        kept.put("number", number)
        if kept.get("gateway") != gateway:
            kept.put("gateway", gateway)
        if kept.get("schema") != _SCHEMA:
            kept.put("schema", _SCHEMA)
        end = self._sockets.accept(socket, number, who.role, who.node, who.session, who.expires_at)
        if not end.is_gateway:
            end.send_frame(FrameType.OPENED, Opened(number, gateway), number)
            self._send_to_gateway(FrameType.OPEN, number, Open(who.node, who.tenant, who.session, who.expires_at))

    # -- frames: plain functions, because a coroutine for each frame would halve what passes ---------------------------

    def webSocketMessage(self, socket: Any, message: Any) -> None:
        sender = self._sockets.of(socket)
        if sender is None or self._schema > _SCHEMA:
            return
        if isinstance(message, str):
            self._expel(sender, "bad-message", "frames are binary")
            return
        try:
            size = message.byteLength
            if size > _FRAME_MAX:  # before it is copied into the interpreter's memory
                raise BadMessage(f"frame of {size} bytes")
            octets = message.to_bytes()
            header = parse_frame_header_untrusted(octets, size)
            if header.type not in _FORWARDED:
                self._own_frame(sender, header.type, octets[HEADER.size :])
            elif sender.is_gateway:
                channel = self._sockets.numbered(header.channel)
                if channel is not None and not channel.is_gateway:  # else it has just ended
                    self._forward(sender, channel, channel, header, message, octets)
            elif sender.number == header.channel:
                if self._sockets.gateway is not None:
                    self._forward(sender, self._sockets.gateway, sender, header, message, octets)
            else:
                self._expel(sender, "wrong-channel", f"channel {header.channel} is not yours")
        except BadMessage as error:
            self._expel(sender, "bad-message", str(error))

    # The runtime binds the arguments of a handler by its signature, in Python, at each call: a third of a frame's cost.
    # A handler without a readable signature is given the arguments as they come (pyodide.code.relaxed_call).
    webSocketMessage.__signature__ = NotImplemented  # type: ignore[attr-defined]

    def _forward(
        self, sender: End, receiver: End, channel: End, header: FrameHeader, message: Any, octets: bytes
    ) -> None:
        """Passes a frame on. channel: the endpoint's end; octets: the bytes of `message`. Raises BadMessage."""
        ruling = self._rule(sender, channel, header, octets)
        if ruling is Ruling.PASS:
            receiver.send_buffer(message)
            if header.type is FrameType.CLOSE and self._sockets.end(channel):
                channel.socket.close(NORMAL, "closed")  # both ends know
        elif ruling is not Ruling.DROP:
            # The channel ends, whichever end broke the rule: the gateway needs its socket for the others.
            self._expel(channel, ruling.value, "beyond what the other end takes")

    def _rule(self, sender: End, channel: End, header: FrameHeader, octets: bytes) -> Ruling:
        """Windows and floods. Raises BadMessage."""
        meter, size = channel.meter, len(octets) - HEADER.size
        ours, theirs = meter.from_endpoint, meter.from_gateway
        if sender.is_gateway:
            ours, theirs = theirs, ours
        if size and (header.type is FrameType.DATAGRAMS or header.type is FrameType.STREAM):
            return ours.sent(header.type, size)
        if header.type is FrameType.CREDIT:
            theirs.granted(parse_credit_untrusted(octets[HEADER.size :]), datagrams=header.flags == FLAG_DATAGRAMS)
        return Ruling.PASS if sender.is_gateway else meter.bare(time.time())

    def _own_frame(self, sender: End, kind: FrameType, payload: bytes) -> None:
        """A frame for the relay itself. Raises BadMessage."""
        ruling = Ruling.PASS
        if kind is FrameType.RENEW:
            ruling = sender.meter.bare(time.time(), RENEWAL_COST)
        elif not sender.is_gateway:
            ruling = sender.meter.bare(time.time())
        if ruling is not Ruling.PASS:
            self._expel(sender, ruling.value, "more frames than there is reason for")
        elif kind is FrameType.PING and len(payload) <= PING_PAYLOAD_MAX:
            sender.send_buffer(to_js(frame(FrameType.PONG, 0, payload)))
        elif kind is FrameType.RENEW and len(payload) <= _TOKEN_MAX:
            self._start_renewal(sender, payload.decode("ascii", "replace"))
        elif kind is not FrameType.PONG:
            raise BadMessage(f"a node does not send {kind.name} of {len(payload)} bytes")

    # -- the end of a socket -------------------------------------------------------------------------------------------

    def webSocketClose(self, socket: Any, code: int, reason: str, was_clean: bool) -> None:
        end = self._sockets.of(socket)
        if end is not None:
            self._disconnected(end)
        socket.close(close_code_to_answer(code), reason)

    def webSocketError(self, socket: Any, error: Any) -> None:
        end = self._sockets.of(socket)
        if end is not None:
            self._disconnected(end)

    async def alarm(self, info: Any = None) -> None:
        """T7 at the relay: a socket ends with its session by this clock, even if the control plane is silent."""
        if self._schema > _SCHEMA:
            return
        now = time.time()
        for end in list(self._sockets.everyone()):
            if end.expires_at <= now:
                self._expel(end, "session-ended", "the session was not renewed")
        later = [end.expires_at for end in self._sockets.everyone()]
        if later:
            await self._wake_by(min(later))

    async def _wake_by(self, unix: int) -> None:
        """The alarm stands at the earliest end of any socket."""
        due = await self.ctx.storage.getAlarm()
        if due is None or due > unix * 1000:
            await self.ctx.storage.setAlarm(unix * 1000)

    def _cut(self, cut: Cut) -> None:
        """Closes the open sockets, and refuses those whose introspection is under way: it may have been answered
        before the control plane decided to cut."""
        now = time.time()
        self._cuts = {tag: until for tag, until in self._cuts.items() if until > now}
        self._known.cut(cut.node, cut.session)
        ends: list[End] = []
        if cut.node:
            self._cuts[f"node/{cut.node}"] = cut.until
            ends += self._sockets.of_node(cut.node)
        if cut.session:
            self._cuts[f"session/{cut.session}"] = cut.until
            ends += self._sockets.of_session(cut.session)
        for end in ends:
            self._expel(end, "revoked", "the fabric cut this session")

    def _expel(self, end: End, code: str, reason: str) -> None:
        """Sends CLOSE with the reason and closes the socket. Does nothing if it has ended."""
        if self._sockets.end(end):
            end.send_frame(FrameType.CLOSE, Close(code, reason), end.channel)
            self._announce(end, code)
            end.socket.close(_BAD if code in _FAULTS else _ENDED, code)

    def _disconnected(self, end: End) -> None:
        """The peer closed the socket, or the connection broke."""
        if self._sockets.end(end):
            self._announce(end, "endpoint-gone")

    def _announce(self, end: End, code: str) -> None:
        """Tells the other side of a socket that has ended. A gateway's end is the end of all its channels."""
        if not end.is_gateway:
            self._send_to_gateway(FrameType.CLOSE, end.number, Close(code))
            return
        for endpoint in self._sockets.endpoints():
            self._expel(endpoint, "gateway-gone", "the gateway left the relay")

    def _send_to_gateway(self, kind: FrameType, channel: int, message: Open | Close) -> None:
        if self._sockets.gateway is not None:
            self._sockets.gateway.send_frame(kind, message, channel)

    # -- sessions ------------------------------------------------------------------------------------------------------

    def _start_renewal(self, end: End, token: str) -> None:
        if end.is_renewing:
            self._expel(end, "flooding", "a renewal is under way")
            return
        end.is_renewing = True
        background(self.ctx, self._renew(end, token))

    async def _renew(self, end: End, token: str) -> None:
        """Renews the session of one socket by a newer token."""
        try:
            who = await self._introspect_with_retries(end, token)
        except TokenRefused as error:
            self._expel(end, error.problem.code, error.problem.detail)
            return
        finally:
            end.is_renewing = False
        if self._sockets.numbered(end.number) is not end:
            return
        if who.session != end.session:
            self._expel(end, "unauthorized", "this token is of another session")
            return
        end.expires_at = who.expires_at
        end.attach()
        end.send_frame(FrameType.RENEWED, Renewed(who.expires_at), end.channel)

    async def _introspect_with_retries(self, end: End, token: str) -> Introspected:
        """Asks until the control plane answers or the session is about to expire. Raises TokenRefused."""
        gateway = str(self.ctx.storage.kv.get("gateway"))
        while True:
            try:
                return await self._introspect(token, gateway)
            except TokenRefused as error:
                if not error.is_outage or end.expires_at - time.time() < _RETRY_S:
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _introspect(self, token: str, gateway: str, source: str = "") -> Introspected:
        """Who holds the token. While the control plane does not answer, its last answer about the same token counts.

        Raises TokenRefused.
        """
        try:
            who = await introspect(self.env.CONTROL, self.env.INTROSPECTION_KEY, token, gateway, source)
        except TokenRefused as error:
            known = self._known.of(token) if error.is_outage else None
            if known is None:
                raise
            who = known
        if max(self._cuts.get(f"node/{who.node}", 0), self._cuts.get(f"session/{who.session}", 0)) > time.time():
            raise TokenRefused(Problem("urn:kairos:problem:unauthorized", "The fabric cut this session", 401))
        self._known.learn(token, who)
        return who


def _newer(schema: int) -> Problem:
    detail = f"the object has schema {schema}, this release of the relay knows {_SCHEMA}: deploy the newer release"
    return Problem(
        "urn:kairos:problem:schema-newer", "The relay's code is older than its data", 503, detail, retry_after_s=60
    )


def problem_response(problem: Problem) -> Response:
    return Response(
        msgspec.json.encode(problem).decode(), status=problem.status, headers={"content-type": CONTENT_TYPE}
    )
